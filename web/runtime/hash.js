/** @file Digests of blocks and shards: BLAKE3 by hash-wasm, SHA-256 by WebCrypto. */

import { createBLAKE3 } from "../vendor/hash-wasm.js";

/** @type {import("../vendor/hash-wasm.js").IHasher | undefined} */
let hasher;

/** Must have resolved before `blake3` is called. (A top-level await would lose early messages.) */
export async function prepareHash() {
  hasher ??= await createBLAKE3();
}

/**
 * @param {Uint8Array} data
 * @returns {string} the BLAKE3 digest as hex
 */
export function blake3(data) {
  if (!hasher) throw new Error("prepareHash() has not been awaited");
  return hasher.init().update(data).digest("hex");
}

/**
 * @param {Uint8Array<ArrayBuffer>} data
 * @returns {Promise<string>} the SHA-256 digest as hex
 */
export async function sha256(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
