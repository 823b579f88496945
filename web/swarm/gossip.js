/**
 * @file The extension message `doppler_torrents` (BEP 10): a peer says which cuts of the model it is
 * in, so that peers of other cuts can join those too and be served. JSON, a kilobyte or so.
 */

/** @import {Wire} from "./webtorrent.js" */
/** @import {Identity} from "./port.js" */

const NAME = "doppler_torrents";
const LONGEST = 8 << 10; // bytes of a message
const MOST = 8; // cuts of a message
const PAUSE_MS = 500; // between two messages of a peer; others are dropped

/**
 * @typedef {object} CutNews
 * @property {string} infohash 40 hexadecimal digits
 * @property {number} shard_bytes of a shard, the last one aside
 * @property {number} files shards of the cut
 */

/** @param {any} said @returns {said is CutNews} */
function isCut(said) {
  const { infohash, shard_bytes, files } = said ?? {};
  return (
    typeof infohash === "string" &&
    /^[0-9a-f]{40}$/.test(infohash) &&
    Number.isSafeInteger(shard_bytes) &&
    Number.isSafeInteger(files)
  );
}

/**
 * @param {Uint8Array} payload
 * @param {Identity} identity
 * @returns {CutNews[]} none where it is no such message, or about another model
 */
export function parseCuts(payload, identity) {
  if (payload.length > LONGEST) return [];
  try {
    const said = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
    if (said?.identity !== identity || !Array.isArray(said.cuts)) return [];
    return said.cuts.slice(0, MOST).filter(isCut);
  } catch {
    return [];
  }
}

/** Both ends of it on one connection. */
export class Gossip {
  #last = -Infinity;
  #told = "";
  /** Whether the other side knows the message: it is no stock client. */
  speaks = false;

  /**
   * @param {Wire} wire before its extended handshake is sent
   * @param {Identity} identity
   * @param {{tell: () => CutNews[], hear: (cuts: CutNews[]) => void}} ends
   */
  constructor(wire, identity, { tell, hear }) {
    this.wire = wire;
    this.identity = identity;
    this.tell = tell;
    const gossip = this;
    class Extension {
      onExtendedHandshake() {
        gossip.speaks = true;
        gossip.say();
      }

      /** @param {Uint8Array} payload */
      onMessage(payload) {
        const now = performance.now();
        if (now - gossip.#last < PAUSE_MS) return;
        gossip.#last = now;
        hear(parseCuts(payload, identity));
      }
    }
    Object.defineProperty(Extension.prototype, "name", { value: NAME });
    wire.use(Extension);
  }

  /** Says what is new; called once in a while. */
  say() {
    if (!this.speaks || this.wire.destroyed) return;
    const text = JSON.stringify({ identity: this.identity, cuts: this.tell().slice(0, MOST) });
    if (text === this.#told) return;
    this.#told = text;
    this.wire.extended(NAME, new TextEncoder().encode(text));
  }
}
