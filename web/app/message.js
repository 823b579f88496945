/** One message: its text, its tools, and what is known of how it was written. */

import { CallList, saidIn } from "./calls.js";
import { el, iconButton } from "./dom.js";
import { isCutOff } from "./engine.js";
import { duration, plural, speed } from "./format.js";
import { copyText, Prose } from "./markdown.js";
import { notice, problemOf } from "./notices.js";
import { remedies } from "./actions.js";
import { state } from "./store.js";
import { Switches } from "./switches.js";
import { Thought } from "./thought.js";

/** @import {Failure, Message, Stats} from "./types.js" */
/**
 * @typedef {object} Deeds
 * @property {(message: Message) => void} regenerate
 * @property {(message: Message) => void} goOn
 * @property {(message: Message) => void} editAsked
 * @property {(message: Message, text: string) => void} resend
 * @property {(message: Message) => void} remove
 * @property {(message: Message) => Message[]} versions
 * @property {(version: Message) => void} choose
 * @property {(open: boolean) => void} editing
 */

/** @type {Record<string, string>} */
const ENDINGS = {
  cancelled: "stopped",
  length: "reached the token limit (Settings: Longest answer)",
  context: "the context is full",
  tool_calls: "ended with a tool call",
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

/** @param {string} text */
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** @param {Message} message */
function copyButton(message) {
  return iconButton("copy", "Copy", (event) =>
    copyText(saidIn(message), /** @type {HTMLElement} */ (event.currentTarget)),
  );
}

/**
 * The buttons under a message, and those that go through its versions. They are made anew only when
 * something of them changed, or the focus would be lost with every word of an answer.
 */
class Foot {
  element = el("div", { class: "foot" });
  switches = new Switches((at) => this.deeds.choose(this.deeds.versions(this.message)[at]));
  #shown = "";

  /**
   * @param {Message} message
   * @param {Deeds} deeds
   */
  constructor(message, deeds) {
    this.message = message;
    this.deeds = deeds;
  }

  /**
   * @param {HTMLElement[]} tools
   * @param {HTMLElement | null} note
   */
  render(tools, note) {
    const versions = this.deeds.versions(this.message);
    const at = versions.indexOf(this.message);
    const ids = versions.map(({ id }) => id);
    const shown = JSON.stringify([at, ids, tools.length, note?.outerHTML]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const remove = iconButton("trash", "Delete", () => this.deeds.remove(this.message), {
      "data-testid": "delete-message",
    });
    this.switches.render(at, versions.length);
    this.element.replaceChildren(
      ...(versions.length > 1 ? [this.switches.element] : []),
      el("div", { class: "tools" }, ...tools, remove),
      ...(note ? [note] : []),
    );
  }
}

export class UserMessage {
  #editing = false;

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
    this.foot = new Foot(message, deeds);
    this.#show();
  }

  render() {
    if (this.#editing) return;
    const edit = iconButton("edit", "Edit", () => this.edit(), { "data-testid": "edit" });
    this.foot.render([copyButton(this.message), edit], null);
  }

  #show() {
    this.render();
    this.element.replaceChildren(
      el("span", { class: "unseen" }, "You: "),
      el(
        "div",
        { class: "bubble", dir: "auto", "data-testid": "message-text" },
        this.message.content,
      ),
      this.foot.element,
    );
  }

  edit() {
    this.#editing = true;
    this.deeds.editing(true);
    const field = el("textarea", {
      class: "field",
      dir: "auto",
      "aria-label": "Edit your message",
      rows: 3,
    });
    field.value = this.message.content;
    const close = () => {
      this.#editing = false;
      this.deeds.editing(false);
      this.#show();
      this.element.querySelector("button")?.focus();
    };
    const send = () => {
      const text = field.value.trim();
      if (text && state.model) this.deeds.resend(this.message, text);
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
      "It becomes a version of this message, and is answered; what is here stays.",
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
  #thought = new Thought();
  #calls = new CallList();
  #before = el("div");
  #after = el("div");
  /** @type {Failure | null | undefined} whose notice is shown; null: none of this is */
  #problem = null;

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
    this.foot = new Foot(message, deeds);
    const { element } = this.foot;
    const above = [speaker, this.#before, this.#thought.element];
    const parts = [...above, this.prose.element, this.#calls.element, this.#after, element];
    this.element = el("li", props, ...parts);
    this.render();
  }

  get #writing() {
    return state.generation?.message === this.message;
  }

  get #elsewhere() {
    return state.elsewhere.has(this.message.id);
  }

  render() {
    const { content, dropped, notes = [] } = this.message;
    const busy = this.#writing || this.#elsewhere;
    this.element.setAttribute("aria-busy", String(busy));
    const told = dropped
      ? `The oldest ${plural(dropped, "message")} no longer fit the model's context and ${dropped === 1 ? "was" : "were"} left out.`
      : "";
    this.#before.replaceChildren(
      ...(told ? [el("p", { class: "dropped", "data-testid": "dropped" }, told)] : []),
      ...notes.map((note) => el("p", { class: "dropped" }, `${capital(note)}.`)),
    );
    this.#thought.render(this.message, busy);
    this.prose.render(content, busy);
    this.#calls.render(this.message, busy);
    this.foot.element.hidden = this.#writing;
    if (busy) this.#pending();
    else this.#ending();
  }

  /** While it is written, before its first word. */
  #pending() {
    const phase = this.#writing ? state.generation?.phase : "Being written in another tab…";
    const { content, reasoning, calls, calling } = this.message;
    const waits = !(content || reasoning || calls || calling) || !this.#writing;
    this.#after.replaceChildren(...(waits ? [el("p", { class: "thinking" }, phase ?? "")] : []));
    this.#problem = null;
    if (!this.#writing) this.foot.render([copyButton(this.message), this.#regenerate()], null);
  }

  #regenerate() {
    const again = () => this.deeds.regenerate(this.message);
    return iconButton("again", "Regenerate", again, { "data-testid": "regenerate" });
  }

  #ending() {
    const { message } = this;
    const again = () => this.deeds.regenerate(message);
    const stats = message.stats ? statsText(message.stats) : "";
    const text = [stats, endingText(message)].filter(Boolean).join(" · ");
    const more = message.stats ? moreStats(message.stats) : null;
    const note = el("span", { "data-testid": "stats", title: more }, text);
    const { failure } = message;
    const further = () => this.deeds.goOn(message);
    const props = { "data-testid": "go-on" };
    const canGoOn = isCutOff(message);
    const buttons = [copyButton(message), this.#regenerate()];
    if (canGoOn && !failure) buttons.push(iconButton("text", "Go on", further, props));
    this.foot.render(buttons, note);
    if (failure === this.#problem) return;
    this.#problem = failure;
    const rest = canGoOn ? [{ label: "Go on", run: further }] : [];
    const retry = { label: "Answer again", run: again };
    const edit = { label: "Edit the message", run: () => this.deeds.editAsked(message) };
    const others = failure ? remedies(failure, again).filter(({ run }) => run !== again) : [];
    const actions =
      failure?.name === "ContextError" ? [...rest, edit] : [...rest, retry, ...others];
    const told = failure && notice(problemOf(failure, actions), null);
    if (told) told.dataset.testid = "message-error";
    this.#after.replaceChildren(...(told ? [told] : []));
  }
}
