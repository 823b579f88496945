/**
 * @file What becomes of a piece that came whole. The worker's BLAKE3 is the truth about a block; a
 * torrent's SHA-1s are a stranger's word. So a bad block is its sender's doing where it is not the
 * torrent's piece either, and the torrent's where it is; a good block with another SHA-1 is, too.
 */

import { Arrivals } from "./arrivals.js";

/** @import {Geometry} from "./cut.js" */
/** @import {CutSwarm} from "./cut_swarm.js" */
/** @import {Fetch} from "./peer.js" */
/** @import {Done, Identity} from "./port.js" */
/** @import {Host} from "./swarm.js" */

/**
 * @typedef {object} Ends
 * @property {(item: number, good: boolean) => void} settle with the scheduler
 * @property {(block: number, peer: string | null, forOthers: boolean) => void} keep it is stored now
 * @property {(cut: CutSwarm, why: string) => void} refuse a torrent
 */

export class Judge {
  /** @type {Map<number, {fetch: Fetch, isPiece: boolean | null}>} blocks at the worker; null where the
   *     block is not all of its piece */
  #judged = new Map();

  /** @param {Geometry} geometry @param {Identity} identity @param {Host} host @param {Ends} ends */
  constructor(geometry, identity, host, ends) {
    this.geometry = geometry;
    this.identity = identity;
    this.host = host;
    this.ends = ends;
    this.arrivals = new Arrivals(geometry);
  }

  /** @param {Fetch} fetch that is whole */
  async verify(fetch) {
    const { item, piece, bytes, peer } = fetch;
    const { geometry, identity, host } = this;
    const isFile = item >= geometry.blocks;
    const isWhole = isFile || item < geometry.pure;
    const isPiece = isWhole ? await peer.cut.isPiece(piece, bytes) : null;
    if (!isFile) {
      const { buffer } = bytes;
      this.#judged.set(item, { fetch, isPiece });
      host.post({ type: "write", identity, block: item, bytes: buffer, from: peer.id }, [buffer]);
    } else if (isPiece) {
      this.ends.settle(item, true);
      for (const file of this.arrivals.put(item, bytes)) {
        host.post({ type: "file", identity, ...file }, [file.bytes]);
      }
    } else {
      this.#bad(fetch);
    }
  }

  /** @param {Done} message */
  done({ block, stored, for_others: forOthers }) {
    const judged = this.#take(block);
    this.ends.settle(block, true);
    const peer = judged?.fetch.peer;
    if (stored) this.ends.keep(block, peer?.id ?? null, forOthers);
    if (peer && judged?.isPiece === false)
      this.ends.refuse(peer.cut, `has a false SHA-1 of block ${block}`);
  }

  /** @param {number} block */
  blame(block) {
    const judged = this.#take(block);
    if (!judged) return;
    if (!judged.isPiece) return this.#bad(judged.fetch);
    this.ends.settle(block, false);
    this.ends.refuse(judged.fetch.peer.cut, `has the SHA-1 of other bytes than block ${block}`);
  }

  /** @param {number} block */
  #take(block) {
    const judged = this.#judged.get(block);
    this.#judged.delete(block);
    return judged;
  }

  /** @param {Fetch} fetch of what is not what it should be */
  #bad({ item, piece, peer }) {
    const { identity, host } = this;
    const banned = host.bans.badPiece(peer.id);
    host.happening("bad piece", { identity, peer: peer.id, piece });
    if (banned) host.refuse(peer.id);
    this.ends.settle(item, false);
  }
}
