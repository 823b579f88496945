/**
 * @file One connection to a peer, as the scheduler sees it, and one piece that is fetched over it. A
 * piece comes from one sender, all of it: so what is wrong with it is that sender's doing.
 */

import { CHUNK, REQUESTS } from "./guard.js";

/** @import {Wire} from "./webtorrent.js" */
/** @import {Conduct} from "./bans.js" */
/** @import {Geometry} from "./cut.js" */
/** @import {CutSwarm} from "./cut_swarm.js" */

const AHEAD_SECONDS = 0.5; // of chunks are asked for before they come
const FEWEST = 6; // chunks that are asked for in any case
const MOST = 96;
const UNKNOWN_SPEED = 64 << 10; // bytes a second, of a peer that sent nothing yet

/** @typedef {"whole" | "refused" | "choked" | "closed"} Outcome of a fetch that was not stopped */

/** An item (see cut.js) that is on its way from a peer: of its piece, from the beginning on. */
export class Fetch {
  got = 0; // bytes
  #next = 0;
  #ended = false;
  /** @type {Set<number>} offsets that were asked for */
  #asked = new Set();

  /** @param {Peer} peer @param {number} item that it has */
  constructor(peer, item) {
    const geometry = /** @type {Geometry} */ (peer.cut.geometry);
    this.peer = peer;
    this.item = item;
    this.piece = geometry.pieceOf(item);
    this.length = geometry.bytesOf(item);
    this.bytes = new Uint8Array(this.length);
    this.began = performance.now();
  }

  /** Whether there are chunks that were not asked for yet. */
  get hasMore() {
    return !this.#ended && this.#next < this.length;
  }

  get waiting() {
    return this.#asked.size;
  }

  /** Asks for the next chunk. */
  ask() {
    const offset = this.#next;
    const length = Math.min(CHUNK, this.length - offset);
    this.#next += length;
    this.#asked.add(offset);
    this.peer.expects(1);
    this.peer.wire.request(this.piece, offset, length, (error, bytes) => {
      if (this.#ended) return;
      if (error) return this.#end(outcomeOf(error, this.peer));
      this.#asked.delete(offset);
      this.bytes.set(bytes, offset);
      this.got += length;
      this.peer.heard();
      if (this.got === this.length) this.#end("whole");
      else this.peer.onChunk(this.peer);
    });
  }

  /** Wants it no more. What was asked for may come all the same. */
  stop() {
    if (this.#ended) return;
    this.#ended = true;
    this.peer.fetches.delete(this);
    const { wire } = this.peer;
    for (const offset of this.#asked) {
      if (!wire.destroyed) wire.cancel(this.piece, offset, Math.min(CHUNK, this.length - offset));
    }
  }

  /** @param {Outcome} outcome */
  #end(outcome) {
    if (outcome !== "whole") this.stop();
    this.#ended = true;
    this.peer.fetches.delete(this);
    this.peer.onEnd(this, outcome);
  }
}

/** @param {Error} error of bittorrent-protocol @param {Peer} peer @returns {Outcome} */
function outcomeOf({ message }, { wire }) {
  if (message.includes("closed") || wire.destroyed) return "closed";
  return wire.peerChoking || message.includes("chok") ? "choked" : "refused";
}

export class Peer {
  /** @type {Set<Fetch>} */
  fetches = new Set();
  /** Pieces of it that are being verified. */
  checking = 0;
  /** Nothing new is asked of it before. */
  restsUntil = 0;
  /** How often it was overtaken, or silent: it rests longer each time. */
  setbacks = 0;
  /** @type {Set<number>} items that it said it has, and refused */
  refused = new Set();
  lastHeard = 0;
  sent = 0; // items that were good

  /**
   * @param {Wire} wire
   * @param {CutSwarm} cut
   * @param {Conduct} conduct
   * @param {(chunks: number) => void} expects see guard.js
   */
  constructor(wire, cut, conduct, expects) {
    this.wire = wire;
    this.cut = cut;
    this.conduct = conduct;
    this.expects = expects;
    /** @type {(fetch: Fetch, outcome: Outcome) => void} */
    this.onEnd = () => {};
    /** @type {(peer: Peer) => void} */
    this.onChunk = () => {};
  }

  get id() {
    return this.wire.peerId;
  }

  /** Bytes a second, lately. */
  get speed() {
    return this.wire.downloadSpeed() || UNKNOWN_SPEED;
  }

  /** @param {number} item whether it says that it has it, and did not refuse it */
  has(item) {
    const { geometry } = this.cut;
    if (!geometry || item >= geometry.items || this.refused.has(item)) return false;
    return this.wire.peerPieces.get(geometry.pieceOf(item));
  }

  /**
   * @param {number} item
   * @returns {boolean} whether other bytes of its piece are on their way: bittorrent-protocol answers
   *     neither of two requests that are the same
   */
  isAsked(item) {
    const piece = this.cut.geometry?.pieceOf(item);
    return [...this.fetches].some((fetch) => fetch.piece === piece);
  }

  get open() {
    return !this.wire.destroyed && !this.wire.peerChoking;
  }

  heard() {
    this.lastHeard = performance.now();
  }

  /** Nothing is asked of it for some seconds. */
  rest() {
    this.restsUntil = performance.now() + 1000 * 2 ** Math.min(this.setbacks, 5);
    this.setbacks += 1;
  }

  /**
   * Pieces that may be on their way or in verification at once: one of a peer that sent a bad one, so
   * that it is known before another is asked for; two of a peer that is not known yet.
   */
  get slots() {
    if (this.conduct.bad) return 1;
    return this.conduct.good < 3 ? 2 : 8;
  }

  get busy() {
    return this.fetches.size + this.checking;
  }

  /** Whether one more chunk may be asked for. */
  get hasRoom() {
    let waiting = 0;
    for (const fetch of this.fetches) waiting += fetch.waiting;
    const own = this.wire.peerExtendedHandshake.reqq;
    const most = Math.min(MOST, typeof own === "number" && own > 0 ? own : REQUESTS);
    const ahead = FEWEST + Math.ceil((this.wire.downloadSpeed() * AHEAD_SECONDS) / CHUNK);
    return waiting < Math.min(most, ahead);
  }

  /** @param {number} item */
  begin(item) {
    const fetch = new Fetch(this, item);
    this.fetches.add(fetch);
    return fetch;
  }
}
