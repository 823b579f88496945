/** ‹ 2/3 ›: goes through the versions of a message, or of a text's last continuation. */

import { el, iconButton } from "./dom.js";

export class Switches {
  #at = -1;
  #number = el("span", { "aria-live": "polite" });
  #earlier;
  #later;
  element;

  /** @param {(at: number) => void} choose shows the version of this index */
  constructor(choose) {
    this.#earlier = iconButton("before", "Earlier version", () => choose(this.#at - 1));
    this.#later = iconButton("after", "Later version", () => choose(this.#at + 1));
    const props = { class: "versions", role: "group", "aria-label": "Versions" };
    const parts = [this.#earlier, this.#number, this.#later];
    this.element = el("div", { ...props, "data-testid": "versions" }, ...parts);
  }

  /**
   * @param {number} at index of the one that is shown; -1: none is
   * @param {number} count
   */
  render(at, count) {
    this.#at = at;
    const number = `${at + 1}/${count}`;
    if (this.#number.textContent !== number) this.#number.textContent = number;
    const focused = document.activeElement;
    this.#earlier.disabled = at <= 0;
    this.#later.disabled = at >= count - 1;
    if (focused === this.#earlier || focused === this.#later) this.focus(focused);
  }

  /** @param {Element | null} pressed the button of that label, or the other where it cannot be pressed */
  focus(pressed) {
    const label = pressed?.getAttribute("aria-label");
    const [first, second] = [this.#earlier, this.#later];
    const same = [first, second].find((each) => each.getAttribute("aria-label") === label);
    (same && !same.disabled ? same : first.disabled ? second : first).focus();
  }
}
