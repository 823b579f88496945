/**
 * What is used here of WebTorrent 3.0.21 and of its bittorrent-protocol. Names with an underscore are
 * not its public interface: they are why the version is pinned, and each is named where it is used.
 */

export interface Client {
  peerId: string;
  torrents: Torrent[];
  destroyed: boolean;
  add(id: string | Uint8Array, options: TorrentOptions): Torrent;
  throttleUpload(bytesPerSecond: number): void;
  destroy(done?: () => void): void;
  on(event: "error", listener: (error: Error) => void): void;
}

export interface TorrentOptions {
  announce: string[];
  deselect: boolean;
  alwaysChokeSeeders: boolean;
  uploads: number;
  storeCacheSlots: number;
  preloadedStore: ChunkStore;
}

/** abstract-chunk-store, of which pieces are read only: what is received is stored by the worker. */
export interface ChunkStore {
  chunkLength: number;
  get(
    index: number,
    options: { offset?: number; length?: number } | null,
    done: (error: Error | null, bytes?: Uint8Array) => void,
  ): void;
  put(index: number, bytes: Uint8Array, done: (error: Error | null) => void): void;
  close(done: (error: Error | null) => void): void;
  destroy(done: (error: Error | null) => void): void;
}

export interface Torrent {
  infoHash: string;
  name: string;
  length: number;
  pieceLength: number;
  /** Before the metadata is there it has none; then null for a piece that is had. */
  pieces: unknown[];
  files: { name: string; path: string; length: number }[];
  info: Uint8Array | object;
  infoBuffer: Uint8Array;
  wires: Wire[];
  ready: boolean;
  destroyed: boolean;
  bitfield: { get(index: number): boolean; set(index: number, value: boolean): void };
  discovery: { tracker: { update(): void } | null } | null;
  /** SHA-1 of each piece, as hex. */
  _hashes: string[];
  /** Null when it is destroyed. Of simple-peer: `_pc`. */
  _peers: Map<string, { conn: { _pc: RTCPeerConnection | null } | null }> | null;
  addPeer(peer: { id: string; destroy(): void }, source: string): boolean;
  destroy(options?: object, done?: () => void): void;
  on(event: "metadata" | "ready" | "close", listener: () => void): void;
  on(event: "wire", listener: (wire: Wire) => void): void;
  on(event: "error" | "warning", listener: (error: Error | string) => void): void;
  _update(): void;
  _verifyPieces(done: (error: Error | null) => void): void;
  _markVerified(index: number): void;
  _markUnverified(index: number): void;
  _checkDone(): boolean;
}

export interface Wire {
  peerId: string;
  type: string;
  destroyed: boolean;
  amChoking: boolean;
  peerChoking: boolean;
  peerInterested: boolean;
  peerPieces: { get(index: number): boolean };
  peerExtendedHandshake: { v?: Uint8Array; reqq?: number };
  extendedHandshake: { reqq?: number };
  hasFast: boolean;
  downloaded: number;
  uploaded: number;
  requests: object[];
  peerRequests: object[];
  lt_donthave: { donthave(index: number): void; on(event: "donthave", listener: () => void): void };
  ut_metadata: { on(event: "warning", listener: (error: Error) => void): void };
  downloadSpeed(): number;
  uploadSpeed(): number;
  use(extension: new (wire: Wire) => object): void;
  extended(name: string, payload: Uint8Array): void;
  have(index: number): void;
  choke(): void;
  unchoke(): void;
  request(
    piece: number,
    offset: number,
    length: number,
    done: (error: Error | null, bytes: Uint8Array) => void,
  ): void;
  cancel(piece: number, offset: number, length: number): void;
  destroy(): void;
  on(event: WireEvent, listener: () => void): void;
  once(event: WireEvent, listener: () => void): void;
  on(event: "have", listener: (index: number) => void): void;
  on(event: "piece", listener: (index: number, offset: number, bytes: Uint8Array) => void): void;
  on(event: "upload", listener: (bytes: number) => void): void;
  _onMessageLength(head: Uint8Array): void;
  _onMessage(message: Uint8Array): void;
  /** Of streamx: bytes that were pushed and not taken yet. */
  _readableState: { buffered: number };
}

type WireEvent =
  "bitfield" | "have-all" | "have-none" | "choke" | "unchoke" | "interested" | "close" | "extended";
