/** One message: its text, its tools, and what is known of how it was written. */

import { el, iconButton } from "./dom.js";
import { duration, plural, speed } from "./format.js";
import { copyText, Prose } from "./markdown.js";
import { notice, problemOf } from "./notices.js";
import { remedies } from "./actions.js";
import { state } from "./store.js";

/** @import {Message, Stats} from "./types.js" */
/**
 * @typedef {object} Deeds
 * @property {(message: Message) => void} regenerate
 * @property {(message: Message, text: string) => void} resend
 */

/** @type {Record<string, string>} */
const ENDINGS = {
  cancelled: "stopped",
  length: "reached the token limit (Settings: Longest answer)",
  context: "the context is full",
};

/** @param {Stats} stats */
export function statsText({ tokens, rate, first }) {
  const parts = [plural(tokens, "token")];
  if (rate > 0) parts.push(speed(rate));
  if (first > 0) parts.push(`first after ${duration(first)}`);
  return parts.join(" · ");
}

/** @param {Stats} stats what few people ask for */
function moreStats({ reused, seed }) {
  const kept =
    reused > 0 ? `${plural(reused, "token")} of the prompt did not have to be read again. ` : "";
  return `${kept}Seed ${seed}.`;
}

/** @param {Pick<Message, "finish">} message not being written now */
export function endingText({ finish }) {
  return finish === null ? "interrupted" : (ENDINGS[finish ?? ""] ?? "");
}

/** @param {string} content */
function copyButton(content) {
  return iconButton("copy", "Copy", (event) =>
    copyText(content, /** @type {HTMLElement} */ (event.currentTarget)),
  );
}

export class UserMessage {
  /**
   * @param {Message} message
   * @param {Deeds} deeds
   */
  constructor(message, deeds) {
    this.message = message;
    this.deeds = deeds;
    this.element = el("li", {
      class: "message user",
      "data-testid": "message",
      "data-role": "user",
    });
    this.render();
  }

  render() {
    const { content } = this.message;
    const edit = iconButton("edit", "Edit", () => this.edit(), { "data-testid": "edit" });
    this.element.replaceChildren(
      el("span", { class: "unseen" }, "You: "),
      el("div", { class: "bubble", "data-testid": "message-text" }, content),
      el("div", { class: "foot" }, el("div", { class: "tools" }, copyButton(content), edit)),
    );
  }

  edit() {
    const field = el("textarea", { class: "field", "aria-label": "Edit your message", rows: 3 });
    field.value = this.message.content;
    const close = () => {
      this.render();
      this.element.querySelector("button")?.focus();
    };
    const send = () => {
      const text = field.value.trim();
      if (text && state.model && !state.generation) this.deeds.resend(this.message, text);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    const cancel = el("button", { class: "button", type: "button", onclick: close }, "Cancel");
    const save = { class: "button primary", type: "button", "data-testid": "edit-send" };
    const note = el(
      "p",
      { class: "quiet" },
      "What comes after this message will be answered anew.",
    );
    this.element.replaceChildren(
      el(
        "div",
        { class: "editing" },
        field,
        note,
        el(
          "div",
          { class: "dialog-actions" },
          cancel,
          el("button", { ...save, onclick: send }, "Send"),
        ),
      ),
    );
    field.focus();
  }
}

export class AssistantMessage {
  prose = new Prose();
  #before = el("div");
  #after = el("div");

  /**
   * @param {Message} message
   * @param {Deeds} deeds
   */
  constructor(message, deeds) {
    this.message = message;
    this.deeds = deeds;
    this.prose.element.dataset.testid = "message-text";
    const props = {
      class: "message assistant",
      "data-testid": "message",
      "data-role": "assistant",
    };
    const speaker = el("span", { class: "unseen" }, `${message.model ?? "Model"}: `);
    this.element = el("li", props, speaker, this.#before, this.prose.element, this.#after);
    this.render();
  }

  get #writing() {
    return state.generation?.message === this.message;
  }

  render() {
    const { content, dropped } = this.message;
    this.element.setAttribute("aria-busy", String(this.#writing));
    const told = dropped
      ? `The oldest ${plural(dropped, "message")} no longer fit the model's context and ${dropped === 1 ? "was" : "were"} left out.`
      : "";
    this.#before.replaceChildren(
      ...(told ? [el("p", { class: "dropped", "data-testid": "dropped" }, told)] : []),
    );
    this.prose.render(content, this.#writing);
    this.#after.replaceChildren(...(this.#writing ? this.#pending() : this.#ending()));
  }

  /** While it is written, before its first word. */
  #pending() {
    if (this.message.content) return [];
    return [el("p", { class: "thinking" }, state.generation?.phase ?? "")];
  }

  #ending() {
    const { message } = this;
    const again = () => this.deeds.regenerate(message);
    const stats = message.stats ? statsText(message.stats) : "";
    const text = [stats, endingText(message)].filter(Boolean).join(" · ");
    const more = message.stats ? moreStats(message.stats) : null;
    const foot = el(
      "div",
      { class: "foot" },
      el(
        "div",
        { class: "tools" },
        copyButton(message.content),
        iconButton("again", "Regenerate", again, { "data-testid": "regenerate" }),
      ),
      el("span", { "data-testid": "stats", title: more }, text),
    );
    const { failure } = message;
    const retry = { label: "Answer again", run: again };
    const others = failure ? remedies(failure, again).filter(({ run }) => run !== again) : [];
    const told = failure && notice(problemOf(failure, [retry, ...others]), null);
    if (told) told.dataset.testid = "message-error";
    return told ? [told, foot] : [foot];
  }
}
