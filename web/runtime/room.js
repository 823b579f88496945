/** @file How much the browser lets this site store. */

import { openFolder } from "./opfs.js";

/** @returns {Promise<{quota: number, usage: number, persisted: boolean}>} */
export async function estimate() {
  const { quota = 0, usage = 0 } = await navigator.storage.estimate();
  return { quota, usage, persisted: await navigator.storage.persisted() };
}

/**
 * How many bytes can still be stored, up to `most` and within 1 MiB. Found by trial, since estimate()
 * is a fixed sum in some browsers and wrong after a restart in others: a file's length counts against
 * the quota before anything is written, so that each trial takes a millisecond and no disk.
 * @param {number} most
 * @returns {Promise<number>}
 */
export async function freeBytes(most) {
  const folder = await openFolder("tmp", true).catch(ignoreFull);
  if (!folder) return 0; // there is no room for a folder
  const name = `room-${crypto.randomUUID()}`;
  const fits = (/** @type {number} */ size) =>
    folder.truncate(name, size).then(() => true, ignoreFull);
  try {
    let [least, above] = (await fits(most)) ? [most, most] : [0, most];
    while (above - least > 1 << 20) {
      const middle = Math.floor((least + above) / 2);
      if (await fits(middle)) least = middle;
      else above = middle;
    }
    return least;
  } finally {
    await folder.remove(name);
    await folder.close();
  }
}

/**
 * @param {unknown} error
 * @returns {false}
 */
function ignoreFull(error) {
  if (error instanceof DOMException && error.name === "QuotaExceededError") return false;
  throw error;
}
