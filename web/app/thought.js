/** What a model thought before it answered: folded above the answer. */

import { el } from "./dom.js";
import { duration } from "./format.js";
import { Prose } from "./markdown.js";

/** @import {Message} from "./types.js" */

export class Thought {
  #prose = new Prose();
  #title = el("summary");
  element = el("details", { class: "thought", "data-testid": "reasoning", hidden: true });
  /** @type {{text: string, growing: boolean}} */
  #last = { text: "", growing: false };

  constructor() {
    this.#prose.element.dataset.testid = "reasoning-text";
    this.element.append(this.#title, this.#prose.element);
    this.element.addEventListener("toggle", () => this.#show());
  }

  /**
   * @param {Message} message
   * @param {boolean} writing whether it is being written now
   */
  render({ reasoning = "", thought, content, calls, calling }, writing) {
    const growing = writing && !content && !calls && !calling;
    this.element.hidden = !reasoning;
    this.element.classList.toggle("live", growing);
    const took = thought === undefined ? "Thoughts" : `Thought for ${duration(thought)}`;
    const title = growing ? "Thinking…" : took;
    if (this.#title.textContent !== title) this.#title.textContent = title;
    this.#last = { text: reasoning, growing };
    this.#show();
  }

  /** What is folded costs nothing while it grows. */
  #show() {
    const { text, growing } = this.#last;
    if (this.element.open || !growing) this.#prose.render(text, growing);
  }
}
