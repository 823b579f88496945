/** What the page asks of the worker: fetch, load, delete models; answer and continue; stop. */

import { client } from "./client.js";
import { history, save } from "./conversations.js";
import { chooseContext, contextFor, obtain } from "./library.js";
import { recall, remember, set, settingsFor, state } from "./store.js";

/** @import {Conversation, Failure, Generation, GenerationResult} from "./types.js" */
/** @import {DopplerEvent, Message, Source} from "./types.js" */

export const LAST_MODEL = "doppler.lastModel";
const SAVE_EVERY_MS = 1500;
const CHANGE_STORAGE = ["download", "import_url", "import_file", "delete", "load"];

/** @param {unknown} error @returns {Failure} */
export function failure(error) {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  return { name, message };
}

/** @param {Failure} failure whether the person ended a download or import: that is no error */
export const wasCancelled = ({ name, message }) =>
  name === "RequestError" && message.startsWith("cancelled:");

export async function refresh() {
  const [models, storage] = await Promise.all([client.call("models"), client.call("storage")]);
  set({ models, storage });
}

/**
 * Fetch what is missing of a model, then load it.
 * @param {string} title
 * @param {string | null} id of a model that is wholly stored
 * @param {Source | null} source
 * @param {number | null} [context] tokens, where they were chosen for it
 */
export async function useModel(title, id, source, context = null) {
  set({ loading: title });
  try {
    const model = id ?? (source && (await obtain(source)));
    if (context && model) chooseContext(model, context);
    const most = state.models.find((stored) => stored.id === model)?.context ?? Infinity;
    const asked = context ?? (model && contextFor(model));
    const wanted = asked && Math.min(asked, most);
    await client.call("load", { id: model, ...(wanted && { context: wanted }) });
  } finally {
    set({ loading: null });
  }
}

// Whoever loads a model, a button or window.doppler, it is the model that the page then uses.
client.on("end", ({ call, result }) => {
  if (call.method === "load") {
    set({ model: result });
    remember(LAST_MODEL, { id: result.id, title: result.title });
  }
  const deleted = call.method === "delete" && call.args.id === state.model?.id;
  if (call.method === "unload" || deleted) set({ model: null });
});
for (const type of /** @type {const} */ (["end", "fail"])) {
  client.on(type, ({ call }) => {
    if (CHANGE_STORAGE.includes(call.method)) refresh().catch(() => {}); // only a list grows old
  });
}
client.on("start", ({ call }) => {
  if (call.method === "boot" || call.method === "load") set({ model: null });
});

/**
 * Sampling settings as the worker takes them, with a seed drawn where none was set.
 * @param {Conversation["kind"]} kind
 */
function samplingFor(kind) {
  const { temperature, top_k, top_p, min_p, repetition_penalty, greedy } = settingsFor(kind);
  const seed = state.settings.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  return { temperature, top_k, top_p, min_p, repetition_penalty, greedy, seed };
}

/** @type {Set<(generation: Generation) => void>} called at each piece of text and at the end */
const listeners = new Set();

/** @param {(generation: Generation) => void} run */
export const onText = (run) => listeners.add(run);

/** @param {Generation} generation */
const tell = (generation) => listeners.forEach((run) => run(generation));

/**
 * Run one generation: pieces go to `append`, and what became of it into `record`.
 * @param {Generation} generation
 * @param {string} method
 * @param {object} args
 * @param {(text: string) => void} append
 * @param {Pick<Message, "finish" | "failure" | "stats" | "dropped">} record
 */
async function generate(generation, method, args, append, record) {
  const { conversation } = generation;
  const settings = samplingFor(conversation.kind);
  let savedAt = performance.now();
  record.finish = null;
  set({ generation });
  await save(conversation);
  /** @param {DopplerEvent} event */
  const onEvent = (event) => {
    if (event.type === "prefill") {
      generation.phase = `Reading ${event.done} of ${event.total} tokens…`;
    } else if (event.type === "token") {
      generation.firstAt ||= performance.now();
      generation.tokens = event.n;
      append(state.model?.tokenizer === false ? idsText([event.id]) : event.text);
    }
    tell(generation);
    if (performance.now() - savedAt > SAVE_EVERY_MS) {
      savedAt = performance.now();
      save(conversation);
    }
  };
  try {
    const request = {
      ...args,
      sampling: settings,
      max_tokens: state.settings.max_tokens,
      stop: [],
    };
    /** @type {GenerationResult} */
    const result = await client.call(method, request, onEvent);
    record.finish = result.finish_reason;
    record.dropped = result.dropped_messages;
    record.stats = {
      tokens: result.generated_ids.length,
      reused: result.reused_tokens,
      rate: result.timings.decode_tok_s,
      first: result.timings.ttft_ms,
      seed: settings.seed,
    };
    if (state.model) set({ model: { ...state.model, memory: result.memory } });
    return result;
  } catch (error) {
    record.finish = "error";
    record.failure = failure(error);
    return null;
  } finally {
    set({ generation: null });
    tell(generation);
    save(conversation);
  }
}

/** @param {(number | null)[]} ids as they follow others in a text: each after a comma */
const idsText = (ids) => ids.map((id) => (id === null ? "" : `, ${id}`)).join("");

/** @param {string} text token ids with commas or spaces between them */
const parseIds = (text) => (text.match(/[^\s,]+/g) ?? []).map(Number);

/**
 * @param {Conversation} conversation
 * @param {Message | null} message
 * @returns {Generation}
 */
function begin(conversation, message) {
  return { conversation, message, phase: "Thinking…", tokens: 0, firstAt: 0, stopping: false };
}

/** @param {Conversation} conversation whose last message is the person's */
export async function answer(conversation) {
  /** @type {Message} */
  const message = { id: crypto.randomUUID(), role: "assistant", content: "", finish: null };
  message.model = state.model?.title;
  conversation.messages.push(message);
  const messages = history(conversation, message);
  const append = (/** @type {string} */ text) => void (message.content += text);
  const generation = begin(conversation, message);
  const result = await generate(generation, "chat", { messages }, append, message);
  if (result && result.text !== message.content) {
    message.content = result.text; // a stop string may have been streamed in part
    tell(generation);
    save(conversation);
  }
}

/** @param {Conversation} conversation the model's text goes to its end, as its newest range */
export async function continueText(conversation) {
  const prompt = conversation.text;
  const asIds = state.model?.tokenizer === false;
  const range = { start: prompt.length, end: prompt.length };
  const generation = begin(conversation, null);
  conversation.last = {};
  conversation.ranges.push(range);
  /** @param {string} text */
  const append = (text) => {
    conversation.text += text;
    range.end = conversation.text.length;
  };
  const args = asIds ? { prompt_ids: parseIds(prompt) } : { prompt };
  const result = await generate(generation, "complete", args, append, conversation.last);
  const written = result && (asIds ? idsText(result.generated_ids) : result.text);
  if (written !== null && written !== conversation.text.slice(range.start)) {
    conversation.text = prompt;
    append(written);
  }
  if (range.end === range.start) conversation.ranges.pop();
  tell(generation);
  save(conversation);
}

export async function stop() {
  if (!state.generation || state.generation.stopping) return;
  set({ generation: Object.assign(state.generation, { stopping: true, phase: "Stopping…" }) });
  await client.call("cancel", { what: "answer" }).catch(() => {}); // the answer itself says what became of it
}
