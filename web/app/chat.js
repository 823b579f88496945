/** The chat view: messages, and the composer under them. */

import { attempt, haveLoaded, open } from "./actions.js";
import { saidIn } from "./calls.js";
import { draftOf, hold, keepDraft, letGo, save } from "./conversations.js";
import { byId, el, icon, iconButton } from "./dom.js";
import { answer, endWriting, goOn, isCutOff, onText, stop } from "./engine.js";
import { speed } from "./format.js";
import { AssistantMessage, UserMessage } from "./message.js";
import { Meter } from "./meter.js";
import { toast } from "./notices.js";
import { nudge, renderNudge, welcome } from "./nudge.js";
import { set, state, watch } from "./store.js";
import { markWords } from "./search.js";
import { beginSpeaking, finishSpeaking, speak } from "./speech.js";
import { add, before, choose, cut, path, under, versionsOf } from "./thread.js";

/** @import {Conversation, Generation, Message} from "./types.js" */

const NEAR_END = 80;

const view = byId("chat-view", HTMLElement);
const list = el("ol", { "aria-label": "Messages", "data-testid": "messages" });
const empty = welcome((text) => {
  field.value = text;
  field.focus();
  renderControls();
  meter.update();
});
const scroller = el("div", { class: "scroller" }, empty, list);
const field = el("textarea", {
  rows: 1,
  dir: "auto",
  "aria-label": "Message",
  "data-testid": "composer",
});
const sendButton = el("button", {
  class: "icon-button round",
  type: "submit",
  "aria-label": "Send",
});
const stopButton = el("button", {
  class: "icon-button round",
  type: "button",
  "aria-label": "Stop",
});
const toEnd = iconButton("down", "Jump to the latest", () => scrollToEnd(true));
const figures = el("span", { "data-testid": "live-stats" });
const meter = new Meter(() => ({ conversation, draft: field.value }));
const composer = el("form", { class: "composer" }, field, sendButton, stopButton);

/** @type {Map<string, UserMessage | AssistantMessage>} */
const shown = new Map();
/** @type {Conversation | null} */
let conversation = null;
let following = true;
/** @type {Map<string, number>} how far conversations are scrolled that are not at their end */
const places = new Map();

/** @param {boolean} [force] */
function scrollToEnd(force) {
  if (force) following = true;
  if (following) scroller.scrollTop = scroller.scrollHeight;
  toEnd.hidden = following;
}

const deeds = {
  /** Another answer to the same question; one that failed before its first word is not kept. */
  async regenerate(/** @type {Message} */ message) {
    const asked = conversation;
    if (!asked || !canAnswer()) return;
    await endWriting();
    if (state.generation) return; // two presses: the first one's answer
    if (!saidIn(message) && !message.reasoning) cut(asked, message);
    answer(asked, before(asked, message).at(-1) ?? null);
  },
  /** The rest of an answer that was cut off, with the model that began it. */
  async goOn(/** @type {Message} */ message) {
    const from = conversation;
    const pressed = document.activeElement; // it goes when the answer goes on
    if (!from || !message.journal) return;
    await endWriting();
    const { journal, model } = message;
    if (!journal || !(await haveLoaded(journal.model, model ?? "the model"))) return;
    if (!canAnswer() || state.generation || state.elsewhere.has(message.id)) return;
    if (!isCutOff(message)) return; // another tab was faster, or it was deleted
    const known = shown.get(message.id);
    const isFocused = known?.element.contains(pressed) && document.activeElement === pressed;
    if (known instanceof AssistantMessage) beginSpeaking(known.prose.finished());
    goOn(from, message);
    if (isFocused) stopButton.focus();
  },
  async resend(/** @type {Message} */ message, /** @type {string} */ content) {
    const asked = conversation;
    if (!asked || !canAnswer()) return;
    await endWriting();
    if (state.generation) return;
    const parent = before(asked, message).at(-1) ?? null;
    answer(asked, add(asked, parent, { role: "user", content }));
    field.focus();
  },
  /** With what follows it; Undo brings it back. */
  async remove(/** @type {Message} */ message) {
    const from = conversation;
    if (!from) return;
    const writing = state.generation?.message;
    if (writing && under(from, message).includes(writing)) await endWriting(from);
    const restore = cut(from, message);
    save(from, false);
    show();
    field.focus();
    const undo = () => {
      restore();
      choose(from, message);
      save(from, false);
      open(from);
      shown.get(message.id)?.element.scrollIntoView({ block: "nearest" });
    };
    toast("Deleted the message and what followed it", { label: "Undo", run: undo });
  },
  /** The message that it answers is written anew. */
  editAsked(/** @type {Message} */ message) {
    const asked = conversation && before(conversation, message).at(-1);
    const known = asked && shown.get(asked.id);
    if (known instanceof UserMessage) known.edit();
  },
  versions: (/** @type {Message} */ message) =>
    conversation ? versionsOf(conversation, message) : [],
  choose(/** @type {Message} */ version) {
    if (!conversation) return;
    const pressed = document.activeElement;
    following = false; // it is read where it stands
    choose(conversation, version);
    save(conversation, false);
    show();
    shown.get(version.id)?.foot.switches.focus(pressed);
  },
  editing(/** @type {boolean} */ open) {
    if (!conversation) return;
    if (open) hold(conversation);
    else if (state.generation?.conversation !== conversation) letGo(conversation);
  },
};

