/**
 * @file Focus never falls to the page's body: where what has it goes away, is hidden or disabled, it
 * goes to what took its place, or to what is nearest to where it was.
 */

import { byId } from "./dom.js";

const FOCUSABLE = "a[href]:not(.skip), button, input, select, textarea, summary, [tabindex]";

/** @type {{element: HTMLElement, around: HTMLElement[]} | null} what has the focus, and its ancestors */
let last = null;

/** @param {HTMLElement} element */
function canHave(element) {
  const usable =
    element.isConnected && !element.matches(":disabled") && !element.closest("[inert]");
  return usable && element.tabIndex >= 0 && element.checkVisibility({ visibilityProperty: true });
}

/** @param {HTMLElement} element @returns {string} what it is called, and does */
const labelOf = (element) => element.getAttribute("aria-label") ?? element.textContent ?? "";

/**
 * @param {HTMLElement} lost
 * @param {HTMLElement[]} around
 */
function heirOf(lost, around) {
  for (const place of around) {
    if (!place.isConnected || place === document.body || !place.checkVisibility()) continue;
    const found = /** @type {HTMLElement[]} */ ([...place.querySelectorAll(FOCUSABLE)]);
    const able = found.filter(canHave);
    const twin = able.find(
      (other) => other.tagName === lost.tagName && labelOf(other) === labelOf(lost),
    );
    if (twin ?? able[0]) return twin ?? able[0];
  }
  return byId("main", HTMLElement);
}

function keep() {
  if (!last) return;
  const { activeElement, body } = document;
  const { element, around } = last;
  if (activeElement !== body && activeElement !== element && activeElement !== null) return;
  if (element.tabIndex < 0 ? element.checkVisibility() : canHave(element)) return;
  heirOf(element, around).focus({ preventScroll: true });
}

export function startFocus() {
  document.addEventListener("focusin", ({ target }) => {
    const element = /** @type {HTMLElement} */ (target);
    const around = [];
    for (let place = element.parentElement; place; place = place.parentElement) around.push(place);
    last = { element, around };
  });
  document.addEventListener("focusout", ({ target }) => {
    // someone clicked beside it, or another window has the focus: there is nothing to mend
    setTimeout(() => {
      const element = /** @type {HTMLElement} */ (target);
      if (last?.element === element && document.activeElement !== element) {
        if (element.checkVisibility() && !element.matches(":disabled")) last = null;
        else keep();
      }
    });
  });
  const changes = { childList: true, subtree: true, attributes: true };
  const attributeFilter = ["hidden", "disabled", "inert", "open", "class"];
  new MutationObserver(keep).observe(document.body, { ...changes, attributeFilter });
}
