/**
 * @file manifest.json and tokenizer.json as they come from peers, piece by piece, each by a SHA-1 of the
 * torrent it came in. Pieces of several torrents may make up a file. Where that was wrong, one of them is
 * false, and nobody knows which: then each has to give all of the file.
 */

/** @import {Geometry} from "./cut.js" */
/** @import {CutSwarm} from "./cut_swarm.js" */
/** @import {FileName} from "./port.js" */

/** @typedef {{name: FileName, bytes: ArrayBuffer}} Arrived a whole file, unverified */
/**
 * @typedef {object} Copy of a file that comes
 * @property {Uint8Array<ArrayBuffer>} bytes
 * @property {Set<number>} missing items
 * @property {Set<CutSwarm>} cuts that gave the others
 */

export class Arrivals {
  /** @type {Map<FileName, Map<CutSwarm | null, Copy>>} by who gives it; null: all of them together */
  #files = new Map();
  /** @type {Set<FileName>} that each cut has to give alone */
  #apart = new Set();
  /** @type {Map<FileName, Set<CutSwarm>>} who gave a whole file, until it is known to be wrong */
  #whole = new Map();

  /** @param {Geometry} geometry */
  constructor(geometry) {
    this.geometry = geometry;
  }

  /** @param {FileName} name @returns {number[]} the items that are to be fetched for it */
  begin(name) {
    const copies = this.#files.get(name) ?? new Map();
    this.#files.set(name, copies);
    const items = this.geometry.itemsOf(name);
    if (this.#apart.has(name)) return items;
    if (!copies.has(null)) copies.set(null, this.#copy(name));
    return items.filter((item) => copies.get(null)?.missing.has(item));
  }

  /** @param {FileName} name @returns {Copy} with nothing in it */
  #copy(name) {
    const bytes = new Uint8Array(this.geometry.lengthOf(name));
    return { bytes, missing: new Set(this.geometry.itemsOf(name)), cuts: new Set() };
  }

  /** @param {number} item @param {CutSwarm} cut whether peers of it are to be asked for the item */
  asks(item, cut) {
    const names = this.#arriving(item);
    const apart = names.every((name) => this.#apart.has(name));
    return !names.length || !apart || names.some((name) => this.#lacks(name, item, cut));
  }

  /** @param {number} item @returns {FileName[]} that lie in it and are being fetched */
  #arriving(item) {
    if (item < this.geometry.blocks) return [];
    const parts = this.geometry.parts(this.geometry.pieceOf(item));
    return parts.flatMap(({ file }) => (file && this.#files.has(file) ? file : []));
  }

  /** @param {FileName} name @param {number} item @param {CutSwarm} cut */
  #lacks(name, item, cut) {
    return this.#files.get(name)?.get(cut)?.missing.has(item) ?? true;
  }

  /**
   * @param {number} item
   * @param {Uint8Array} bytes its whole piece
   * @param {CutSwarm} cut whose it is
   * @returns {{whole: Arrived[], again: number[], needless: number[]}} files that are whole now, items
   *     that another cut has to give too, and those that nobody has to give any more
   */
  put(item, bytes, cut) {
    let at = 0;
    /** @type {Arrived[]} */
    const whole = [];
    for (const { file, start, bytes: length } of this.geometry.parts(this.geometry.pieceOf(item))) {
      const copies = file && this.#files.get(file);
      if (file && copies) {
        const giver = this.#apart.has(file) ? cut : null;
        const copy = copies.get(giver) ?? this.#copy(file);
        copies.set(giver, copy);
        if (copy.missing.delete(item)) {
          copy.cuts.add(cut);
          copy.bytes.set(bytes.subarray(at, at + length), start);
          if (!copy.missing.size) whole.push({ name: file, bytes: copy.bytes.buffer });
          if (!copy.missing.size) this.#whole.set(file, copy.cuts);
        }
      }
      at += length;
    }
    for (const { name } of whole) this.#files.delete(name);
    const isApart = this.#arriving(item).some((name) => this.#apart.has(name));
    const done = whole.flatMap(({ name }) => this.geometry.itemsOf(name));
    const needless = done.filter((one) => !this.#arriving(one).length);
    return { whole, again: isApart ? [item] : [], needless };
  }

  /**
   * @param {FileName} name of a file that was whole, and is not what it should be
   * @returns {CutSwarm | null} the one whose doing that is; null where it is not known
   */
  refuted(name) {
    const cuts = [...(this.#whole.get(name) ?? [])];
    this.#whole.delete(name);
    if (cuts.length > 1) this.#apart.add(name);
    return cuts.length === 1 ? cuts[0] : null;
  }
}
