/**
 * @file How often the page has asked for an answer's end. The worker hears calls only between two
 * steps; this it can look at in the middle of one, since the number lies in memory that both share.
 */

/** @type {Int32Array | undefined} none where memory cannot be shared */
let count;

/** @param {SharedArrayBuffer | null} memory the page's, with one number */
export function shareStops(memory) {
  count = memory ? new Int32Array(memory) : undefined;
}

/** @returns {number} */
export const stopsAsked = () => (count ? Atomics.load(count, 0) : 0);
