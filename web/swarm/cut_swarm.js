/**
 * @file One torrent in WebTorrent's client, without its own picks, its own checks and its own store:
 * of a cut of the model, or the place where peers of all its cuts meet, which has no pieces.
 */

import { Geometry, hex, layoutOf, sha1, torrentFile } from "./cut.js";

/** @import {Client, ChunkStore, Torrent, Wire} from "./webtorrent.js" */
/** @import {Identity, Layout} from "./port.js" */

const MOST_PEERS = 40; // of a torrent: there is no such bound in a browser's WebTorrent
const REANNOUNCE_MS = [3000, 6000, 12_000, 30_000];

/**
 * @typedef {object} Ends what a torrent tells the model's swarm
 * @property {(index: number, start: number, end: number) => Promise<Uint8Array>} read bytes of a
 *     piece; throws where they are not to be had
 * @property {(id: string) => boolean} admits a peer, before anything is connected
 * @property {(cut: CutSwarm, wire: Wire) => void} onWire
 * @property {(cut: CutSwarm) => void} onReady its metadata is there, and a cut's
 * @property {(cut: CutSwarm, why: string) => void} onFalse its metadata is of something else
 */

export class CutSwarm {
  /** @type {Layout | null} */
  layout = null;
  /** @type {Geometry | null} */
  geometry = null;
  #announced = performance.now();
  #attempts = 0;
  #quiet = false;
  #began = performance.now();

  /**
   * @param {Client} client
   * @param {string} infohash
   * @param {Uint8Array | null} info where it is known already
   * @param {{identity: Identity, announce: string[], ends: Ends}} model
   */
  constructor(client, infohash, info, { identity, announce, ends }) {
    this.infohash = infohash;
    this.ends = ends;
    const options = {
      announce,
      deselect: true,
      alwaysChokeSeeders: false,
      uploads: 10 * MOST_PEERS, // caps are ours: nobody waits for a turn
      storeCacheSlots: 0,
      preloadedStore: storeOf(ends),
    };
    this.torrent = client.add(info ? torrentFile(info) : infohash, options);
    this.#own(identity);
  }

  /** @param {Identity} identity */
  #own(identity) {
    const { torrent, ends } = this;
    // Underscored: WebTorrent has no option for these. `_update` asks peers for pieces of its choice;
    // `_verifyPieces` reads all that is stored, of which the worker knows the state.
    torrent._update = () => {};
    torrent._verifyPieces = (done) => done(null);
    const addPeer = torrent.addPeer;
    torrent.addPeer = (peer, source) => {
      if ((torrent._peers?.size ?? 0) < MOST_PEERS && ends.admits(peer.id)) {
        return addPeer.call(torrent, peer, source);
      }
      peer.destroy();
      return false;
    };
    torrent.on("metadata", () => {
      this.layout = layoutOf(torrent, identity);
      if (this.layout) this.geometry = new Geometry(this.layout);
      else ends.onFalse(this, "is no cut of this model");
    });
    torrent.on("ready", () => {
      this.#quiet = true; // a bitfield is sent as soon as this returns
      if (this.layout) ends.onReady(this);
      this.#quiet = false;
    });
    torrent.on("wire", (wire) => ends.onWire(this, wire));
    torrent.on("error", (error) => ends.onFalse(this, String(error)));
    torrent.on("warning", () => {}); // of trackers that are away, and peers that do not connect
  }

  /** Milliseconds. */
  get age() {
    return performance.now() - this.#began;
  }

  get pieces() {
    return this.torrent.ready ? this.torrent.pieces.length : 0;
  }

  /** @param {number} piece @param {Uint8Array<ArrayBuffer>} bytes whether they are all of it */
  async isPiece(piece, bytes) {
    return hex(await sha1(bytes)) === this.torrent._hashes[piece];
  }

  /** @param {number} piece whether peers are given it */
  has(piece) {
    return this.torrent.ready && this.torrent.bitfield.get(piece);
  }

  /** @param {Iterable<number>} pieces that are had now: peers are told, and given them */
  mark(pieces) {
    const { torrent } = this;
    if (!torrent.ready || torrent.destroyed) return;
    for (const piece of pieces) {
      if (piece >= torrent.pieces.length || torrent.bitfield.get(piece)) continue;
      torrent._markVerified(piece);
      if (!this.#quiet) for (const wire of torrent.wires) wire.have(piece);
    }
    torrent._checkDone();
  }

  /** @param {Iterable<number>} pieces that are had no more */
  unmark(pieces) {
    const { torrent } = this;
    if (!torrent.ready || torrent.destroyed) return;
    for (const piece of pieces) {
      if (!torrent.bitfield.get(piece)) continue;
      torrent._markUnverified(piece);
      for (const wire of torrent.wires) wire.lt_donthave.donthave(piece);
    }
  }

  /** Asks the trackers for peers again, more and more seldom. */
  reannounce() {
    const pause = REANNOUNCE_MS[Math.min(this.#attempts, REANNOUNCE_MS.length - 1)];
    if (performance.now() - this.#announced < pause || this.torrent.destroyed) return;
    this.#announced = performance.now();
    this.#attempts += 1;
    this.torrent.discovery?.tracker?.update();
  }

  /** There are peers enough: the next search begins at once again. */
  content() {
    this.#attempts = 0;
  }

  /** Closes all connections at once: what WebTorrent does a moment later comes too late. */
  hangUp() {
    for (const { conn } of this.torrent._peers?.values() ?? []) conn?._pc?.close();
  }

  close() {
    if (!this.torrent.destroyed) this.torrent.destroy();
  }
}

/** @param {Ends} ends @returns {ChunkStore} */
function storeOf(ends) {
  return {
    chunkLength: 0,
    get(index, options, done) {
      const start = options?.offset ?? 0;
      const end = start + (options?.length ?? Infinity);
      ends.read(index, start, end).then(
        (bytes) => done(null, bytes),
        (error) => done(error),
      );
    },
    put: (_index, _bytes, done) => done(new Error("pieces are stored by the worker")),
    close: (done) => done(null),
    destroy: (done) => done(null),
  };
}

/** @param {Torrent} torrent @returns {Uint8Array<ArrayBuffer>} its info dictionary */
export const infoBytes = (torrent) => new Uint8Array(torrent.infoBuffer);
