/** The settings dialog: system prompt of the conversation, sampling, lengths. */

import { restartEngine, reloadModel } from "./actions.js";
import { change as changeIn, isEmpty, save } from "./conversations.js";
import { button, byId, el, iconButton } from "./dom.js";
import { chooseContext } from "./library.js";
import { memoryFields } from "./room.js";
import { sharingFields } from "./sharing/fields.js";
import { DEFAULTS, ownSampling, set, settingsFor, state, watch } from "./store.js";

/** @import {OwnSampling, Settings} from "./types.js" */
/** @typedef {{key: Exclude<keyof OwnSampling, "greedy">, label: string, help: string, min: number, max: number, step: number}} Slider */

const dialog = byId("settings", HTMLDialogElement);

/** @type {Slider[]} */
const SLIDERS = [
  {
    key: "temperature",
    label: "Temperature",
    help: "Low: the likeliest words. High: more surprising ones.",
    min: 0.05,
    max: 2,
    step: 0.05,
  },
  {
    key: "top_k",
    label: "Top-k",
    help: "Choose among this many likeliest tokens. 0: no limit.",
    min: 0,
    max: 200,
    step: 1,
  },
  {
    key: "top_p",
    label: "Top-p",
    help: "Choose among the likeliest that together have this probability. 1: all.",
    min: 0.05,
    max: 1,
    step: 0.01,
  },
  {
    key: "min_p",
    label: "Min-p",
    help: "Leave out tokens less likely than this share of the likeliest. 0: none.",
    min: 0,
    max: 1,
    step: 0.01,
  },
  {
    key: "repetition_penalty",
    label: "Repetition penalty",
    help: "Above 1 makes tokens that already occurred less likely.",
    min: 1,
    max: 2,
    step: 0.01,
  },
];

/** @param {Partial<Settings>} changes */
const change = (changes) => set({ settings: { ...state.settings, ...changes } });

/**
 * @param {string} id
 * @param {string} label
 * @param {string} help
 * @param {HTMLElement} control
 */
function fieldRow(id, label, help, control) {
  const note = el("span", { class: "help", id: `${id}-help` }, help);
  return el("div", { class: "field-row" }, el("label", { for: id }, label), control, note);
}

const kind = () => state.current?.kind ?? "chat";

/**
 * Says whose a value is, and gives back one of the person's.
 * @param {keyof OwnSampling} key
 */
function originOf(key) {
  const whose = el("span", { "data-testid": `origin-${key}` });
  const back = el("button", { type: "button", onclick: () => change({ [key]: null }) });
  watch(["settings", "current", "model"], () => {
    const own = ownSampling(kind())[key];
    const shown = typeof own === "boolean" ? (own ? "on" : "off") : own;
    const from =
      (state.model?.sampling[key] ?? null) === null ? "Doppler's default" : "the model's own";
    const mine = state.settings[key] !== null;
    whose.textContent = mine ? "Yours." : `${from[0].toUpperCase()}${from.slice(1)}.`;
    back.textContent = `Back to ${shown}, ${from}`;
    back.hidden = !mine;
  });
  return el("span", { class: "origin" }, whose, back);
}

/** @param {Slider} slider */
function slider({ key, label, help, min, max, step }) {
  const id = `set-${key}`;
  const limits = { min, max, step };
  const range = el("input", { type: "range", id, ...limits, "aria-describedby": `${id}-help` });
  const number = el("input", { type: "number", ...limits, "aria-label": `${label}, as a number` });
  number.dataset.testid = id;
  for (const input of [range, number]) {
    input.addEventListener("input", () => {
      if (input.validity.valid && input.value) change({ [key]: input.valueAsNumber });
    });
  }
  const value = () => String(settingsFor(kind())[key]);
  number.addEventListener("blur", () => (number.value = value()));
  watch(["settings", "current", "model"], () => {
    range.value = value();
    if (document.activeElement !== number) number.value = value();
    range.disabled = number.disabled = settingsFor(kind()).greedy;
  });
  const row = fieldRow(id, label, help, el("div", { class: "pair" }, range, number));
  row.append(originOf(key));
  return row;
}

/**
 * @param {"seed" | "max_tokens" | "context"} key
 * @param {string} label
 * @param {string} help
 * @param {Record<string, unknown>} limits
 */
