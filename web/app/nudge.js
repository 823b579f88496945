/** What the chat view says where there are no messages yet, or where none can be answered. */

import { openNew, reloadModel } from "./actions.js";
import { button, el } from "./dom.js";
import { LAST_MODEL } from "./engine.js";
import { messageOf } from "./names.js";
import { recall, set, state } from "./store.js";

const STARTERS = [
  "Explain tides to a ten-year-old",
  "Write a story about a fox in the snow",
  "What is a black hole?",
];

export const nudge = el("div", { class: "nudge", "data-testid": "nudge" });

/** @param {(text: string) => void} take a text to begin with */
export function welcome(take) {
  return el(
    "div",
    { class: "empty" },
    el("h1", {}, "What is on your mind?"),
    el("p", {}, "Answers are written on this device. Small models are quick, and often wrong."),
    el("div", { class: "starters" }, ...STARTERS.map((text) => button(text, () => take(text)))),
  );
}

/** What stands in the way of an answer, and the way past it. */
export function renderNudge() {
  const { model, loading } = state;
  const last = recall(LAST_MODEL);
  const stored = !!last && state.models.some(({ id, complete }) => id === last.id && complete);
  const choose = button(stored ? "Other models" : "Choose a model", () => set({ view: "models" }));
  /** @type {(Node | string | false)[]} */
  let parts = [];
  if (!model) {
    const text = loading ? `Loading ${loading}. You can write meanwhile.` : "No model is loaded.";
    const load =
      stored &&
      button(`Load ${last.title}`, reloadModel, {
        class: "button primary",
        "data-testid": "load-last",
      });
    parts = [el("p", {}, text), ...(loading ? [] : [load, choose])];
  } else if (!model.chat) {
    let text = `${model.title} is a base model: it goes on with a text, and was not taught to answer.`;
    if (!model.tokenizer) {
      text = `${model.title} came without a tokenizer: it takes token ids, not messages.`;
    } else if (model.chat_problem) {
      text = `${model.title} goes on with a text and cannot chat. ${messageOf(model.chat_problem)}`;
    }
    parts = [
      el("p", {}, text),
      button(model.tokenizer ? "Continue a text" : "Enter token ids", () => openNew("text")),
      choose,
    ];
  }
  nudge.replaceChildren(...parts.filter((part) => part !== false && part !== undefined));
  nudge.hidden = parts.length === 0;
}
