/**
 * @file A model's bytes as a torrent: which piece is what, and the info dictionary of a cut.
 *
 * The files of a cut are its shards in the manifest's order, tokenizer.json, manifest.json, on end. A
 * piece is as long as a block: piece i is block i of the byte space, in every cut of the model. Where
 * the last block is short, its piece goes on with the file that follows. Cuts differ in where shards
 * end, and in manifest.json. Whoever makes the torrent of a cut makes the same one.
 */

import { encode } from "./bencode.js";

/** @import {Layout, FileName, Identity} from "./port.js" */
/** @import {Torrent} from "./webtorrent.js" */

const SHARD = /^shard-[0-9]{5,9}\.bin$/;
const PIECES = 400_000; // as many as bittorrent-protocol knows of a peer
const LEAST_PIECE = 1 << 14;
const FILE_BYTES = 128 << 20; // of tokenizer.json, and of manifest.json
const DIGEST_BYTES = 20;

/** @typedef {{file: FileName | null, start: number, bytes: number}} Part of a piece; null: a block */

/**
 * What lies where. What is fetched is an item: first the blocks, then the whole pieces in which the
 * files lie, of which the first may have the end of the last block in it.
 */
export class Geometry {
  /** @param {Layout} layout */
  constructor({ block_size, bytes, tokenizer, manifest_bytes }) {
    const manifestAt = bytes + (tokenizer?.bytes ?? 0);
    /** @type {{file: FileName | null, from: number, to: number}[]} bytes of the torrent */
    this.spans = [
      { file: null, from: 0, to: bytes },
      { file: "tokenizer.json", from: bytes, to: manifestAt },
      { file: "manifest.json", from: manifestAt, to: manifestAt + manifest_bytes },
    ];
    this.bytes = manifestAt + manifest_bytes;
    this.pieceBytes = block_size;
    this.blocks = Math.ceil(bytes / block_size);
    this.pieces = Math.ceil(this.bytes / block_size);
    /** The first piece that is not a block and nothing else. */
    this.pure = Math.floor(bytes / block_size);
    this.items = this.blocks + this.pieces - this.pure;
  }

  /** @param {number} item */
  pieceOf(item) {
    return item < this.blocks ? item : this.pure + item - this.blocks;
  }

  /** @param {number} piece @returns {number[]} the items that lie in it */
  itemsIn(piece) {
    const items = piece < this.blocks ? [piece] : [];
    return piece < this.pure ? items : [...items, this.blocks + piece - this.pure];
  }

  /** @param {number} item @returns {number} bytes that are fetched of its piece */
  bytesOf(item) {
    const from = this.pieceOf(item) * this.pieceBytes;
    return Math.min(this.pieceBytes, (item < this.blocks ? this.spans[0].to : this.bytes) - from);
  }

  /** @param {number} piece @returns {Part[]} in their order */
  parts(piece) {
    const first = piece * this.pieceBytes;
    return this.spans.flatMap(({ file, from, to }) => {
      const start = Math.max(first, from);
      const bytes = Math.min(first + this.pieceBytes, to) - start;
      return bytes > 0 ? [{ file, start: start - from, bytes }] : [];
    });
  }

  /** @param {FileName} name @returns {number[]} the items that hold a file */
  itemsOf(name) {
    const items = Array.from({ length: this.pieces - this.pure }, (_, at) => this.blocks + at);
    const holds = (/** @type {Part} */ { file }) => file === name;
    return items.filter((item) => this.parts(this.pieceOf(item)).some(holds));
  }

  /** @param {FileName} name */
  lengthOf(name) {
    const { from, to } = this.spans[name === "tokenizer.json" ? 1 : 2];
    return to - from;
  }
}

/**
 * @param {Layout} layout
 * @returns {{length: number, path: string[]}[]} of the info dictionary
 */
function filesOf({ shards, tokenizer, manifest_bytes }) {
  const files = shards.map(({ name, bytes }) => ({ length: bytes, path: [name] }));
  if (tokenizer) files.push({ length: tokenizer.bytes, path: ["tokenizer.json"] });
  files.push({ length: manifest_bytes, path: ["manifest.json"] });
  return files;
}

