/** The answer for screen readers: each paragraph once, when it is finished; never single tokens. */

import { byId, el } from "./dom.js";

const log = byId("spoken", HTMLElement);
const CLEAR_AFTER_MS = 5000;
let spoken = 0;
let clearing = 0;

/** @param {string[]} paragraphs that were there before the answer went on: they are not read again */
export function beginSpeaking(paragraphs) {
  spoken = paragraphs.length;
}

/** @param {string[]} paragraphs that will not change any more, from the answer's first on */
export function speak(paragraphs) {
  clearTimeout(clearing);
  for (const text of paragraphs.slice(spoken)) log.append(el("p", {}, text));
  spoken = Math.max(spoken, paragraphs.length);
}

/** @param {string[]} paragraphs all of them; the log is emptied once they have been read out */
export function finishSpeaking(paragraphs) {
  speak(paragraphs);
  spoken = 0;
  clearing = setTimeout(() => log.replaceChildren(), CLEAR_AFTER_MS);
}
