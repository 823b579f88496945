/**
 * Conversations, kept in IndexedDB and shared with other tabs; drafts of what is being typed, in
 * localStorage (written at once).
 */

import { saidIn } from "./calls.js";
import { isFull, read, readAll, write } from "./database.js";
import { kept, letKeptGo } from "./kept.js";
import { merge, stamp } from "./merge.js";
import { nameOf } from "./names.js";
import { toast } from "./notices.js";
import { recall, remember, set, state } from "./store.js";
import { beingWritten, onTold, tell, untilWritten } from "./tabs.js";
import { become, before, path } from "./thread.js";

/** @import {ChatMessage, Conversation, Message, Part} from "./types.js" */

const AGAIN_MS = 10_000; // after the browser refused to store something

/** Read what is stored. Throws where the browser keeps nothing (private windows of some). */
export async function restore() {
  const all = await readAll();
  list(...all);
  await followWriting(all);
  letOrphansGo().catch(() => {}); // the next time, then
}

/** Ids that the page gives; others are of whoever asks the engine in the console. */
const OURS = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** What the engine kept of conversations that are gone: their end was not heard of, or was cut off. */
async function letOrphansGo() {
  const ids = (await kept()).filter((id) => OURS.test(id));
  const stored = await read(ids);
  const alive = new Set(stored.filter(({ gone }) => !gone).map(({ id }) => id));
  await letKeptGo((id) => ids.includes(id) && !alive.has(id));
}

/** @param {Conversation[]} changed their places in the list; the deleted have none */
function list(...changed) {
  const ids = new Set(changed.map(({ id }) => id));
  const others = state.conversations.filter(({ id }) => !ids.has(id));
  const all = [...others, ...changed.filter(({ gone }) => !gone)];
  set({ conversations: all.sort((a, b) => b.updated - a.updated) });
}

/** @param {Conversation["kind"]} kind @returns {Conversation} */
export function create(kind) {
  const now = stamp();
  const empty = { title: "", messages: [], shown: {}, text: "", ranges: [], gone: false };
  const times = { created: now, updated: now };
  const stamps = { title: now, system: now, text: now, gone: now };
  return {
    id: crypto.randomUUID(),
    kind,
    ...times,
    ...empty,
    system: state.settings.system,
    stamps,
  };
}

/** @param {Conversation} conversation */
export const isEmpty = ({ messages, text }) => messages.length === 0 && text === "";

/** @param {Conversation} conversation */
export function titleOf(conversation) {
  const { title, kind, text } = conversation;
  if (title) return nameOf(title);
  const begun = kind === "chat" ? (path(conversation)[0]?.content ?? "") : text.slice(0, 400);
  return nameOf(begun, 60) || (kind === "chat" ? "New chat" : "New text");
}

/**
 * Set fields that belong to one part; `save` then keeps them.
 * @param {Conversation} conversation
 * @param {Part} part
 * @param {Partial<Conversation>} fields
 */
export function change(conversation, part, fields) {
  Object.assign(conversation, fields);
  conversation.stamps[part] = stamp(conversation.stamps[part]);
}

/**
 * Write a conversation that changed. An empty one is not kept until something is in it.
 * @param {Conversation} conversation
 * @param {boolean} [touched] false leaves its place in the list
 */
export async function save(conversation, touched = true) {
  if (touched) conversation.updated = stamp();
  const listed = state.conversations.includes(conversation);
  if (isEmpty(conversation) && !listed) return;
  list(conversation);
  await keep(conversation);
}

/** @type {Set<Conversation>} that the browser refused to store: they are in this tab alone */
const unsaved = new Set();
let trying = 0;

/** @param {Conversation[]} some */
async function keep(...some) {
  for (const conversation of some) unsaved.add(conversation);
  try {
    const stored = await write(some);
    some.forEach((conversation, index) => absorb(conversation, stored[index]));
    for (const conversation of some) unsaved.delete(conversation);
    const ids = some.map(({ id }) => id);
    tell("changed", ids);
    if (!unsaved.size) document.dispatchEvent(new CustomEvent("saved"));
  } catch (error) {
    document.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
    clearTimeout(trying);
    if (isFull(error)) trying = setTimeout(() => keep(...unsaved), AGAIN_MS); // room may have been made meanwhile
  }
}

/**
 * @param {Conversation} conversation
 * @returns {Promise<() => Promise<void>>} brings it back
 */
export async function remove(conversation) {
  change(conversation, "gone", { gone: true });
  list(conversation);
  if (state.current === conversation) set({ current: null });
  await keep(conversation);
  return async () => {
    change(conversation, "gone", { gone: false });
    list(conversation);
    await keep(conversation);
  };
}

/**
 * Take over conversations of a file. Where one is here already they are merged; the file brings back
 * what was deleted since.
 * @param {Conversation[]} some
 * @returns {Promise<{all: Conversation[], fresh: number}>} as they are here now; how many were not
 */
