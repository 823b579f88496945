/** What the page knows. Views subscribe to the fields that they show; only `set` changes a field. */

/** @import {Conversation, DeviceReport, Generation, LoadedModel, OwnSampling, Settings} from "./types.js" */
/** @import {Listed, Sharing, StorageUse} from "./types.js" */

const SETTINGS_KEY = "doppler.settings";
const MODELS_KEY = "doppler.models";
const SHARING_KEY = "doppler.sharing";

/** @type {Settings} */
export const DEFAULTS = {
  system: "",
  temperature: null,
  top_k: null,
  top_p: null,
  min_p: null,
  repetition_penalty: null,
  greedy: null,
  seed: null,
  max_tokens: 512,
  context: null,
  kv: null,
  gpu_budget: null,
  host_budget: null,
  storage_budget: null,
  trackers: null,
  ice_servers: null,
  form: 2,
};

/** @type {Sharing} */
const NOTHING_SHARED = { models: [], links: {}, rate: 1e6, volume: 2e9, copies: 4 };

/**
 * Sampling where neither a person nor the model's files say anything. Small chat models are best
 * near their likeliest answer; a text that is continued so turns in circles, and wants surprises.
 */
const OURS = { top_k: 40, top_p: 0.9, min_p: 0, greedy: false };
const FOR_KIND = {
  chat: { ...OURS, temperature: 0.4, repetition_penalty: 1 },
  text: { ...OURS, temperature: 0.8, repetition_penalty: 1.1 },
};

/**
 * @param {Conversation["kind"]} kind
 * @returns {OwnSampling} what a setting of null stands for
 */
export function ownSampling(kind) {
  const said = Object.entries(state.model?.sampling ?? {}).filter(([, value]) => value !== null);
  return { ...FOR_KIND[kind], ...Object.fromEntries(said) };
}

/**
 * @param {Conversation["kind"]} kind
 * @returns {Settings & OwnSampling} the settings with a value for each that nobody chose
 */
export function settingsFor(kind) {
  const { settings } = state;
  const own = ownSampling(kind);
  const chosen = Object.entries(own).map(([key, value]) => [
    key,
    settings[/** @type {keyof OwnSampling} */ (key)] ?? value,
  ]);
  const all = { ...settings, ...own, ...Object.fromEntries(chosen) };
  const draws = [settings.temperature, settings.top_k, settings.top_p, settings.min_p];
  // Who chose how to draw draws, also from a model whose files say greedy (as the engine has it).
  const isDrawn = settings.greedy === null && draws.some((value) => value !== null);
  return isDrawn ? { ...all, greedy: false } : all;
}

/** @returns {Settings} as they are kept; once, numbers were kept that nobody had chosen */
function recallSettings() {
  const kept = recall(SETTINGS_KEY) ?? {};
  const unchosen = Object.entries(OURS).filter(([key, value]) => !kept.form && kept[key] === value);
  return { ...DEFAULTS, ...kept, ...Object.fromEntries(unchosen.map(([key]) => [key, null])) };
}

/** @returns {Sharing} as it is kept; once, only the trackers of a link were kept */
function recallSharing() {
  const kept = { ...NOTHING_SHARED, ...recall(SHARING_KEY) };
  const links = Object.entries(kept.links).map(([id, named]) => [
    id,
    Array.isArray(named) ? { trackers: named, torrents: [] } : named,
  ]);
  return { ...kept, links: Object.fromEntries(links) };
}

/**
 * @param {string} key
 * @param {"localStorage" | "sessionStorage"} [kept] the latter for what is this tab's own
 * @returns {any} null where there is nothing, or storage is blocked
 */
export function recall(key, kept = "localStorage") {
  try {
    return JSON.parse(window[kept].getItem(key) ?? "null");
  } catch {
    return null;
  }
}

/**
 * @param {string} key
 * @param {unknown} value null removes it
 * @param {"localStorage" | "sessionStorage"} [kept]
 */
export function remember(key, value, kept = "localStorage") {
  try {
    if (value === null) window[kept].removeItem(key);
    else window[kept].setItem(key, JSON.stringify(value));
  } catch {
    // blocked or full: it lasts as long as the page
  }
}

/**
 * @typedef {object} State
 * @property {DeviceReport | null} device
 * @property {StorageUse | null} storage
 * @property {Listed[]} models stored in this browser
 * @property {LoadedModel | null} model on the GPU
 * @property {string | null} loading title of what is being fetched or loaded
 * @property {Generation | null} generation
 * @property {Conversation[]} conversations newest first
 * @property {Conversation | null} current
 * @property {Conversation | null} received the last that another tab changed
 * @property {Set<string>} elsewhere ids of messages, and of texts, that other tabs are writing
 * @property {"models" | "conversation"} view
 * @property {Settings} settings
 * @property {Sharing} sharing
 */

/** @type {State} */
export const state = {
  device: null,
  storage: null,
  models: recall(MODELS_KEY) ?? [], // as they were known last, until the engine tells
  model: null,
  loading: null,
  generation: null,
  conversations: [],
  current: null,
  received: null,
  elsewhere: new Set(),
  view: "models",
  settings: recallSettings(),
  sharing: recallSharing(),
};

/** @type {{fields: (keyof State)[], run: () => void}[]} */
const watchers = [];

/**
 * Call `run` now and whenever one of the fields has been set.
 * @param {(keyof State)[]} fields
 * @param {() => void} run
 */
export function watch(fields, run) {
  watchers.push({ fields, run });
  run();
}

// Another tab's settings are these too, and what it shares.
addEventListener("storage", ({ key }) => {
  if (key === SHARING_KEY) set({ sharing: recallSharing() });
  if (key === SETTINGS_KEY) set({ settings: recallSettings() });
});

/** @param {Partial<State>} changes */
export function set(changes) {
  Object.assign(state, changes);
  if (changes.settings) remember(SETTINGS_KEY, changes.settings);
  if (changes.sharing) remember(SHARING_KEY, changes.sharing);
  if (changes.models) remember(MODELS_KEY, changes.models);
  for (const { fields, run } of watchers) {
    if (fields.some((field) => field in changes)) run();
  }
}
