/** What the page knows. Views subscribe to the fields that they show; only `set` changes a field. */

/** @import {Conversation, DeviceReport, Generation, LoadedModel, Settings, StorageUse} from "./types.js" */
/** @import {Listed} from "./types.js" */

const SETTINGS_KEY = "doppler.settings";
const MODELS_KEY = "doppler.models";

/** @type {Settings} */
export const DEFAULTS = {
  system: "",
  temperature: null,
  top_k: 40,
  top_p: 0.9,
  min_p: 0,
  repetition_penalty: null,
  seed: null,
  greedy: false,
  max_tokens: 512,
  context: null,
};

/**
 * What a null stands for. Small chat models are best near their likeliest answer; a text that is
 * continued so turns in circles, and wants surprises.
 */
const FOR_KIND = {
  chat: { temperature: 0.4, repetition_penalty: 1 },
  text: { temperature: 0.8, repetition_penalty: 1.1 },
};

/**
 * @param {Conversation["kind"]} kind
 * @returns the settings with a number for each that was left to the kind of conversation
 */
export function settingsFor(kind) {
  const { settings } = state;
  const { temperature, repetition_penalty } = FOR_KIND[kind];
  return {
    ...settings,
    temperature: settings.temperature ?? temperature,
    repetition_penalty: settings.repetition_penalty ?? repetition_penalty,
  };
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
  settings: { ...DEFAULTS, ...recall(SETTINGS_KEY) },
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

// Another tab's settings are these too.
addEventListener("storage", ({ key }) => {
  if (key === SETTINGS_KEY) set({ settings: { ...DEFAULTS, ...recall(SETTINGS_KEY) } });
});

/** @param {Partial<State>} changes */
export function set(changes) {
  Object.assign(state, changes);
  if (changes.settings) remember(SETTINGS_KEY, changes.settings);
  if (changes.models) remember(MODELS_KEY, changes.models);
  for (const { fields, run } of watchers) {
    if (fields.some((field) => field in changes)) run();
  }
}
