/** Conversations in IndexedDB. What is written is merged with what another tab wrote meanwhile. */

import { letKeptGo } from "./kept.js";
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

/** @returns {Promise<IDBDatabase>} */
function opened() {
  if (!database) {
    const request = indexedDB.open("doppler", 1);
    request.onupgradeneeded = () =>
      request.result.createObjectStore("conversations", { keyPath: "id" });
    database = done(request);
  }
  return database;
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} once all of it is stored */
function completed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () =>
      reject(transaction.error ?? new DOMException("the browser ended it", "AbortError"));
  });
}

/**
 * A storage that is full says so only when a transaction ends, after its requests have succeeded.
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => Promise<T>} work in one transaction
 * @returns {Promise<T>} once it is stored. Throws what ended the transaction.
 */
async function within(mode, work) {
  const transaction = (await opened()).transaction("conversations", mode);
  const working = work(transaction.objectStore("conversations"));
  const [end, result] = await Promise.allSettled([completed(transaction), working]);
  if (end.status === "rejected") throw end.reason;
  if (result.status === "rejected") throw result.reason;
  return result.value;
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
  const stored = await within("readonly", (store) => done(store.getAll()));
  const all = stored.filter(isStored).map(ofStored);
  const since = Date.now() - FORGET_AFTER_MS;
  const old = all.filter(({ gone, stamps }) => gone && stamps.gone < since);
  if (old.length) await remove(old).catch(() => {}); // the next time, then
  return all.filter(({ gone }) => !gone);
}

/** @param {Conversation[]} some of which not even that they were deleted is known any more */
const remove = (some) =>
  within("readwrite", (store) => Promise.all(some.map(({ id }) => done(store.delete(id)))));

/** @param {string[]} ids @returns {Promise<Conversation[]>} as they are stored, the deleted too */
export async function read(ids) {
  const kept = await within("readonly", (store) =>
    Promise.all(ids.map((id) => done(store.get(id)))),
  );
  return kept.filter((one) => one !== undefined).map(ofStored);
}

/**
 * Where the storage is full, what can be computed again makes room.
 * @param {Conversation[]} some
 * @returns {Promise<Conversation[]>} as they are stored now, with what other tabs did. Throws where
 *     not all of them are.
 */
export async function write(some) {
  try {
    return await put(some);
  } catch (error) {
    if (!isFull(error) || !(await letKeptGo())) throw error;
    return put(some);
  }
}

/** @param {unknown} error */
export const isFull = (error) =>
  error instanceof DOMException && error.name === "QuotaExceededError";

/** @param {Conversation[]} some */
const put = (some) =>
  within("readwrite", (store) => {
    const written = some.map(async (conversation) => {
      const kept = await done(store.get(conversation.id)); // one transaction: nobody writes in between
      const merged = kept ? merge(conversation, ofStored(kept)) : conversation;
      await done(store.put(merged.gone ? remains(merged) : merged));
      return merged;
    });
    return Promise.all(written);
  });
