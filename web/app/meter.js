/**
 * @file How full the model's context is with the conversation and what is being written, and what
 * becomes of it when it is sent. Counted by the model's own tokenizer, when nothing else is done.
 */

import { client } from "./client.js";
import { turnsOf } from "./conversations.js";
import { el } from "./dom.js";
import { state, watch } from "./store.js";
import { path } from "./thread.js";

/** @import {Conversation} from "./types.js" */

const PAUSE_MS = 400; // after the last change
const ANSWER_ROOM = 256; // as in py/doppler/text/fitting.py: what is kept free when old turns are dropped
const NEARLY = 0.8;

export class Meter {
  #bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span"));
  #figures = el("span");
  /** One that is announced when it changes. */
  warning = el("p", { class: "context-warning", role: "status", "data-testid": "context-warning" });
  element = el(
    "span",
    { class: "context-meter", "data-testid": "context-meter" },
    this.#bar,
    this.#figures,
  );
  /** @type {Conversation | null} */
  #of = null;
  #timer = 0;
  #count = 0;
  #took = 0; // milliseconds of the last counting: a long conversation is counted less often

  /** @param {() => {conversation: Conversation | null, draft: string}} now */
  constructor(now) {
    this.now = now;
    watch(["model", "generation", "current", "received", "settings", "conversations"], () =>
      this.update(),
    );
  }

  /** Something may have changed; it is counted when that has stopped. */
  update() {
    clearTimeout(this.#timer);
    this.#count += 1;
    const { model, current } = state;
    if (!model?.chat || current !== this.#of) this.#show(null, ""); // what was told is of another
    this.#of = current;
    if (!model?.chat || state.generation) return; // it is counted when the answer is there
    this.#timer = setTimeout(() => this.#measure(model.context), PAUSE_MS + 5 * this.#took);
  }

  /** @param {number} context tokens */
  async #measure(context) {
    const { conversation, draft } = this.now();
    if (!conversation) return this.#show(null, "");
    const count = this.#count;
    const sent = draft.trim()
      ? [{ role: /** @type {const} */ ("user"), content: draft.trim() }]
      : [];
    const turns = turnsOf(conversation, [...path(conversation), ...sent]);
    const began = performance.now();
    try {
      const used = await tokensOf(turns);
      const room =
        context - Math.min(state.settings.max_tokens, ANSWER_ROOM, Math.floor(context / 4));
      const warns = sent.length > 0 && used > room;
      const warning = warns ? await warningOf(turns, used, context) : "";
      this.#took = performance.now() - began;
      if (count === this.#count) this.#show({ used, context, full: used / room }, warning);
    } catch {
      if (count === this.#count) this.#show(null, ""); // the answer itself will say what is wrong
    }
  }

  /**
   * @param {{used: number, context: number, full: number} | null} fill
   * @param {string} warning
   */
  #show(fill, warning) {
    this.element.hidden = fill === null;
    if (this.warning.textContent !== warning) this.warning.textContent = warning;
    if (!fill) return;
    const { used, context, full } = fill;
    const level = full > 1 ? "over" : full > NEARLY ? "nearly" : "";
    this.element.className = `context-meter ${level}`.trim();
    this.#figures.textContent = `${used.toLocaleString("en")} / ${context.toLocaleString("en")}`;
    this.element.title = `${used} of ${context} tokens of the model's context are taken by this chat and what you write.`;
    const inner = /** @type {HTMLElement} */ (this.#bar.firstElementChild);
    inner.style.width = `${Math.min(100, (100 * used) / context)}%`;
  }
}

/** @param {ReturnType<typeof turnsOf>} messages @returns {Promise<number>} */
async function tokensOf(messages) {
  if (messages.length === 0) return 0;
  return (await client.call("tokenize", { messages })).ids.length;
}

/**
 * @param {ReturnType<typeof turnsOf>} turns more than leave room for an answer
 * @param {number} used tokens
 * @param {number} context tokens
 */
async function warningOf(turns, used, context) {
  const system = turns.filter(({ role }) => role === "system");
  const last = turns.findLastIndex(({ role }) => role === "user");
  const kept = [...system, ...turns.slice(last)];
  const least = kept.length < turns.length ? await tokensOf(kept) : used;
  if (least >= context) {
    const what = system.length
      ? "This message does not fit with the system prompt"
      : "This message does not fit";
    return `${what}: it takes ${least.toLocaleString("en")} tokens. Shorten it, or choose a longer context in the settings.`;
  }
  if (kept.length < turns.length) return "The oldest messages will be left out, so that this fits.";
  return "There is little room left for an answer.";
}
