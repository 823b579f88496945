/**
 * What open tabs of this page tell each other. An answer is written under a lock of its name, which
 * ends with the tab: that is how the others know whether it is still being written.
 */

/** @import {Conversation} from "./types.js" */

/**
 * @typedef {object} Telling
 * @property {string[]} changed ids of conversations that were stored anew
 * @property {Pick<Conversation, "id"> & Partial<Conversation>} piece what is being written, not stored yet
 * @property {{deleted: string | null}} models the stored models changed; id of one that was deleted
 */

const channel = new BroadcastChannel("doppler");

/**
 * @template {keyof Telling} T
 * @param {T} type
 * @param {Telling[T]} value
 */
export function tell(type, value) {
  channel.postMessage({ type, value });
}

/**
 * @template {keyof Telling} T
 * @param {T} type
 * @param {(value: Telling[T]) => void} run
 */
export function onTold(type, run) {
  channel.addEventListener("message", ({ data }) => {
    if (data.type === type) run(data.value);
  });
}

/** @param {string} id of what is written */
const lockOf = (id) => `doppler-writing-${id}`;

/**
 * @param {string} id of a message, or of a text
 * @param {AbortSignal} [signal] ends the wait for another tab that writes it
 * @returns {Promise<(() => void) | null>} to be called when it is written; null: the wait was ended
 */
export function beginWriting(id, signal) {
  return new Promise((resolve, reject) => {
    const hold = () => new Promise((release) => resolve(() => release(undefined)));
    navigator.locks
      .request(lockOf(id), { signal }, hold)
      .catch((error) => (signal?.aborted ? resolve(null) : reject(error)));
  });
}

/** @param {string[]} ids @returns {Promise<string[]>} those that some tab is writing now */
export async function beingWritten(ids) {
  const { held = [] } = await navigator.locks.query();
  const names = new Set(held.map(({ name }) => name));
  return ids.filter((id) => names.has(lockOf(id)));
}

/** @param {string} id @returns {Promise<void>} once no tab writes it any more */
export const untilWritten = (id) =>
  navigator.locks.request(lockOf(id), { mode: "shared" }, () => {});
