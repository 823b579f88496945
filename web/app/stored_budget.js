/** The field for how much of storage the weights of one model may take. */

import { el } from "./dom.js";
import { set, state, watch } from "./store.js";

const GB = 1e9;
const HELP =
  "In GB. Empty: automatic, all of them. What does not fit is fetched again when it is needed. Takes effect when a model is fetched or loaded. Models that you import, or get from peers and do not share, are stored whole.";

/** @param {number | null} size bytes of a model's weights, where known @returns {boolean} whether all may be stored */
export function fitsStorage(size) {
  const { storage_budget: budget } = state.settings;
  return budget === null || size === null || size <= budget;
}

export function storageField() {
  const id = "set-storage_budget";
  const help = el("span", { class: "help", id: `${id}-help` }, HELP);
  const limits = { min: 0, step: "any", placeholder: "Automatic" };
  const described = { "aria-describedby": help.id, "data-testid": id };
  const input = el("input", { type: "number", id, ...limits, ...described });
  input.addEventListener("change", () => {
    if (!input.validity.valid) return;
    const budget = input.value ? Math.round(input.valueAsNumber * GB) : null;
    set({ settings: { ...state.settings, storage_budget: budget } });
  });
  watch(["settings"], () => {
    const { storage_budget: budget } = state.settings;
    if (document.activeElement !== input) input.value = budget === null ? "" : String(budget / GB);
  });
  const label = el("label", { for: id }, "Storage for weights of one model");
  return el("div", { class: "field-row" }, label, input, help);
}
