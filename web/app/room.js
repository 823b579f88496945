/** The part of the settings that is about memory: what a model may take, for the one that is loaded. */

import { BudgetSlider } from "./budgets.js";
import { el } from "./dom.js";
import { ASKED_AFTER_MS, foresee, isBounded, isPaged, lacksRoom, wordsOf } from "./foresight.js";
import { bytes } from "./format.js";
import { inspect } from "./library.js";
import { state, watch } from "./store.js";
import { storageField } from "./stored_budget.js";

/** @import {Choice, LoadedModel} from "./types.js" */
/** @import {Bounded} from "./foresight.js" */

const NO_MODEL = "Budgets can be set when a model is loaded, or where it says what a model is.";
const COUNTS =
  "What you set counts at once, where it can: from the next token on, of a mixture with some of its experts on the GPU. Other models are loaded again by themselves, after an answer that is being written. The conversation stays.";
const ALL = "This model can only be run whole.";

/** @param {LoadedModel} model @returns {Promise<{choice: Choice, fit: Bounded} | null>} */
async function boundsOf(model) {
  const [choice] = (await inspect(model.id)).choices;
  const fit = choice?.fits.find(({ context }) => context === model.context);
  return isBounded(fit) && fit.least < fit.whole ? { choice, fit } : null;
}

/** @param {HTMLDialogElement} dialog of the settings */
export function memoryFields(dialog) {
  const gpu = new BudgetSlider("gpu_budget");
  const host = new BudgetSlider("host_budget");
  const sliders = el("div", { hidden: true }, gpu.element, host.element);
  const note = el("p", { class: "help" });
  const verdict = el("p", { class: "help", role: "status", "data-testid": "budget-verdict" });
  const counts = el("p", { class: "help" }, COUNTS);
  /** @type {string | null} the model and context that the sliders are for */
  let shown = null;
  /** @type {Awaited<ReturnType<typeof boundsOf>>} */
  let known = null;
  let asked = 0;

  /** What the budgets would give. */
  function tell() {
    clearTimeout(asked);
    verdict.textContent = "";
    if (!known || !dialog.open || !isPaged(known.fit)) return;
    const { choice, fit } = known;
    if (lacksRoom(fit)) {
      verdict.textContent = `The model does not fit this budget: it needs at least ${bytes(fit.least)}.`;
      return;
    }
    asked = setTimeout(async () => {
      try {
        verdict.textContent = `With this budget it ${wordsOf(await foresee(choice, fit)).verdict}.`;
      } catch {
        // an engine that has ended tells itself
      }
    }, ASKED_AFTER_MS);
  }

  /** Finds out what the loaded model takes, once for each. */
  async function measure() {
    const { model, generation } = state;
    const key = model && `${model.id} ${model.context}`;
    if (!dialog.open || generation) return;
    if (key === shown && key !== null) return tell();
    shown = key;
    known = null;
    note.textContent = model ? "Reading what the model takes…" : NO_MODEL;
    render();
    if (!model) return;
    try {
      const found = await boundsOf(model);
      if (shown !== key) return;
      known = found;
      note.textContent = ALL;
    } catch {
      if (shown === key) note.textContent = NO_MODEL; // it was deleted, or the engine has ended
    }
    if (known) {
      const { least, whole } = known.fit;
      gpu.show(least, whole);
      host.show(0, whole);
      note.textContent = `This model runs in ${bytes(least)} or more; all of it takes ${bytes(whole)}.`;
    }
    render();
    tell();
  }

  function render() {
    gpu.update();
    host.update();
    sliders.hidden = !known;
    counts.hidden = !known;
  }

  watch(["settings", "model", "generation"], () => {
    render();
    measure();
  });
  const memory = [note, sliders, verdict, counts];
  const parts = [el("legend", {}, "Memory and storage"), ...memory, storageField()];
  return { element: el("fieldset", { class: "memory-fields" }, ...parts), measure };
}
