/** The models of this browser: where they come from, what they are, the context chosen for each. */

import { budgets, storageBudget } from "./budgets.js";
import { client } from "./client.js";
import { named } from "./names.js";
import { keepModels } from "./offline.js";
import { linked, taking } from "./sharing/connection.js";
import { recall, remember, state } from "./store.js";

/** @import {Inspection, Source} from "./types.js" */

const SOURCES = "doppler.sources";
const CONTEXTS = "doppler.contexts";

/** @param {string} name @returns {Source | null} where a half-fetched model was coming from */
export const knownSource = (name) => recall(SOURCES)?.[name] ?? null;

/**
 * Without sharing, peers are left when it is here: then all of it has to be.
 * @param {string} id
 * @returns {Promise<string>} the same, once it is
 */
function fromPeers(id) {
  const budget = state.sharing.models.includes(id) ? storageBudget() : {};
  return taking(id, async () => (await client.call("download_from_peers", { id, ...budget })).id);
}

/** @param {string} id @returns {Source | null} the peers, where a link named the model */
export const knownPeers = (id) => (linked(id) ? { kind: "peers", id } : null);

/**
 * Bring a model into storage; what is already there is not fetched again.
 * @param {Source} source
 * @returns {Promise<string>} its id
 */
export async function obtain(source) {
  await keepModels();
  if (source.kind === "manifest") {
    const { url, id } = source;
    return (await client.call("download", { url, ...(id && { id }), ...storageBudget() })).id;
  }
  if (source.kind === "peers") return fromPeers(source.id);
  const { kind, name, quant } = source;
  if (kind === "files") {
    const args = { folder: source.folder ?? undefined, name, quant };
    return (await client.call("import_file", args, null, source.files)).id;
  }
  if (name) remember(SOURCES, { ...recall(SOURCES), [name]: source });
  return (await client.call("import_url", { url: source.url, name, quant })).id;
}

/** @param {string} id @returns {number | null} tokens: for this model, or as the settings say */
export const contextFor = (id) => recall(CONTEXTS)?.[id] ?? state.settings.context;

/** What else of a model's room is as the settings say, where all of it has some. */
function roomBesides() {
  const { kv } = state.settings;
  return kv ? { kv } : {};
}

/** The same, within the budgets. */
export const roomToLoad = () => ({ ...roomBesides(), ...budgets(), ...storageBudget() });

/**
 * @param {string} id
 * @param {number | null} context that the model is loaded with from now on; null: as settings say
 */
export function chooseContext(id, context) {
  remember(CONTEXTS, { ...recall(CONTEXTS), [id]: context ?? undefined });
}

/**
 * What a model is and what it takes, before it is stored or loaded.
 * @param {Source | string} model or the id of a stored one
 * @returns {Promise<Inspection>}
 */
export async function inspect(model) {
  const inspection = await inspected(model);
  return { ...inspection, choices: inspection.choices.map(named) };
}

/** @param {Source | string} model @returns {Promise<Inspection>} */
function inspected(model) {
  const wanted = typeof model === "string" ? contextFor(model) : state.settings.context;
  const args = { ...(wanted && { context: wanted }), ...roomBesides() };
  if (typeof model === "string") return client.call("inspect", { ...args, id: model });
  if (model.kind === "peers") return client.call("inspect", { ...args, id: model.id });
  if (model.kind !== "files") return client.call("inspect", { ...args, url: model.url });
  return client.call("inspect", { ...args, folder: model.folder ?? undefined }, null, model.files);
}

/** @param {string} id */
export async function deleteModel(id) {
  await client.call("delete", { id });
  chooseContext(id, null);
}
