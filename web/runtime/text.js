/** @file The kept library for text, in the few shapes that py/doppler/page/tokenizer.py calls. */

import { Mailbox } from "./mailbox.js";
import { tokenizerOf } from "./tokenizer.js";
import { workerURL } from "./trusted.js";

/** @import {OpenTokenizer} from "./tokenizer.js" */

/** @type {Worker | undefined} of the tokenizer that was opened last */
let worker;

/**
 * Opens a tokenizer.json; the one before is of no use afterwards. A large vocabulary takes a second
 * of computing: where memory can be shared, another worker does it, and weights load meanwhile.
 * @param {Uint8Array} bytes the file; given away
 * @returns {Promise<OpenTokenizer>}
 */
export async function openTokenizer(bytes) {
  worker?.terminate();
  worker = undefined;
  if (!globalThis.crossOriginIsolated) return tokenizerOf(bytes);
  const { memory } = await opened(bytes);
  const box = new Mailbox(memory);
  return {
    encode: (text) => box.ask("encode", [text]),
    decode: (ids, skipSpecial) => box.ask("decode", [ids, skipSpecial]),
    ids: (pieces) => box.ask("ids", [pieces]),
    added: () => box.ask("added", []),
  };
}

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<{memory: SharedArrayBuffer}>} once the worker answers
 */
function opened(bytes) {
  const { memory } = new Mailbox();
  const opening = new Worker(workerURL("tokenizer_worker.js"), { type: "module" });
  worker = opening;
  return new Promise((resolve, reject) => {
    opening.onmessage = ({ data }) =>
      data.error ? reject(new Error(data.error)) : resolve({ memory });
    opening.onerror = ({ message }) =>
      reject(new Error(message || "tokenizer_worker.js could not be fetched"));
    opening.postMessage({ bytes, memory }, [bytes.buffer]);
  });
}