/**
 * Reads all of a model once.
 * @param {Identity} identity
 * @param {Layout} layout
 * @param {(piece: number) => Promise<Uint8Array<ArrayBuffer>>} read
 * @param {() => boolean} wanted asked between pieces
 * @returns {Promise<Uint8Array<ArrayBuffer> | null>} the info dictionary, whose SHA-1 is the cut's
 *     infohash; null where it was wanted no more
 */
export async function hashed(identity, layout, read, wanted) {
  const { pieces } = new Geometry(layout);
  const digests = new Uint8Array(pieces * DIGEST_BYTES);
  for (let piece = 0; piece < pieces; piece++) {
    if (!wanted()) return null;
    digests.set(await sha1(await read(piece)), piece * DIGEST_BYTES);
  }
  const files = filesOf(layout);
  const told = { files, name: identity, "piece length": layout.block_size, pieces: digests };
  return wanted() ? encode(told) : null;
}

/** @param {ArrayBuffer} have in BitTorrent's order @returns {number[]} */
export function blocksIn(have) {
  return Array.from(new Uint8Array(have)).flatMap((byte, at) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => byte & (128 >> bit)).map((bit) => 8 * at + bit),
  );
}

/** @param {Uint8Array} info @returns {Uint8Array} a torrent file without trackers */
export function torrentFile(info) {
  const [head, end] = ["d4:info", "e"].map((text) => new TextEncoder().encode(text));
  const file = new Uint8Array(head.length + info.length + end.length);
  file.set(head);
  file.set(info, head.length);
  file.set(end, head.length + info.length);
  return file;
}

/**
 * @param {Torrent} torrent with its metadata, which a stranger may have made
 * @param {Identity} identity
 * @returns {Layout | null} null where it is no cut of such a model
 */
export function layoutOf(torrent, identity) {
  const { pieceLength, files, _hashes } = torrent;
  const shards = files.filter(({ name }) => SHARD.test(name));
  const [manifest] = files.slice(-1);
  const tokenizer = files.find(({ name }) => name === "tokenizer.json");
  /** @type {Layout} */
  const layout = {
    block_size: pieceLength,
    bytes: shards.reduce((sum, { length }) => sum + length, 0),
    shards: shards.map(({ name, length }) => ({ name, bytes: length })),
    manifest_bytes: manifest.length,
    tokenizer: tokenizer ? { bytes: tokenizer.length, stored: false } : null,
  };
  const expected = filesOf(layout).map(({ path, length }) => [
    [identity, ...path].join("/"),
    length,
  ]);
  const found = files.map(({ path, length }) => [path, length]);
  const even = shards.slice(0, -1).every(({ length }) => length > 0 && length % pieceLength === 0);
  const sizes = files.every(({ length }) => Number.isSafeInteger(length) && length > 0);
  const small = Math.max(layout.tokenizer?.bytes ?? 0, layout.manifest_bytes) <= FILE_BYTES;
  const sound =
    small && even && sizes && Number.isSafeInteger(pieceLength) && pieceLength >= LEAST_PIECE;
  if (!sound || JSON.stringify(expected) !== JSON.stringify(found)) return null;
  const { pieces } = new Geometry(layout);
  return pieces <= PIECES && _hashes.length === pieces ? layout : null;
}

/** @param {Layout} a @param {Layout} b whether they are cuts of one byte space, as far as one sees */
export const agree = (a, b) =>
  a.block_size === b.block_size && a.bytes === b.bytes && a.tokenizer?.bytes === b.tokenizer?.bytes;

/** @param {BufferSource} bytes @returns {Promise<Uint8Array<ArrayBuffer>>} */
export async function sha1(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-1", bytes));
}

/** @param {Uint8Array} bytes */
export const hex = (bytes) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** @param {Identity} identity @returns {Promise<string>} where peers of all its cuts meet */
export async function rendezvousOf(identity) {
  return hex(await sha1(new TextEncoder().encode(`doppler swarm ${identity}`)));
}