export async function bring(some) {
  const all = [];
  let fresh = 0;
  for (const conversation of some) {
    const known = state.conversations.find(({ id }) => id === conversation.id);
    fresh += Number(!known);
    for (const message of known?.messages ?? []) {
      const kept = message.gone && conversation.messages.find(({ id }) => id === message.id);
      if (kept) kept.updated = stamp(message.updated);
    }
    // A text that went on elsewhere is taken over; one that went another way is not lost to it.
    if (known && !conversation.text.startsWith(known.text)) conversation.stamps.text = 0;
    if (known) absorb(known, conversation);
    else change(conversation, "gone", { gone: false });
    all.push(known ?? conversation);
  }
  list(...all);
  await keep(...all);
  return { all, fresh };
}

/**
 * Until when a conversation's versions are shown as this tab chose them, whatever another chooses.
 * @type {Map<string, number>}
 */
const held = new Map();

/** @param {Conversation} conversation what is shown of it stays while it is written or edited here */
export const hold = ({ id }) => void held.set(id, Infinity);

/** @param {Conversation} conversation follows choices that are made from now on */
export const letGo = ({ id }) => void held.set(id, stamp());

/**
 * Take over what another tab did, in place: views hold the conversation and its messages.
 * @param {Conversation} conversation
 * @param {Conversation} other
 */
function absorb(conversation, other) {
  const until = held.get(conversation.id) ?? 0;
  const merged = merge(conversation, other);
  const mine = new Map(conversation.messages.map((message) => [message.id, message]));
  const messages = merged.messages.map((message) => {
    const old = mine.get(message.id);
    return old && old !== message ? become(old, message) : message;
  });
  const shown = { ...merged.shown };
  for (const [key, choice] of Object.entries(conversation.shown)) {
    if (shown[key].at <= until) shown[key] = choice;
  }
  become(conversation, { ...merged, messages, shown });
}

/** @param {Conversation} conversation that another tab changed */
function show(conversation) {
  set({ received: conversation });
  if (!conversation.gone || state.current !== conversation) return;
  set({ current: null });
  toast(`“${titleOf(conversation)}” was deleted in another tab.`);
}

onTold("changed", async (ids) => {
  const stored = await read(ids);
  const known = new Map(state.conversations.map((conversation) => [conversation.id, conversation]));
  if (state.current) known.set(state.current.id, state.current);
  const changed = stored.map((one) => {
    const here = known.get(one.id);
    if (here) absorb(here, one);
    return here ?? one;
  });
  list(...changed);
  changed.forEach(show);
  await followWriting(changed);
});

onTold("piece", (piece) => {
  const known = state.conversations.find(({ id }) => id === piece.id);
  if (!known) return; // it is about to come whole
  absorb(known, { ...known, ...piece });
  show(known);
});

/** @param {Conversation[]} some learns which of their unfinished messages other tabs are writing */
async function followWriting(some) {
  const ids = some.flatMap(({ id, kind, messages, last }) => {
    if (kind === "text") return last?.finish === null ? [id] : [];
    return messages.filter(({ finish }) => finish === null).map((message) => message.id);
  });
  const { generation } = state;
  const mine = generation && (generation.message ?? generation.conversation).id;
  for (const id of await beingWritten(ids)) {
    if (id === mine || state.elsewhere.has(id)) continue;
    set({ elsewhere: new Set([...state.elsewhere, id]) });
    untilWritten(id).then(() => {
      set({ elsewhere: new Set([...state.elsewhere].filter((other) => other !== id)) });
    });
  }
}

/** @param {string} id */
const draftKey = (id) => `doppler.draft.${id}`;

/** @param {Conversation} conversation a draft of one not yet kept is found again by its kind */
const draftId = (conversation) => (isEmpty(conversation) ? "new" : conversation.id);

/** @param {Conversation} conversation as this tab had it, else as the last that typed there */
export function draftOf(conversation) {
  const key = draftKey(draftId(conversation));
  return recall(key, "sessionStorage") ?? recall(key) ?? "";
}

/**
 * @param {Conversation} conversation
 * @param {string} text
 */
export function keepDraft(conversation, text) {
  const key = draftKey(draftId(conversation));
  remember(key, text || null);
  remember(key, text || null, "sessionStorage");
}

/**
 * The messages that the model is given: no empty answers, and no two in a row of one role (chat
 * templates refuse those), which a failed answer would leave behind. What was thought goes beside an
 * answer: the template decides whether the model sees it again. Calls of tools stay in the text, as
 * they were written: templates refuse those that no result follows.
 * @param {Conversation} conversation
 * @param {Message} answer the one to be written: what leads to it is given
 */
export const history = (conversation, answer) =>
  turnsOf(conversation, before(conversation, answer));

/**
 * @param {Conversation} conversation
 * @param {Pick<Message, "role" | "content" | "reasoning" | "calls" | "calling">[]} messages
 */
export function turnsOf(conversation, messages) {
  /** @type {(ChatMessage & {content: string})[]} */
  const turns = [];
  if (conversation.system.trim()) turns.push({ role: "system", content: conversation.system });
  for (const { role, reasoning, ...said } of messages) {
    const last = turns.at(-1);
    const content = said.calls || said.calling ? saidIn(said) : said.content;
    if (!content) continue;
    if (last?.role === role) last.content += `\n\n${content}`;
    else turns.push({ role, content, ...(reasoning && { reasoning_content: reasoning }) });
  }
  return turns;
}
