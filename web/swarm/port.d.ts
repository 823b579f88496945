/**
 * What the page's transport (this folder, main thread: there is WebRTC) and the store (the worker:
 * there are blocks and their BLAKE3) say to each other, over one MessagePort. Either side may post at
 * any time. Every ArrayBuffer is transferred: whoever posts it has it no more.
 *
 * The course of it, for a model that a person shares:
 *
 *     page                          worker
 *     join       ->
 *                                <- model       layout null: not even the manifest is stored
 *     file       ->                             manifest.json from a peer, unverified
 *                                <- model       it is the identity's (else blame), now with a layout
 *     file       ->                             tokenizer.json, where the layout lacks it
 *                                <- model       it is the manifest's (else blame)
 *                                <- want        blocks, and how urgent
 *     write      ->                             a whole block from one peer, unverified
 *                                <- done        verified: peers are now told of it
 *                                <- blame       not verified: the peer is told off, the block comes
 *                                               from another; the worker need not want it again
 *                                <- have, lost  blocks that came or went in another way
 *     read       ->                             a peer asks for a block, or this page hashes it
 *                                <- data
 *     seen       ->                             how many peers hold each block
 *     keep       ->                             what of it is kept for others
 *     leave      ->                             the last message of the page about the model, until
 *                                               it joins again; wants of it are forgotten
 *
 * Messages about a model that was not joined, or that was left, are dropped by both.
 */

/** BLAKE3 of a model's description, 64 hexadecimal digits: what models are called here. */
export type Identity = string;

/**
 * "now": a token waits for it; asked of several peers if need be. "soon": before what is idle.
 * "idle": the rarest first.
 */
export type Urgency = "now" | "soon" | "idle";

/** Files of a model beside its blocks. */
export type FileName = "manifest.json" | "tokenizer.json";

/** One cut of a model, as its manifest has it. */
export interface Layout {
  /** Bytes of a block; the last one may be shorter. Pieces of torrents are as long. */
  block_size: number;
  /** Bytes of the byte space: of all shards. */
  bytes: number;
  /** In the manifest's order. */
  shards: { name: string; bytes: number }[];
  /** Bytes of the text of manifest.json, as it is stored. */
  manifest_bytes: number;
  /** Null where the model has none. `stored`: `read_file` can give it. */
  tokenizer: { bytes: number; stored: boolean } | null;
}

/** Page -> worker. */
export type ToWorker = Join | Leave | ReadBlock | ReadFile | WriteBlock | WriteFile | Seen | Keep;

/** Worker -> page. */
export type ToPage = Model | Want | Data | Done | Blame | Have | Lost;

/** The model is shared from now on. Answered by `model`; a second join by another `model`. */
export interface Join {
  type: "join";
  identity: Identity;
}

/** The model is shared no more. Not answered. */
export interface Leave {
  type: "leave";
  identity: Identity;
}

/** Answered by `data` with the same id, ids counting up on this port. */
export interface ReadBlock {
  type: "read";
  id: number;
  identity: Identity;
  /** Verified before it is given. */
  block: number;
}

/** Answered by `data` with the same id. */
export interface ReadFile {
  type: "read_file";
  id: number;
  identity: Identity;
  name: FileName;
  /** Bytes [start, end) of the file. */
  start: number;
  end: number;
}

/**
 * A block that a peer sent: whole, unverified. Answered by `done` or `blame`, in any order. Also one
 * that the worker wants no more may come.
 */
export interface WriteBlock {
  type: "write";
  identity: Identity;
  block: number;
  bytes: ArrayBuffer;
  /** The peer that sent all of it, for messages: its id, 40 hexadecimal digits. */
  from: string;
}

/** A file that peers sent, whole and unverified. Answered by `model` or by `blame`. */
export interface WriteFile {
  type: "file";
  identity: Identity;
  name: FileName;
  bytes: ArrayBuffer;
}

/**
 * How many peers hold each block: sent when it has changed, once a second at most, and once with no
 * peers when the last one is gone. What has 0 copies cannot be had here: HTTP may be asked at once.
 */
export interface Seen {
  type: "seen";
  identity: Identity;
  /** Peers that are connected, this page not counted. */
  peers: number;
  /** A byte for each block, 255 at most; empty while the layout is not known. */
  copies: ArrayBuffer;
}

/**
 * What a person lets this page keep for others: from then on the worker wants blocks, idly, of which
 * few have copies. Before the first one it wants none for that. A model that is joined again needs it
 * again. Not answered.
 */
export interface Keep {
  type: "keep";
  identity: Identity;
  /** Copies of each block, this page's counted, that there should be; 0: nothing is kept for others. */
  least: number;
  /** Bytes of the model's weights that may be stored; null: all. */
  room: number | null;
}

/** Answers `join` and a good `file`: what is stored. */
export interface Model {
  type: "model";
  identity: Identity;
  /** Null: the manifest is not stored. The page then gets it from peers and sends it as a `file`. */
  layout: Layout | null;
  /**
   * Which blocks are stored: bit 7 of byte 0 is block 0 (BitTorrent's order), spare bits 0; empty
   * without a layout. By sizes of files alone is good enough: `read` verifies.
   */
  have: ArrayBuffer;
}

/**
 * Blocks to get from peers. It adds to what was wanted before, or changes its urgency; a null urgency
 * means wanted no more. A block is wanted until it is `done`, `have` or wanted no more, whoever fails
 * to send it meanwhile: it is asked for as soon as some peer has it.
 */
export interface Want {
  type: "want";
  identity: Identity;
  blocks: number[];
  urgency: Urgency | null;
}

/** Answers `read` and `read_file`. */
export interface Data {
  type: "data";
  id: number;
  /** Null: not there, or damaged (then a `lost` was sent before). */
  bytes: ArrayBuffer | null;
}

/** A block of `write` is what it should be. */
export interface Done {
  type: "done";
  identity: Identity;
  block: number;
  /** False: it was used, but there is no room to keep it, so that peers cannot be given it. */
  stored: boolean;
  /** It is stored since few have it, and nobody waited for it here. */
  for_others: boolean;
}

/** What came is not what it should be. Exactly one of `block` and `file` is not null. */
export interface Blame {
  type: "blame";
  identity: Identity;
  block: number | null;
  file: FileName | null;
}

/** Blocks that are stored and verified now, and came in another way: over HTTP, from a file. */
export interface Have {
  type: "have";
  identity: Identity;
  blocks: number[];
}

/** Blocks that are stored no more, or were found damaged. */
export interface Lost {
  type: "lost";
  identity: Identity;
  blocks: number[];
}
