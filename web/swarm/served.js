/** @file Pieces that peers ask for, in chunks: read once from the worker, and kept for a while. */

/** @import {Geometry} from "./cut.js" */
/** @import {FileName} from "./port.js" */

const KEPT_BYTES = 32 << 20;
const FEWEST = 4; // pieces, however large

/**
 * @typedef {object} Reads of the worker; null where something is not there
 * @property {(block: number) => Promise<ArrayBuffer | null>} block
 * @property {(name: FileName, start: number, end: number) => Promise<ArrayBuffer | null>} file
 */

export class ServedPieces {
  /** @type {Map<number, Promise<Uint8Array<ArrayBuffer>>>} the last used one last */
  #kept = new Map();

  /** @param {Geometry} geometry @param {Reads} reads */
  constructor(geometry, reads) {
    this.geometry = geometry;
    this.reads = reads;
    this.most = Math.max(FEWEST, Math.floor(KEPT_BYTES / geometry.pieceBytes));
  }

  /**
   * @param {number} piece
   * @returns {Promise<Uint8Array<ArrayBuffer>>} all of it; throws where some is not there
   */
  async read(piece) {
    const parts = this.geometry.parts(piece);
    const read = parts.map(async ({ file, start, bytes }) => {
      const data = await (file
        ? this.reads.file(file, start, start + bytes)
        : this.reads.block(piece));
      if (data?.byteLength !== bytes) throw new Error(`piece ${piece} is not here`);
      return new Uint8Array(data);
    });
    const [first, ...others] = await Promise.all(read);
    if (!others.length) return first;
    return new Uint8Array(await new Blob([first, ...others]).arrayBuffer());
  }

  /** @param {number} piece as `read`, from what is kept where it can be */
  kept(piece) {
    const found = this.#kept.get(piece) ?? this.read(piece);
    this.#kept.delete(piece);
    this.#kept.set(piece, found);
    found.catch(() => this.forget(piece));
    if (this.#kept.size > this.most) this.#kept.delete(this.#kept.keys().next().value ?? -1);
    return found;
  }

  /** @param {number} piece */
  forget(piece) {
    this.#kept.delete(piece);
  }
}
