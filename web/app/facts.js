/** What a model is and what it takes, in words: a sentence and a table. */

import { el } from "./dom.js";
import { bytes, parameters } from "./format.js";

/** @import {Choice, Facts, Fit} from "./types.js" */

/** @param {number} count */
export const tokens = (count) => `${count.toLocaleString("en")} tokens`;

/** @param {Facts} facts */
function kindOf({ chat, chat_problem, tokenizer }) {
  if (!tokenizer) return "A model without a tokenizer, which takes token ids only,";
  if (chat_problem) return `A model that continues text only (${chat_problem}),`;
  return chat ? "A chat model" : "A base model, which continues text,";
}

/**
 * @param {Choice} choice
 * @param {Fit | undefined} fit at the context that is chosen
 */
export function sentence(choice, fit) {
  const { needed } = choice.storage;
  const what = `${kindOf(choice)} with ${parameters(choice.parameters)} parameters.`;
  const store = needed > 0 && `Storing it takes ${bytes(needed)} of this browser's storage.`;
  const run =
    fit?.memory &&
    `Running it takes ${bytes(fit.memory.total)} of GPU memory at a context of ${tokens(fit.context)}.`;
  return [what, store, run].filter(Boolean).join(" ");
}

/** @param {Facts} facts @returns {string} the shares of the block types, but for traces */
function mixOf({ types }) {
  const all = Object.values(types).reduce((sum, size) => sum + size, 0);
  const shares = Object.entries(types).map(([type, size]) => ({ type, share: size / all }));
  if (shares.length === 1) return shares[0].type;
  return shares
    .filter(({ share }) => share >= 0.005)
    .map(({ type, share }) => `${Math.round(100 * share)} % ${type}`)
    .join(", ");
}

/** @param {Facts} facts */
function buildOf({ architecture, layers, experts }) {
  const mixture = experts && `${experts.count} experts, of which a token uses ${experts.used}`;
  return [architecture, `${layers} layers`, mixture].filter(Boolean).join(", ");
}

/** @param {Fit} fit */
function memoryOf({ memory }) {
  if (!memory) return "does not fit";
  const { weights, kv, activations } = memory;
  return `${bytes(weights)} weights, ${bytes(kv)} context, ${bytes(activations)} working memory`;
}

/**
 * @param {Choice} choice
 * @param {Fit | undefined} fit at the context that is chosen
 * @returns {HTMLElement[]} terms and descriptions of a list
 */
export function table(choice, fit) {
  /** @type {[string, string][]} */
  const rows = [
    ["Architecture", buildOf(choice)],
    ["Parameters", parameters(choice.parameters)],
    ["Weights", `${bytes(choice.bytes)}: ${mixOf(choice)}`],
    ["Longest context", tokens(choice.context)],
    ["Vocabulary", tokens(choice.vocab)],
    ["Chat template", choice.chat ? "yes" : (choice.chat_problem ?? "none")],
    ["Licence", choice.license ?? "not stated"],
  ];
  if (fit) rows.push(["GPU memory", memoryOf(fit)]);
  return rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}
