/** Calls of tools in an answer: each folded, with its arguments. This page has no tools to run. */

import { el } from "./dom.js";
import { nameOf } from "./names.js";

/** @import {Called, Message} from "./types.js" */

/**
 * What was said, and the calls as the model wrote them: so that nothing of an answer is missing where
 * it is read as text, whether or not the chat template knows calls without results.
 * @param {Pick<Message, "content" | "calls" | "calling">} message
 */
export const saidIn = ({ content, calls = [], calling = "" }) =>
  [content.trimEnd(), ...calls.map(({ raw }) => raw), calling].filter(Boolean).join("\n");

/** @param {Called} call @returns {string} */
export const argumentsOf = (call) => JSON.stringify(call.arguments, null, 2);

/**
 * @param {string} title
 * @param {string} text
 * @param {string} note
 */
function folded(title, text, note) {
  return el(
    "details",
    { class: "call", "data-testid": "tool-call" },
    el("summary", {}, title),
    el("pre", { tabindex: 0, dir: "ltr", "data-testid": "tool-call-text" }, el("code", {}, text)),
    el("p", { class: "quiet" }, note),
  );
}

export class CallList {
  element = el("div", { class: "calls", hidden: true });
  #shown = 0;
  /** @type {HTMLElement | null} the call that is being written */
  #growing = null;

  /**
   * @param {Pick<Message, "calls" | "calling">} message
   * @param {boolean} writing whether it is being written now
   */
  render({ calls = [], calling = "" }, writing) {
    if (calls.length < this.#shown) {
      this.#shown = 0;
      this.element.replaceChildren();
    }
    this.#growing?.remove();
    for (const call of calls.slice(this.#shown)) this.element.append(this.#made(call));
    this.#shown = calls.length;
    if (calling) this.element.append(this.#begun(calling, writing));
    else this.#growing = null;
    this.element.hidden = !calls.length && !calling;
  }

  /** @param {Called} call */
  #made(call) {
    const title = `Tool call: ${nameOf(call.name)}`;
    return folded(title, argumentsOf(call), "It was not run: this page has no tools.");
  }

  /**
   * It stays the same element, so that it stays open.
   * @param {string} text
   * @param {boolean} writing
   */
  #begun(text, writing) {
    const title = writing ? "Calling a tool…" : "Unfinished tool call";
    this.#growing ??= folded(title, text, "");
    const [summary, pre] = this.#growing.children;
    summary.textContent = title;
    pre.textContent = text;
    this.#growing.classList.toggle("live", writing);
    return this.#growing;
  }
}
