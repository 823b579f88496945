/**
 * @file The worker's end of the port to the page's transport, which has the peers: port.d.ts in
 * swarm/ says what goes through it. Bytes are transferred, and never enter Python's memory.
 */

/** @import {ToPage, ToWorker} from "../swarm/port.js" */
/** @typedef {ToWorker | {type: "closed"}} Message */

/** @type {MessagePort | undefined} */
let port;
/** @type {((message: string, bytes: Uint8Array | undefined) => void) | undefined} */
let listener;
/** @type {Message[]} that came before anybody listened */
const early = [];

/** @param {MessagePort} given in place of the one before, whose models are shared no more */
export function connectPeers(given) {
  if (port) {
    port.close();
    hand({ type: "closed" });
  }
  port = given;
  port.onmessage = ({ data }) => hand(data);
}

/** @param {(message: string, bytes: Uint8Array | undefined) => void} heard JSON, and what is large */
export function hearPeers(heard) {
  listener = heard;
  early.splice(0).forEach(hand);
}

/** @param {Message} message */
function hand(message) {
  if (!listener) {
    early.push(message);
    return;
  }
  const { bytes, copies, ...rest } = /** @type {any} */ (message);
  const large = bytes ?? copies;
  listener(JSON.stringify(rest), large && new Uint8Array(large));
}

/**
 * @param {string} text the message as JSON
 * @param {string | undefined} name of the field that is large
 * @param {Uint8Array<ArrayBuffer> | undefined} data what that is; null is sent where it is missing
 */
export function tellPeers(text, name, data) {
  const large = data ? whole(data) : null;
  /** @type {ToPage} */
  const message = { ...JSON.parse(text), ...(name && { [name]: large }) };
  port?.postMessage(message, large ? [large] : []);
}

/**
 * @param {Uint8Array<ArrayBuffer>} data
 * @returns {ArrayBuffer} its own, with nothing else in it
 */
function whole(data) {
  const { buffer, byteOffset, byteLength } = data;
  if (byteLength === buffer.byteLength) return buffer;
  return buffer.slice(byteOffset, byteOffset + byteLength);
}
