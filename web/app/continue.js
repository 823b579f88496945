/** The text view: one editor, at whose end the model goes on; what it wrote stays marked, and kept. */

import { attempt, reloadModel, remedies } from "./actions.js";
import { keep, put, takeAway, versionsOf } from "./continuations.js";
import { change, save } from "./conversations.js";
import { byId, button, el, icon } from "./dom.js";
import { continueText, LAST_MODEL, onText, stop } from "./engine.js";
import { endingText, statsText } from "./message.js";
import { announce, notice, problemOf, toast } from "./notices.js";
import { progressText } from "./chat.js";
import { recall, set, state, watch } from "./store.js";
import { adjust, adjustPlace, pieces } from "./ranges.js";
import { pattern } from "./search.js";
import { Switches } from "./switches.js";

/** @import {Conversation, Message} from "./types.js" */

const IDS = /^[\s,]*\d+(?:[\s,]+\d+)*[\s,]*$/;
const SAVE_AFTER_MS = 300;

const view = byId("text-view", HTMLElement);
const copy = el("div", {
  class: "copy",
  dir: "auto",
  "aria-hidden": "true",
  "data-testid": "continuation-marks",
});
const field = el("textarea", {
  dir: "auto",
  "aria-label": "Text to continue",
  spellcheck: "false",
});
const sheet = el("div", { class: "sheet" }, copy, field);
const scroller = el("div", { class: "scroller" }, sheet);
const problem = el("div", { "data-testid": "text-error" });
const idsNote = el(
  "p",
  { class: "ids-note", "data-testid": "ids-note", hidden: true },
  "This model came without a tokenizer: it reads and writes numbers, the ids of its tokens. ",
  "Write some with commas between them.",
);
const PLACEHOLDER = "Begin a text; the model goes on from its end.";
const stats = el("span", { class: "quiet", "data-testid": "text-stats" });
const primary = (/** @type {string} */ id) => ({ class: "button primary", "data-testid": id });
const goButton = button("Continue", () => go(), primary("continue"));
const stopButton = button("Stop", () => void attempt(stop), primary("stop-text"));
const undoButton = button("Undo", () => undo(), { "data-testid": "undo" });
const againButton = button("Another", () => again(), { "data-testid": "another" });
const switches = new Switches(choose);
const modelButton = button("", () => {}, { "data-testid": "text-model" });

/** @type {Conversation | null} */
let conversation = null;
let saving = 0;

function writing() {
  return state.generation !== null && state.generation.conversation === conversation;
}

/** Whether another tab writes it. */
function elsewhere() {
  return conversation !== null && state.elsewhere.has(conversation.id);
}

function renderText() {
  if (!conversation) return;
  const { text, ranges } = conversation;
  if (field.value !== text) {
    const { selectionStart, selectionEnd, textLength } = field;
    field.value = text; // sets the caret to the end
    if (selectionEnd < textLength) field.setSelectionRange(selectionStart, selectionEnd);
  }
  const parts = pieces(text, ranges).map(({ text: part, marked }) =>
    marked ? el("mark", {}, part) : part,
  );
  copy.replaceChildren(...parts, "\n "); // a last line of its own, so that the caret has room
}

function renderBar() {
  if (!conversation) return;
  const { model, loading, generation } = state;
  const ready = !!model && !generation && !elsewhere();
  field.readOnly = writing() || elsewhere();
  if (!generation && document.activeElement === stopButton) field.focus();
  goButton.hidden = !!generation;
  stopButton.hidden = !generation;
  stopButton.disabled = generation?.stopping ?? false;
  goButton.disabled = !ready || !conversation.text;
  const { at, count } = versionsOf(conversation);
  switches.render(at, count);
  switches.element.hidden = !!generation || elsewhere() || count < (at < 0 ? 1 : 2);
  undoButton.disabled = !!generation || elsewhere() || conversation.ranges.length === 0;
  againButton.disabled = !ready || count === 0;
  const last = recall(LAST_MODEL);
  const asIds = model?.tokenizer === false;
  idsNote.hidden = !asIds;
  field.placeholder = asIds ? "2, 105, 2364" : PLACEHOLDER;
  modelButton.hidden = !!model || !!loading;
  modelButton.textContent = last ? `Load ${last.title}` : "Choose a model";
  modelButton.onclick = () => (last ? reloadModel() : set({ view: "models" }));
  renderStats();
}

