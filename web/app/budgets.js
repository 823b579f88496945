/**
 * @file How much memory models may take, on the GPU and in the computer's own: a slider for each, kept
 * for all models of this browser. refit.js has the loaded one keep to them.
 */

import { el } from "./dom.js";
import { bytes } from "./format.js";
import { set, state } from "./store.js";

/** @typedef {"gpu_budget" | "host_budget"} Budget */

/** @type {Record<Budget, {label: string, help: string, automatic: string}>} */
const TEXTS = {
  gpu_budget: {
    label: "GPU memory",
    help: "What a model may take of it, for all models of this browser. With less than it takes whole, parts come when they are used, which is slower.",
    automatic: "Automatic: as much as the GPU gives.",
  },
  host_budget: {
    label: "Host memory",
    help: "What this computer keeps ready of a model's parts that are not on the GPU. What is not there either comes from storage, which takes several times as long.",
    automatic: "Automatic: about 2 GB.",
  },
};
const STEPS = 100;

/** @param {number} size @returns {number} 1, 2 or 5 times a power of ten, no less than that */
function roundUp(size) {
  const power = 10 ** Math.floor(Math.log10(Math.max(size, 1)));
  return power * ([1, 2, 5].find((factor) => factor * power >= size) ?? 10);
}

/** A slider of one budget; null, which is automatic, stands at its end. */
export class BudgetSlider {
  #key;
  #range;
  #value = el("output", { class: "budget-value" });
  #whose = el("span");
  #back = el("button", { type: "button", onclick: () => this.#choose(null) }, "Back to automatic");
  element;

  /**
   * @param {Budget} key
   * @param {() => void} [onChange]
   */
  constructor(key, onChange = () => {}) {
    this.#key = key;
    this.onChange = onChange;
    const { label, help } = TEXTS[key];
    const id = `budget-${crypto.randomUUID()}`;
    const described = { "aria-describedby": `${id}-help`, "data-testid": `set-${key}` };
    this.#range = el("input", { type: "range", id, ...described });
    this.#range.addEventListener("input", () => this.#choose(this.#range.valueAsNumber));
    this.element = el(
      "div",
      { class: "field-row" },
      el("label", { for: id }, label),
      el("div", { class: "pair" }, this.#range, this.#value),
      el("span", { class: "help", id: `${id}-help` }, help),
      el("span", { class: "origin" }, this.#whose, this.#back),
    );
  }

  /** @param {number | null} size bytes */
  #choose(size) {
    const had = document.activeElement === this.#back;
    set({ settings: { ...state.settings, [this.#key]: size } });
    if (had) this.#range.focus(); // the button is gone
    this.onChange();
  }

  /**
   * @param {number} least bytes
   * @param {number} most from which on more changes nothing
   */
  show(least, most) {
    const step = roundUp((most - least) / STEPS);
    const range = this.#range;
    range.step = String(step);
    range.min = String(Math.ceil(least / step) * step);
    range.max = String(Math.ceil(most / step) * step);
    this.update();
  }

  /** The setting may have changed. */
  update() {
    const own = state.settings[this.#key];
    this.#range.value = String(own ?? this.#range.max);
    const text = own === null ? "Automatic" : bytes(own);
    this.#value.textContent = text;
    this.#range.setAttribute("aria-valuetext", text);
    this.#whose.textContent = own === null ? TEXTS[this.#key].automatic : "Yours.";
    this.#back.hidden = own === null;
  }
}

/** @returns {{storage_budget?: number}} what may be stored of a model, where a person set it */
export function storageBudget() {
  const { storage_budget } = state.settings;
  return storage_budget === null ? {} : { storage_budget };
}

/** @returns {Partial<Record<Budget, number>>} those that a person set, as a load takes them */
export function budgets() {
  const { gpu_budget, host_budget } = state.settings;
  return {
    ...(gpu_budget !== null && { gpu_budget }),
    ...(host_budget !== null && { host_budget }),
  };
}