function canAnswer() {
  if (!state.model) toast("Load a model first.");
  else if (!state.model.chat) toast("This model does not chat; load one that does.");
  return state.model?.chat === true;
}

function send() {
  const content = field.value.trim();
  if (!conversation || !content || state.generation || !canAnswer()) return;
  const parent = path(conversation).at(-1) ?? null;
  if (parent && state.elsewhere.has(parent.id)) {
    toast("Another tab is still writing the answer before it. Wait for it, or stop it there.");
    return;
  }
  keepDraft(conversation, "");
  const message = add(conversation, parent, { role: "user", content });
  field.value = "";
  following = true;
  answer(conversation, message);
}

function renderMessages() {
  if (!conversation) return;
  const messages = path(conversation);
  const kept = new Set(messages.map(({ id }) => id));
  for (const id of shown.keys()) if (!kept.has(id)) shown.delete(id);
  for (const message of messages) {
    const known = shown.get(message.id);
    if (known) known.render();
    else {
      const make = message.role === "user" ? UserMessage : AssistantMessage;
      shown.set(message.id, new make(message, deeds));
    }
  }
  const elements = messages.map(({ id }) => /** @type {UserMessage} */ (shown.get(id)).element);
  if (
    elements.some((element, index) => list.children[index] !== element) ||
    list.children.length !== elements.length
  ) {
    list.replaceChildren(...elements);
  }
  empty.hidden = messages.length > 0;
}

function renderControls() {
  const { generation } = state;
  if (!generation && document.activeElement === stopButton) field.focus();
  stopButton.hidden = !generation;
  sendButton.hidden = !!generation;
  stopButton.disabled = generation?.stopping ?? false;
  sendButton.disabled = !field.value.trim() || !state.model?.chat;
  const elsewhere = generation && generation.conversation !== conversation;
  figures.textContent = !generation
    ? ""
    : elsewhere
      ? "Answering in another conversation…"
      : progressText(generation);
}

/** @param {Generation} generation */
export function progressText({ tokens, before, firstAt, phase, stopping }) {
  const timed = tokens - before - 1; // those after the first that came
  if (timed < 1 || stopping) return phase;
  return `${tokens} tokens · ${speed((timed * 1000) / (performance.now() - firstAt))}`;
}

let frame = 0;

/** At most one drawing a frame, however fast tokens come. @param {Generation} generation */
function onPiece(generation) {
  if (generation.conversation !== conversation || frame) return;
  frame = requestAnimationFrame(() => {
    frame = 0;
    const message = generation.message && shown.get(generation.message.id);
    if (message instanceof AssistantMessage) {
      message.render();
      if (state.generation === generation) speak(message.prose.finished());
      else finishSpeaking(message.prose.all());
    }
    renderControls();
    scrollToEnd();
  });
}

function show() {
  const current = state.current?.kind === "chat" ? state.current : null;
  const place = current && current !== conversation ? places.get(current.id) : undefined;
  if (current !== conversation) {
    if (conversation && state.generation?.conversation !== conversation) letGo(conversation);
    conversation = current;
    shown.clear();
    list.replaceChildren();
    if (current) field.value = draftOf(current);
    following = place === undefined;
  }
  renderMessages();
  renderNudge();
  renderControls();
  if (place !== undefined) scroller.scrollTop = place;
  scrollToEnd();
}

/**
 * Show a message that was searched for, whichever version it is of, with the words marked.
 * @param {Message} message
 * @param {string[]} words
 */
function reveal(message, words) {
  if (!conversation) return;
  following = false;
  choose(conversation, message);
  save(conversation, false);
  show();
  const element = shown.get(message.id)?.element;
  element?.scrollIntoView({ block: "center" });
  if (element) markWords(element, words);
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
}

export function startChat() {
  sendButton.append(icon("send"));
  sendButton.dataset.testid = "send";
  stopButton.append(icon("stop"));
  stopButton.dataset.testid = "stop";
  stopButton.addEventListener("click", () => {
    field.focus(); // the button is about to go
    attempt(stop);
  });
  field.placeholder = "Write a message";
  field.addEventListener("keydown", onKey);
  field.addEventListener("input", () => {
    if (conversation) keepDraft(conversation, field.value);
    renderControls();
    meter.update();
  });
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  scroller.addEventListener("scroll", () => {
    const left = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    following = left < NEAR_END;
    if (conversation && following) places.delete(conversation.id);
    else if (conversation) places.set(conversation.id, scroller.scrollTop);
    toEnd.hidden = following;
  });
  toEnd.classList.add("to-end");
  const keys = el("span", { class: "keys" }, "Enter sends, Shift+Enter breaks the line");
  const hint = el("div", { class: "hint" }, keys, figures, meter.element);
  view.append(scroller, el("div", { class: "dock" }, toEnd, nudge, composer, meter.warning, hint));
  onText(onPiece);
  watch(["current", "generation", "elsewhere"], show);
  watch(["received"], () => state.received === conversation && show());
  watch(["model", "models", "loading"], () => {
    renderNudge();
    renderControls();
  });
  document.addEventListener("opened", (event) => {
    if (view.hidden) return;
    field.focus();
    const { detail } = /** @type {CustomEvent} */ (event);
    if (detail?.message) reveal(detail.message, detail.words);
  });
}
