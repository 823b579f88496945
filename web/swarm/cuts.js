/** @file The torrents of one model that this page is in: of its cuts, and where peers of all meet. */

import { rendezvousOf } from "./cut.js";
import { CutSwarm } from "./cut_swarm.js";

/** @import {Ends} from "./cut_swarm.js" */
/** @import {CutNews} from "./gossip.js" */
/** @import {Identity} from "./port.js" */
/** @import {Host} from "./swarm.js" */

const MOST = 4; // cuts of a model, not counting the one that is here
const METADATA_MS = 20_000; // a cut whose metadata nobody gives makes room for another
const MOST_HEARD = 64;

export class Cuts {
  /** @type {Map<string, CutSwarm>} by infohash */
  #joined = new Map();
  /** @type {Set<string>} infohashes of torrents that are not what they say */
  #false = new Set();
  /** @type {Map<string, Set<string>>} infohash -> peers that are in it, by what they say */
  #heard = new Map();
  /** @type {CutSwarm | null} */
  rendezvous = null;
  #closed = false;

  /** @param {Identity} identity @param {Host} host @param {Ends} ends */
  constructor(identity, host, ends) {
    this.identity = identity;
    this.host = host;
    this.ends = ends;
  }

  /** @param {(id: string) => boolean} admits peers that are not met in a cut already */
  async meet(admits) {
    const infohash = await rendezvousOf(this.identity);
    if (!this.#closed) this.rendezvous = this.#open(infohash, null, { ...this.ends, admits });
  }

  /** @returns {CutSwarm[]} */
  list() {
    return [...this.#joined.values()];
  }

  /** @param {string} infohash @param {Uint8Array | null} info where it is known */
  join(infohash, info = null) {
    if (this.#closed || this.#joined.has(infohash) || this.#false.has(infohash)) return;
    this.#joined.set(infohash, this.#open(infohash, info, this.ends));
  }

  /** @param {CutNews[]} news @param {string} peer that says so */
  hear(news, peer) {
    for (const { infohash } of news) {
      if (this.#false.has(infohash)) continue; // those who are in it still go on telling of it
      const tellers = this.#heard.get(infohash) ?? new Set();
      if (tellers.size || this.#heard.size < MOST_HEARD)
        this.#heard.set(infohash, tellers.add(peer));
    }
    this.#joinHeard();
  }

  /** Joins, while there is room, what most peers are in: made-up torrents cannot take it all. */
  #joinHeard() {
    const known = [...this.#heard].filter(([infohash]) => !this.#joined.has(infohash));
    known.sort(([, a], [, b]) => b.size - a.size);
    for (const [infohash] of known.slice(0, Math.max(0, MOST - this.#joined.size))) {
      this.join(infohash);
    }
  }

  /** @param {string} infohash @param {Uint8Array | null} info @param {Ends} ends */
  #open(infohash, info, ends) {
    const { identity, host } = this;
    return new CutSwarm(host.client, infohash, info, { identity, announce: host.trackers, ends });
  }

  /** @param {CutSwarm} cut is not what it says, and is never joined again @param {string} why */
  refuse(cut, why) {
    cut.close();
    if (!this.#joined.delete(cut.infohash)) return;
    this.#false.add(cut.infohash);
    this.#heard.delete(cut.infohash);
    const { identity } = this;
    this.host.happening("torrent refused", { identity, infohash: cut.infohash, why });
  }

  /** @returns {CutNews[]} */
  news() {
    return this.list().flatMap(({ infohash, layout }) => {
      if (!layout) return [];
      return [{ infohash, shard_bytes: layout.shards[0].bytes, files: layout.shards.length }];
    });
  }

  /** Once a second. @param {boolean} starving whether other peers are needed */
  tend(starving) {
    for (const cut of this.rendezvous ? [this.rendezvous, ...this.list()] : this.list()) {
      if (starving) cut.reannounce();
      else cut.content();
    }
    const stale = this.list().find((cut) => !cut.pieces);
    if (this.#joined.size < MOST || !stale || stale.age < METADATA_MS) return;
    stale.close();
    this.#heard.delete(stale.infohash); // until it is heard of again
    this.#joined.delete(stale.infohash);
    this.#joinHeard();
  }

  hangUp() {
    for (const cut of this.list()) cut.hangUp();
    this.rendezvous?.hangUp();
  }

  close() {
    this.#closed = true;
    for (const cut of this.list()) cut.close();
    this.rendezvous?.close();
  }
}
