/** Conversations, kept in IndexedDB; drafts of what is being typed, in localStorage (written at once). */

import { saveAs } from "./dom.js";
import { recall, remember, set, state } from "./store.js";

/** @import {Conversation, Message} from "./types.js" */

/** @type {Promise<IDBDatabase> | null} */
let database = null;

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransactionMode} mode */
async function table(mode) {
  if (!database) {
    const request = indexedDB.open("doppler", 1);
    request.onupgradeneeded = () =>
      request.result.createObjectStore("conversations", { keyPath: "id" });
    database = done(request);
  }
  return (await database).transaction("conversations", mode).objectStore("conversations");
}

/** Read what is stored. Throws where the browser keeps nothing (private windows of some). */
export async function restore() {
  const all = /** @type {Conversation[]} */ (await done((await table("readonly")).getAll()));
  set({ conversations: all.sort((a, b) => b.updated - a.updated) });
}

/** @param {Conversation["kind"]} kind */
export function create(kind) {
  const now = Date.now();
  const system = state.settings.system;
  const base = { id: crypto.randomUUID(), kind, title: "", named: false, created: now };
  return { ...base, updated: now, system, messages: [], text: "", ranges: [] };
}

/** @param {Conversation} conversation */
export const isEmpty = ({ messages, text }) => messages.length === 0 && text === "";

/** @param {Conversation} conversation */
export function titleOf({ title, kind }) {
  return title || (kind === "chat" ? "New chat" : "New text");
}

/**
 * Write a conversation that changed. An empty one is not kept until something is in it.
 * @param {Conversation} conversation
 * @param {boolean} [touched] false leaves its place in the list
 */
export async function save(conversation, touched = true) {
  if (touched) conversation.updated = Date.now();
  if (!conversation.named) {
    const first = conversation.messages[0]?.content ?? conversation.text;
    conversation.title = first.trim().replace(/\s+/g, " ").slice(0, 60);
  }
  const others = state.conversations.filter(({ id }) => id !== conversation.id);
  if (isEmpty(conversation)) return;
  const all = [...others, conversation].sort((a, b) => b.updated - a.updated);
  set({ conversations: all });
  await write(conversation);
}

/** @param {Conversation} conversation */
async function write(conversation) {
  try {
    await done((await table("readwrite")).put(conversation));
  } catch (error) {
    document.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
  }
}

/** @param {Conversation} conversation */
export async function remove({ id }) {
  const conversations = state.conversations.filter((other) => other.id !== id);
  set({ conversations, ...(state.current?.id === id ? { current: null } : {}) });
  remember(draftKey(id), null);
  await done((await table("readwrite")).delete(id)).catch(() => {});
}

/**
 * @param {Conversation[]} conversations
 * @param {string} name
 */
export function exportJson(conversations, name) {
  const text = JSON.stringify({ format: "doppler-conversations", conversations }, null, 2);
  const file = `${name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation"}.json`;
  saveAs(new Blob([text], { type: "application/json" }), file);
}

/** @param {string} id */
const draftKey = (id) => `doppler.draft.${id}`;

/** @param {Conversation} conversation a draft of one not yet kept is found again by its kind */
const draftId = (conversation) => (isEmpty(conversation) ? "new" : conversation.id);

/** @param {Conversation} conversation */
export const draftOf = (conversation) => recall(draftKey(draftId(conversation))) ?? "";

/**
 * @param {Conversation} conversation
 * @param {string} text
 */
export function keepDraft(conversation, text) {
  remember(draftKey(draftId(conversation)), text || null);
}

/**
 * The messages that the model is given: no empty answers, and no two in a row of one role (chat
 * templates refuse those), which a failed answer would leave behind.
 * @param {Conversation} conversation
 * @param {Message} answer the one to be written, left out with all after it
 */
export function history(conversation, answer) {
  /** @type {{role: string, content: string}[]} */
  const turns = [];
  if (conversation.system.trim()) turns.push({ role: "system", content: conversation.system });
  for (const { role, content } of conversation.messages.slice(
    0,
    conversation.messages.indexOf(answer),
  )) {
    const last = turns.at(-1);
    if (!content) continue;
    if (last?.role === role) last.content += `\n\n${content}`;
    else turns.push({ role, content });
  }
  return turns;
}