function renderStats() {
  if (!conversation) return;
  const { last } = conversation;
  const { generation, model } = state;
  if (generation) {
    stats.textContent = writing() ? progressText(generation) : "Answering in another conversation…";
  } else if (elsewhere()) {
    stats.textContent = "Being written in another tab…";
  } else if (last?.stats) {
    stats.textContent = [statsText(last.stats), endingText(last)].filter(Boolean).join(" · ");
  } else {
    stats.textContent = model ? "Ctrl+Enter continues" : "";
  }
  const failure = generation ? undefined : last?.failure;
  problem.replaceChildren(
    ...(failure ? [notice(problemOf(failure, remedies(failure, go)), forget)] : []),
  );
}

function forget() {
  if (!conversation) return;
  change(conversation, "text", { last: undefined });
  renderStats();
  save(conversation, false);
}

/**
 * @param {number} [at] where the model goes on; else at the end
 * @param {Message} [replaced] the version that stands there
 */
async function go(at, replaced) {
  if (!conversation || !state.model || state.generation || elsewhere()) return;
  if (!conversation.text.slice(0, at)) return;
  if (state.model.tokenizer === false && !IDS.test(conversation.text)) {
    toast("Token ids are whole numbers, with commas between them.");
    return;
  }
  const running = continueText(conversation, at, replaced);
  scroller.scrollTop = scroller.scrollHeight;
  await running;
  if (conversation?.last?.finish !== "error") announce("The continuation is finished.");
}

/** Take the newest of the model's continuations away; what the person typed stays. */
function undo() {
  const at = conversation && takeAway(conversation);
  if (!conversation || at === null) return;
  renderText();
  renderBar();
  field.focus();
  field.selectionStart = field.selectionEnd = at;
  save(conversation);
}

/** A further version of the last continuation; where nothing comes of it, that one stays. */
function again() {
  if (!conversation) return;
  const place = keep(conversation);
  if (!place) return;
  const { versions, at } = versionsOf(conversation);
  field.focus();
  go(place.start, versions[at]);
}

/** @param {number} at index of a version of the last continuation */
function choose(at) {
  if (!conversation) return;
  put(conversation, versionsOf(conversation).versions[at]);
  renderText();
  renderBar();
  save(conversation, false);
}

function onInput() {
  if (!conversation) return;
  const { text } = conversation;
  const ranges = adjust(conversation.ranges, text, field.value);
  const place = adjustPlace(conversation.place, text, field.value);
  change(conversation, "text", { ranges, place, text: field.value });
  renderText();
  renderBar();
  clearTimeout(saving);
  const changed = conversation;
  saving = setTimeout(() => save(changed), SAVE_AFTER_MS);
}

/** The tab may be closed before the next save is due. */
function saveNow() {
  if (document.visibilityState === "hidden" && conversation) save(conversation, false);
}

function show() {
  const current = state.current?.kind === "text" ? state.current : null;
  if (current !== conversation) {
    conversation = current;
    if (current) scroller.scrollTop = 0;
  }
  renderText();
  renderBar();
}

export function startContinue() {
  field.dataset.testid = "continue-editor";
  goButton.prepend(icon("text"));
  stopButton.prepend(icon("stop"));
  undoButton.prepend(icon("undo"));
  undoButton.setAttribute("aria-label", "Undo the last continuation");
  againButton.prepend(icon("again"));
  againButton.setAttribute("aria-label", "Another continuation instead of the last");
  field.addEventListener("input", onInput);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    go();
  });
  const buttons = [goButton, stopButton, undoButton, againButton];
  const tools = [...buttons, switches.element, modelButton];
  const bar = el("div", { class: "text-bar" }, ...tools, el("span", { class: "grow" }), stats);
  view.append(scroller, el("div", { class: "dock" }, idsNote, problem, bar));
  let frame = 0;
  onText((generation) => {
    if (generation.conversation !== conversation || frame) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      const left = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
      renderText();
      renderBar();
      if (left < 80) scroller.scrollTop = scroller.scrollHeight;
    });
  });
  watch(["current", "generation", "model", "loading", "elsewhere"], show);
  watch(["received"], () => state.received === conversation && show());
  document.addEventListener("visibilitychange", saveNow);
  document.addEventListener("opened", (event) => {
    if (view.hidden) return;
    field.focus();
    const { detail } = /** @type {CustomEvent} */ (event);
    const version = conversation ? versionsOf(conversation).versions.indexOf(detail?.message) : -1;
    if (version >= 0 && !elsewhere()) choose(version);
    const found = detail && pattern(detail.words).exec(field.value);
    if (found) field.setSelectionRange(found.index, found.index + found[0].length);
  });
}
