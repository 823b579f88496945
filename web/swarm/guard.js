/**
 * @file Bounds on what a peer may send: sizes, messages a second, requests that wait, and bytes that
 * nobody asked for. bittorrent-protocol has none: a length of 4 GiB would be waited for.
 */

/** @import {Wire} from "./webtorrent.js" */

export const CHUNK = 1 << 14; // bytes that are asked for at once, as all clients do
const LONGEST = (1 << 17) + 64; // a bitfield of a million pieces, a chunk of the largest kind
const MESSAGES_A_SECOND = 2000; // a fast peer's requests, and what else it says
const BURST = 3 * MESSAGES_A_SECOND;
const EXTENDED_COST = 20; // they are parsed, and answered
const BITFIELD_COST = 100;
const UNASKED_COST = 100; // a piece that nobody asked for
const WAITING = 600; // requests of a peer, and answers that it has not taken; it is told REQUESTS
export const REQUESTS = 250;
const NEWS_COST = 0.05; // a piece that it has now: a large model comes all at once from elsewhere
const [HAVE, BITFIELD, PIECE, EXTENDED] = [4, 5, 7, 20];

/** @param {Uint8Array} bytes */
const uint32 = ([a, b, c, d]) => ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;

/**
 * @param {Wire} wire just after its handshake
 * @param {(why: string) => void} refuse told once, of what went over a bound
 * @returns {(chunks: number) => void} tells it of chunks whose answers may come, asked for or cancelled
 */
export function guard(wire, refuse) {
  let tokens = BURST;
  let at = performance.now();
  let awaited = 0;
  let over = false;
  const onLength = wire._onMessageLength;
  const onMessage = wire._onMessage;
  const stop = (/** @type {string} */ why) => {
    if (!over) refuse(why);
    over = true;
    wire.destroy();
  };

  /** @param {Uint8Array} message */
  const cost = (message) => {
    const [kind] = message;
    if (kind === EXTENDED) return EXTENDED_COST;
    if (kind === BITFIELD) return BITFIELD_COST;
    if (kind === HAVE) return wire.peerPieces.get(uint32(message.subarray(1))) ? 1 : NEWS_COST;
    if (kind !== PIECE) return 1;
    awaited -= 1;
    return awaited >= 0 ? 0 : UNASKED_COST;
  };

  /** @param {number} spent */
  const pay = (spent) => {
    const now = performance.now();
    tokens = Math.min(BURST, tokens + ((now - at) / 1000) * MESSAGES_A_SECOND) - spent;
    at = now;
    if (tokens < 0) stop("floods");
  };

  // Underscored, for there is no other place before a message is in memory and answered.
  wire._onMessageLength = (head) => {
    const length = uint32(head);
    if (length > LONGEST) return stop(`sends a message of ${length} bytes`);
    if (length === 0) pay(1); // a keep-alive: it is no message to _onMessage
    if (!over) onLength.call(wire, head);
  };
  wire._onMessage = (message) => {
    pay(cost(message));
    if (over) return;
    onMessage.call(wire, message);
    const unsent = wire._readableState.buffered / CHUNK;
    if (wire.peerRequests.length + unsent > WAITING) stop("asks for more than it takes");
  };
  wire.extendedHandshake.reqq = REQUESTS;
  return (chunks) => {
    awaited = Math.max(awaited, 0) + chunks;
  };
}
