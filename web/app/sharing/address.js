/** @file Links to models: this page's address with `#model=<identity>&tracker=<address>`. */

import { isTracker } from "./trackers.js";

const IDENTITY = /^[0-9a-f]{64}$/;
const MOST_TRACKERS = 4;

/**
 * @param {string} id
 * @param {string[]} trackers
 * @returns {string} what opens this page and asks for the model
 */
export function linkTo(id, trackers) {
  const named = trackers.map((tracker) => ["tracker", tracker]);
  const url = new URL(location.pathname, location.href);
  url.hash = new URLSearchParams([["model", id], ...named]).toString();
  return url.href;
}

/** @returns {{id: string, trackers: string[]} | null} what this page's address names. Throws a RangeError. */
export function linkHere() {
  const named = new URLSearchParams(location.hash.slice(1));
  const id = named.get("model");
  if (id === null) return null;
  const trackers = named.getAll("tracker");
  if (!IDENTITY.test(id)) throw new RangeError("it does not name a model by its identity");
  if (trackers.length > MOST_TRACKERS) throw new RangeError("it names too many trackers");
  const other = trackers.find((tracker) => !isTracker(tracker));
  if (other !== undefined) throw new RangeError("a tracker in it is no ws:// or wss:// address");
  return { id, trackers };
}
