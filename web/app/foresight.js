/** How a model would run within the budgets that are set: asked of the engine, and told in words. */

import { budgets } from "./budgets.js";
import { client } from "./client.js";
import { bytes } from "./format.js";
import { recall, remember, state } from "./store.js";

/** @import {Choice, Fit, Foresight} from "./types.js" */
/** @typedef {Fit & {least: number, whole: number}} Bounded */

const SPEEDS = "doppler.gpuSpeeds";
export const ASKED_AFTER_MS = 150; // a slider is moved through many values

/** @type {Promise<number | null> | null} */
let measuring = null;

/** @returns {Promise<number | null>} GB a second that this GPU reads, where it could be measured */
async function gpuSpeed() {
  const key = JSON.stringify(state.device?.adapter);
  const known = recall(SPEEDS)?.[key];
  if (known) return known;
  const { model, generation, loading } = state;
  if (generation || loading || (model?.gpu_budget ?? null) !== null) return null; // no room or time
  measuring ??= client
    .call("bandwidth", {})
    .then(
      ({ gb_s }) => gb_s,
      () => null,
    )
    .finally(() => (measuring = null));
  const found = await measuring;
  if (found) remember(SPEEDS, { ...recall(SPEEDS), [key]: found });
  return found;
}

/**
 * @param {Fit | undefined} fit
 * @returns {fit is Bounded} whether it is known which budgets the model takes at that context
 */
export const isBounded = (fit) => fit !== undefined && fit.least !== null && fit.whole !== null;

/** @param {Fit | undefined} fit @returns {fit is Bounded} whether the GPU's budget is below all of it */
export const isPaged = (fit) =>
  isBounded(fit) && state.settings.gpu_budget !== null && state.settings.gpu_budget < fit.whole;

/** @param {Bounded} fit whether the budget is less than the least that the model needs */
export const lacksRoom = ({ least }) => (state.settings.gpu_budget ?? Infinity) < least;

/**
 * @param {Choice} choice
 * @param {Bounded} fit
 * @returns {Promise<Foresight>}
 */
export async function foresee({ needs }, { least, whole }) {
  const gb_s = await gpuSpeed();
  const limits = { gpu_budget: whole, ...budgets() };
  if (!needs) throw new Error("nothing is known of what the model needs");
  return client.call("foresee", { needs, least, whole, ...limits, ...(gb_s && { gb_s }) });
}

/** @param {number} value @returns {string} two digits: it is an estimate */
const roughly = (value) => Number(value.toPrecision(2)).toLocaleString("en");

/** @param {number} share */
export const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;

/**
 * @param {Foresight} foresight
 * @returns {{verdict: string, detail: string}} what follows "Does not fit:", and why
 */
export function wordsOf({ way, resident, hit_rate, brought, tok_s }) {
  const speed = tok_s ? ` at about ${roughly(tok_s)} tokens a second` : "";
  const sure = tok_s
    ? " This is an estimate by a careful model of cost; texts differ."
    : " How fast cannot be said yet: the GPU is measured when no model with a budget is loaded.";
  switch (way) {
    case "experts": {
      const found = `${percent(resident)} of its experts have room at once, and about ${percent(hit_rate ?? 0)} of those that are used would be there.`;
      const moved = ` About ${bytes(brought)} a token are brought.`;
      return { verdict: `runs by paging${speed}`, detail: found + moved + sure };
    }
    case "layers": {
      const moved = `${percent(resident)} of it stay on the GPU, and up to ${bytes(brought)} of keys, values and layers are brought for every token.`;
      return { verdict: `streams what has no room${speed}`, detail: moved + sure };
    }
    case "table":
      return {
        verdict: "runs with its layers' own embeddings in storage",
        detail: "Of these each token needs one row, which is read when it is known: it is slower.",
      };
    default:
      return { verdict: "", detail: "" };
  }
}
