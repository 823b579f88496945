/**
 * @file The worker's end of the port to the page's transport, which has the peers: port.d.ts in
 * swarm/ says what goes through it. Bytes are transferred, and never enter Python's memory.
 */

/** @typedef {{[name: string]: any}} Message */

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
  const { bytes, copies, ...rest } = message;
  const large = bytes ?? copies;
  listener(JSON.stringify(rest), large && new Uint8Array(large));
}

/**
 * @param {string} text the message as JSON
 * @param {string | undefined} name of the field that is large
 * @param {Uint8Array<ArrayBuffer> | undefined} data what that is; null is sent where it is missing
 */
export function tellPeers(text, name, data) {
  const message = JSON.parse(text);
  if (name) message[name] = data ? whole(data) : null;
  port?.postMessage(message, name && data ? [message[name]] : []);
}

/**
 * @param {Uint8Array<ArrayBuffer>} data
 * @returns {ArrayBuffer} its own, with nothing else in it
 */
function whole(data) {
  const { buffer, byteOffset, byteLength } = data;
  return byteLength === buffer.byteLength
    ? buffer
    : buffer.slice(byteOffset, byteOffset + byteLength);
}
