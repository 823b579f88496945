/**
 * @file A budget of memory that a person changes counts for the loaded model too: at once where the
 * engine can do that, and else the model is loaded again when no answer is being written. Keys and
 * values of the conversation are kept for that, so that nothing is read twice.
 */

import { attempt } from "./actions.js";
import { client } from "./client.js";
import { useModel } from "./engine.js";
import { set, state, watch } from "./store.js";

/** @import {LoadedModel} from "./types.js" */

const AFTER_MS = 500; // a slider passes many budgets

// How a model was loaded, by whoever did, stands until a person changes a budget.
let wanted = keyOf();
let pending = false;
let busy = false;
let timer = 0;

/** The budgets of the settings, to be compared. */
function keyOf() {
  const { gpu_budget, host_budget } = state.settings;
  return JSON.stringify({ gpu_budget, host_budget });
}

/** @param {LoadedModel} model once what it has of the conversation is stored */
async function again(model) {
  await client.call("keep", {});
  if (state.model === model && !state.generation)
    await attempt(() => useModel(model.title, model.id, null));
}

/** Has the loaded model keep to what was set last. */
async function refit() {
  const { model, loading, generation, settings } = state;
  if (!pending || busy || loading) return;
  pending = false;
  if (!model) return; // the next one is loaded with it
  const { gpu_budget, host_budget } = settings;
  busy = true;
  try {
    const { load } = await client.call("set_budgets", { gpu_budget, host_budget });
    if (load && generation)
      pending = true; // once it is written
    else if (load) await again(model);
    else if (state.model === model && model.gpu_budget !== gpu_budget)
      set({ model: { ...model, gpu_budget } });
  } catch {
    // it does not fit, as is said beside the slider; or the engine is gone, and tells itself
  } finally {
    busy = false;
  }
  if (!state.generation) refit();
}

export function startRefit() {
  watch(["settings"], () => {
    if (keyOf() === wanted) return;
    wanted = keyOf();
    pending = true;
    clearTimeout(timer);
    timer = setTimeout(refit, AFTER_MS);
  });
  watch(["generation", "loading"], () => {
    if (!state.generation) refit();
  });
}
