/** Conversations in IndexedDB. What is written is merged with what another tab wrote meanwhile. */

import { merge } from "./merge.js";
import { isStored, ofStored } from "./stored.js";

/** @import {Conversation} from "./types.js" */

const FORGET_AFTER_MS = 30 * 24 * 3600 * 1000; // no tab has been open that long

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

/** @param {Conversation} conversation what is kept of one that was deleted */
function remains({ id, kind, created, updated, stamps }) {
  const empty = { title: "", system: "", messages: [], shown: {}, text: "", ranges: [] };
  const none = { title: 0, system: 0, text: 0, gone: stamps.gone };
  return { id, kind, created, updated, ...empty, gone: true, stamps: none };
}

/**
 * @returns {Promise<Conversation[]>} all but the deleted, and records that are none: those stay where
 *     they are. Throws where the browser keeps nothing.
 */
export async function readAll() {
  const store = await table("readwrite");
  const all = (await done(store.getAll())).filter(isStored).map(ofStored);
  for (const { id, gone, stamps } of all) {
    if (gone && stamps.gone < Date.now() - FORGET_AFTER_MS) store.delete(id);
  }
  return all.filter(({ gone }) => !gone);
}

/** @param {string[]} ids @returns {Promise<Conversation[]>} as they are stored, the deleted too */
export async function read(ids) {
  const store = await table("readonly");
  const kept = await Promise.all(ids.map((id) => done(store.get(id))));
  return kept.filter((one) => one !== undefined).map(ofStored);
}

/**
 * @param {Conversation[]} some
 * @returns {Promise<Conversation[]>} as they are stored now, with what other tabs did
 */
export async function write(some) {
  const store = await table("readwrite");
  const written = some.map(async (conversation) => {
    const kept = await done(store.get(conversation.id)); // one transaction: nobody writes in between
    const merged = kept ? merge(conversation, ofStored(kept)) : conversation;
    await done(store.put(merged.gone ? remains(merged) : merged));
    return merged;
  });
  return Promise.all(written);
}
