/**
 * @file Links to models: this page's address with
 * `#model=<identity>&torrent=<infohash>&tracker=<address>`.
 */

import { isTracker } from "./trackers.js";

/** @import {Linked} from "../types.js" */

const IDENTITY = /^[0-9a-f]{64}$/;
const INFOHASH = /^[0-9a-f]{40}$/;
const MOST_TRACKERS = 4;
const MOST_TORRENTS = 3; // fewer than the cuts of a model that a page joins: one is left to peers' word

/**
 * @param {string} id
 * @param {Linked} named
 * @returns {string} what opens this page and asks for the model
 */
export function linkTo(id, { trackers, torrents }) {
  const url = new URL(location.pathname, location.href);
  url.hash = new URLSearchParams([
    ["model", id],
    ...torrents.map((torrent) => ["torrent", torrent]),
    ...trackers.map((tracker) => ["tracker", tracker]),
  ]).toString();
  return url.href;
}

/** @returns {{id: string, named: Linked} | null} what this page's address says. Throws a RangeError. */
export function linkHere() {
  const said = new URLSearchParams(location.hash.slice(1));
  const id = said.get("model");
  if (id === null) return null;
  const trackers = said.getAll("tracker");
  const torrents = said.getAll("torrent");
  if (!IDENTITY.test(id)) throw new RangeError("it does not name a model by its identity");
  if (trackers.length > MOST_TRACKERS) throw new RangeError("it names too many trackers");
  if (torrents.length > MOST_TORRENTS) throw new RangeError("it names too many torrents");
  if (!trackers.every(isTracker))
    throw new RangeError("a tracker in it is no ws:// or wss:// address");
  if (!torrents.every((torrent) => INFOHASH.test(torrent)))
    throw new RangeError("a torrent in it is no infohash of 40 hexadecimal digits");
  return { id, named: { trackers, torrents } };
}
