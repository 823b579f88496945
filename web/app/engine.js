/** What the page asks of the worker: fetch, load, delete models; answer and continue; stop. */

import { client } from "./client.js";
import { begin, keep, put } from "./continuations.js";
import { change, history, hold, letGo, save } from "./conversations.js";
import { chooseContext, contextFor, obtain, roomToLoad } from "./library.js";
import { stamp } from "./merge.js";
import { named, nameOf } from "./names.js";
import { toast } from "./notices.js";
import { recall, remember, set, settingsFor, state, watch } from "./store.js";
import { beginWriting, onTold, tell } from "./tabs.js";
import { add } from "./thread.js";
import { EMPTY, writerOf } from "./writer.js";

/** @import {Conversation, Failure, Generation, GenerationResult, Journal} from "./types.js" */
/** @import {Message, MessageToolCall, Methods, Source, TokenEvent} from "./types.js" */

export const LAST_MODEL = "doppler.lastModel";
const SAVE_EVERY_MS = 1500;
const TELL_EVERY_MS = 150;
const CHANGE_STORAGE = [
  "download",
  "download_from_peers",
  "import_url",
  "import_file",
  "give_files",
  "delete",
  "load",
];

/** @param {unknown} error @returns {Failure} */
export function failure(error) {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  return { name, message };
}

/** @param {Failure} failure whether the person ended a download or import: that is no error */
export const wasCancelled = ({ name, message }) =>
  name === "RequestError" && message.startsWith("cancelled:");

export async function refresh() {
  const [models, storage] = await Promise.all([
    client.call("models", {}),
    client.call("storage", {}),
  ]);
  set({ models: models.map(named), storage });
}

/**
 * Fetch what is missing of a model, then load it.
 * @param {string} title
 * @param {string | null} id of a model that is wholly stored
 * @param {Source | null} source where there is no id
 * @param {number | null} [context] tokens, where they were chosen for it
 */
export async function useModel(title, id, source, context = null) {
  if (state.loading) return toast(`First ${state.loading} has to be there, or be cancelled.`);
  set({ loading: title });
  try {
    const model = id ?? (await obtain(/** @type {Source} */ (source)));
    const stored = state.models.find((listed) => listed.id === model);
    const most = stored?.problem === null ? stored.context : Infinity;
    const asked = context ?? contextFor(model);
    const wanted = asked && Math.min(asked, most);
    const room = { ...(wanted && { context: wanted }), ...roomToLoad() };
    await client.call("load", { id: model, ...room });
    if (context) chooseContext(model, context);
  } finally {
    set({ loading: null });
  }
}

// Which model the page uses is what the engine says, whoever asked: a button or window.doppler.
client.on("end", ({ call, result }) => {
  if (call.method !== "load") return;
  set({ model: named(result) });
  remember(LAST_MODEL, { id: result.id, title: nameOf(result.title) });
});
client.on("event", ({ event }) => {
  if (event?.type === "unloaded") set({ model: null });
});
client.on("start", ({ call }) => {
  if (call.method === "boot") set({ model: null }); // a new worker has none
});

const refreshed = () => refresh().catch(() => {}); // only a list grows old

/** @type {WeakSet<object>} calls that bring a model from peers, and have its manifest */
const arriving = new WeakSet();
client.on("event", ({ call, event }) => {
  if (call.method !== "download_from_peers" || event?.type !== "progress") return;
  if (!arriving.has(call)) refreshed(); // its name is known now, and its licence
  arriving.add(call);
});
for (const type of /** @type {const} */ (["end", "fail"])) {
  client.on(type, ({ call }) => {
    if (!CHANGE_STORAGE.includes(call.method)) return;
    refreshed();
    const deleted = type === "end" && call.method === "delete";
    tell("models", { deleted: deleted ? String(call.args.id) : null });
  });
}