function numberField(key, label, help, limits) {
  const id = `set-${key}`;
  const described = { "aria-describedby": `${id}-help`, "data-testid": id };
  const input = el("input", { type: "number", id, step: 1, ...limits, ...described });
  input.addEventListener("input", () => {
    if (!input.validity.valid) return;
    if (input.value || key !== "max_tokens") {
      change({ [key]: input.value ? input.valueAsNumber : null });
    }
  });
  watch(["settings"], () => {
    if (document.activeElement !== input) input.value = String(state.settings[key] ?? "");
  });
  return fieldRow(id, label, help, input);
}

function greedyField() {
  const input = el("input", { type: "checkbox", id: "set-greedy", "data-testid": "set-greedy" });
  input.addEventListener("change", () => change({ greedy: input.checked }));
  watch(["settings", "model"], () => (input.checked = settingsFor(kind()).greedy));
  const label = el("label", { for: "set-greedy" }, "Greedy");
  const help = el(
    "span",
    { class: "help" },
    "Always the likeliest token: the same answer each time.",
  );
  const check = el("div", { class: "check" }, input, label);
  return el("div", { class: "field-row" }, check, help, originOf("greedy"));
}

/** New conversations begin with the prompt that was written last; each keeps its own. */
function systemField() {
  const props = { class: "field", id: "set-system", rows: 4, "data-testid": "set-system" };
  const input = el("textarea", { ...props, dir: "auto", "aria-describedby": "set-system-help" });
  input.addEventListener("input", () => {
    change({ system: input.value });
    if (state.current?.kind !== "chat") return;
    changeIn(state.current, "system", { system: input.value });
    if (!isEmpty(state.current)) save(state.current, false);
  });
  watch(["current", "settings", "received"], () => {
    if (document.activeElement === input) return;
    input.value = state.current?.kind === "chat" ? state.current.system : state.settings.system;
  });
  const help = "How the model should behave, in this chat and in new ones.";
  return fieldRow("set-system", "System prompt", help, input);
}

function contextField() {
  const help =
    "Tokens that the model can look back on. More takes more GPU memory. Empty: chosen for the model. Takes effect when a model is loaded.";
  const row = numberField("context", "Context", help, { min: 256, placeholder: "Automatic" });
  row.addEventListener("input", () => state.model && chooseContext(state.model.id, null));
  return row;
}

/** Where keys and values may take half the memory; what of that, or of the context, is not so yet. */
function eightBitsField() {
  const id = "set-kv";
  const described = { "aria-describedby": `${id}-help`, "data-testid": id };
  const input = el("input", { type: "checkbox", id, ...described });
  input.addEventListener("change", () => change({ kv: input.checked ? "q8" : null }));
  const reload = button("Load the model again", () => {
    dialog.close();
    reloadModel();
  });
  watch(["model", "settings"], () => {
    const { model, settings } = state;
    input.checked = settings.kv === "q8";
    const isOther = settings.context && settings.context !== model?.context;
    reload.hidden = !model || (!isOther && input.checked === (model.kv === "q8"));
  });
  const text =
    "It then takes about half the GPU memory, so that twice as long a one fits; answers can differ in small ways. Takes effect when a model is loaded.";
  const help = el("span", { class: "help", id: `${id}-help` }, text);
  const check = el("div", { class: "check" }, input, el("label", { for: id }, "Context in 8 bits"));
  return el("div", { class: "field-row" }, check, help, reload);
}

function resetAll() {
  set({ settings: { ...DEFAULTS, system: state.settings.system } });
}

export function startSettings() {
  const memory = memoryFields(dialog);
  const form = el(
    "form",
    { method: "dialog" },
    systemField(),
    greedyField(),
    ...SLIDERS.map(slider),
    numberField(
      "seed",
      "Seed",
      "The same seed gives the same answer again. Empty: a new one each time.",
      {
        min: 0,
        max: 2 ** 32 - 1,
        placeholder: "Random",
      },
    ),
    numberField("max_tokens", "Longest answer", "In tokens.", { min: 1, max: 131072 }),
    contextField(),
    eightBitsField(),
    memory.element,
    sharingFields(),
    el(
      "div",
      { class: "dialog-actions" },
      button("Defaults", resetAll),
      button("Restart the engine", () => {
        dialog.close();
        restartEngine();
      }),
    ),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  const close = iconButton("close", "Close settings", () => dialog.close(), {
    class: "icon-button",
  });
  const head = el(
    "div",
    { class: "dialog-head" },
    el("h2", { id: "settings-title" }, "Settings"),
    close,
  );
  dialog.append(head, form);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  byId("settings-open", HTMLButtonElement).addEventListener("click", () => {
    dialog.showModal();
    memory.measure();
  });
}
