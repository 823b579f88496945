/** @file manifest.json and tokenizer.json as they come from peers, piece by piece, each by its SHA-1. */

/** @import {Geometry} from "./cut.js" */
/** @import {FileName} from "./port.js" */

/** @typedef {{name: FileName, bytes: ArrayBuffer}} Arrived a whole file, unverified */

export class Arrivals {
  /** @type {Map<FileName, {bytes: Uint8Array<ArrayBuffer>, missing: Set<number>}>} */
  #files = new Map();

  /** @param {Geometry} geometry */
  constructor(geometry) {
    this.geometry = geometry;
  }

  /** @param {FileName} name @returns {Iterable<number>} the items that are to be fetched for it */
  begin(name) {
    const known = this.#files.get(name);
    if (known) return known.missing;
    const missing = new Set(this.geometry.itemsOf(name));
    this.#files.set(name, { bytes: new Uint8Array(this.geometry.lengthOf(name)), missing });
    return missing;
  }

  /**
   * @param {number} item
   * @param {Uint8Array} bytes its whole piece
   * @returns {Arrived[]} files that are whole now
   */
  put(item, bytes) {
    let at = 0;
    /** @type {Arrived[]} */
    const whole = [];
    for (const { file, start, bytes: length } of this.geometry.parts(this.geometry.pieceOf(item))) {
      const arriving = file && this.#files.get(file);
      if (file && arriving && arriving.missing.delete(item)) {
        arriving.bytes.set(bytes.subarray(at, at + length), start);
        if (!arriving.missing.size) whole.push({ name: file, bytes: arriving.bytes.buffer });
      }
      at += length;
    }
    for (const { name } of whole) this.#files.delete(name);
    return whole;
  }
}