// A model that another tab deleted is gone here too, as if it had been deleted here.
onTold("models", async ({ deleted }) => {
  refreshed();
  if (!deleted || state.model?.id !== deleted) return;
  const { title } = state.model;
  await client.call("unload", {}).catch(() => {}); // refused: it is in use, and says so
  toast(`${title} was deleted in another tab.`);
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

/**
 * What an answer is asked with, and its ids: they are stored with it while it is written, so that it
 * goes on from them if it is cut off.
 * @param {Generation} generation
 * @returns {Journal}
 */
function journalOf({ conversation: { kind }, message }) {
  const { max_tokens } = state.settings;
  const model = state.model?.id ?? "";
  const journal = message?.journal ?? { model, sampling: samplingFor(kind), max_tokens, ids: [] };
  if (message && message.journal !== journal) {
    message.journal = journal;
    message.updated = stamp(message.updated); // or what is stored without it would be as good
  }
  return journal;
}

/** @param {Message} message whether it was cut off, and can go on */
export const isCutOff = ({ journal, gone }) => !gone && Boolean(journal?.ids.length);

/** @type {Set<(generation: Generation) => void>} called at each piece of text and at the end */
const listeners = new Set();

/** @param {(generation: Generation) => void} run */
export const onText = (run) => listeners.add(run);

/** @param {Generation} generation */
const announcePiece = (generation) => listeners.forEach((run) => run(generation));

const STOPPED = /** @type {const} */ ({ finish: "cancelled" });
const FAILED = /** @type {const} */ ({ finish: "error" });

/** @param {Generation} generation @returns {Partial<Message>} where it is noted how it went */
const recordOf = ({ conversation, message }) => message ?? (conversation.last ??= {});

/** @param {Generation} generation something of it changed: a later state than any other tab's */
function touch({ conversation, message }) {
  if (message) message.updated = stamp(message.updated);
  else change(conversation, "text", {});
}

/** @param {Generation} generation what other tabs show of it before it is stored */
function tellPiece({ conversation, message }) {
  const { id, text, ranges, place, last, stamps } = conversation;
  tell("piece", message ? { id, messages: [message] } : { id, text, ranges, place, last, stamps });
}

/**
 * Run `work` as the one generation of this tab. Its place is taken before anything is awaited. An
 * answer that was cut off goes on from what is stored of it once no other tab writes it; where that
 * tab brought it to its end, nothing is done.
 * @param {Conversation} conversation
 * @param {Message | null} message
 * @param {(generation: Generation) => Promise<void>} work
 */
async function generating(conversation, message, work) {
  let finished = () => {};
  const done = /** @type {Promise<void>} */ (new Promise((resolve) => (finished = resolve)));
  const cutOff = message && isCutOff(message) ? message : null;
  const waiting = cutOff && new AbortController();
  const counts = { tokens: 0, before: 0, firstAt: 0, stopping: false, waiting, done };
  /** @type {Generation} */
  const generation = { conversation, message, phase: "Starting…", ...counts };
  hold(conversation);
  set({ generation });
  /** @type {(() => void) | null} */
  let release = null;
  let isDue = false;
  try {
    release = await beginWriting((message ?? conversation).id, waiting?.signal);
    if (cutOff) await save(conversation, false); // and takes over what is stored
    isDue = release !== null && (!cutOff || isCutOff(cutOff));
    if (isDue) await recording(generation, work);
  } finally {
    set({ generation: null });
    announcePiece(generation);
    await save(conversation, isDue);
    letGo(conversation);
    release?.();
    finished();
  }
}

/**
 * Run `work`, and note that it runs, and how it ended.
 * @param {Generation} generation
 * @param {(generation: Generation) => Promise<void>} work
 */
async function recording(generation, work) {
  const { conversation, message } = generation;
  if (!message) conversation.last = {};
  const record = recordOf(generation);
  record.finish = null;
  delete record.failure;
  touch(generation);
  try {
    await save(conversation);
    await work(generation);
  } catch (error) {
    const problem = failure(error);
    const end = problem.name === "Restarted" ? STOPPED : { ...FAILED, failure: problem };
    Object.assign(recordOf(generation), end);
  } finally {
    if (message?.gone) Object.assign(message, EMPTY); // deleted meanwhile
    if (conversation.gone) forget(conversation);
    if (!message) keep(conversation);
    touch(generation);
  }
}

/**
 * @template {"chat" | "complete"} M
 * @param {Generation} generation
 * @param {M} method
 * @param {Methods[M]["args"]} args
 * @param {(text: string, part: TokenEvent["part"]) => void} append
 * @param {(call: MessageToolCall) => void} [called]
 * @returns {Promise<GenerationResult | null>} null where it was stopped before it began
 */
async function generate(generation, method, args, append, called) {
  const { conversation } = generation;
  const record = recordOf(generation);
  if (generation.stopping) {
    Object.assign(record, STOPPED);
    return null;
  }
  const journal = journalOf(generation);
  const { sampling, max_tokens, ids } = journal;
  const before = (generation.before = ids.length);
  if (before && journal.model !== state.model?.id) throw otherModel(generation);
  let savedAt = performance.now();
  let toldAt = 0;
  /** @param {Methods[M]["events"]} event */
  const onEvent = (event) => {
    if (event.type === "prefill") {
      generation.phase = `Reading ${event.done} of ${event.total} tokens…`;
    } else if (event.type === "tool_call") {
      called?.(event.call);
      touch(generation);
    } else {
      generation.firstAt ||= performance.now();
      generation.tokens = event.n;
      if (event.id !== null && event.n === ids.length + 1) ids.push(event.id);
      append(state.model?.tokenizer === false ? idsText([event.id]) : event.text, event.part);
      touch(generation);
    }
    announcePiece(generation);
    const now = performance.now();
    if (now - savedAt > SAVE_EVERY_MS) {
      savedAt = now;
      save(conversation);
    } else if (now - toldAt > TELL_EVERY_MS) {
      toldAt = now;
      tellPiece(generation);
    }
  };
  const written = before ? { written: [...ids] } : {};
  const asked = { sampling, max_tokens, stop: [], conversation: conversation.id, ...written };
  const result = await client.call(method, { ...args, ...asked }, onEvent);
  const hadNoRoom = result.finish_reason === "context" && result.generated_ids.length === before;
  if (!hadNoRoom) delete record.journal; // else it goes on in a longer context
  record.finish = result.finish_reason;
  record.dropped = result.dropped_messages;
  record.stats = {
    tokens: result.generated_ids.length,
    reused: result.reused_tokens,
    rate: result.timings.decode_tok_s,
    first: result.timings.ttft_ms,
    seed: /** @type {number} */ (sampling.seed),
  };
  if (state.model) set({ model: { ...state.model, memory: result.memory } });
  return result;
}

/** @param {Generation} generation that would go on with ids of another model than the loaded one */
function otherModel({ message }) {
  const began = message?.model ?? "another model";
  const text = `This answer was begun by ${began}, which is not loaded: load it, then go on.`;
  return Object.assign(new Error(text), { name: "RequestError" });
}

/** @param {(number | null)[]} ids as they follow others in a text: each after a comma */
const idsText = (ids) => ids.map((id) => (id === null ? "" : `, ${id}`)).join("");

/** @param {string} text token ids with commas or spaces between them */
const parseIds = (text) => (text.match(/[^\s,]+/g) ?? []).map(Number);

/**
 * @param {Conversation} conversation
 * @param {Message | null} asked the person's message; a further answer to it is a further version
 */
export async function answer(conversation, asked) {
  const model = state.model?.title;
  const message = add(conversation, asked, { role: "assistant", content: "", model });
  await writeAnswer(conversation, message);
}

/**
 * Go on with an answer that was cut off, as if it had not been.
 * @param {Conversation} conversation
 * @param {Message} message
 */
export async function goOn(conversation, message) {
  await writeAnswer(conversation, message);
}

/** @param {Conversation} conversation @param {Message} message with what was written of it before */
const writeAnswer = (conversation, message) =>
  generating(conversation, message, async (generation) => {
    const messages = history(conversation, message);
    const { append, called, end } = writerOf(message, generation);
    const result = await generate(generation, "chat", { messages }, append, called);
    if (result) end(result);
  });

/**
 * @param {Conversation} conversation
 * @param {number} [at] where the model's text goes: the end, or before what was typed since
 * @param {Message} [replaced] the version that stands there; it is put back if nothing comes
 */
export async function continueText(conversation, at = conversation.text.length, replaced) {
  const asIds = state.model?.tokenizer === false;
  keep(conversation);
  if (replaced) put(conversation, null);
  await generating(conversation, null, async (generation) => {
    const prompt = conversation.text.slice(0, at);
    const write = begin(conversation, at);
    let written = "";
    const args = asIds ? { prompt_ids: parseIds(prompt) } : { prompt };
    const append = (/** @type {string} */ text) => write((written += text));
    try {
      const result = await generate(generation, "complete", args, append);
      if (result) write(asIds ? idsText(result.generated_ids) : result.text);
    } finally {
      // Before the generation's end is shown and stored: nobody meets the text without either.
      const { last, place } = conversation;
      if (replaced && place?.start === at && !place.shown) {
        put(conversation, replaced);
        change(conversation, "text", { last });
      }
    }
  });
}

/** @param {Conversation} conversation that was deleted: nothing of it is kept for its next answer */
export async function forget({ id }) {
  await client.call("forget", { conversation: id }).catch(() => {}); // it goes when room is made
}

export async function stop() {
  if (!state.generation || state.generation.stopping) return;
  set({ generation: Object.assign(state.generation, { stopping: true, phase: "Stopping…" }) });
  state.generation.waiting?.abort();
  await client.call("cancel", { what: "answer" }).catch(() => {}); // the answer itself says what became of it
}

// What another tab deleted is written no further.
watch(["received"], () => {
  const { generation } = state;
  if (generation?.conversation.gone || generation?.message?.gone) stop();
});

/**
 * Stop what is being written, and wait until it is stored.
 * @param {Conversation} [conversation] if it is in this one
 */
export async function endWriting(conversation) {
  const { generation } = state;
  if (!generation || (conversation && generation.conversation !== conversation)) return;
  await stop();
  await generation.done;
}
