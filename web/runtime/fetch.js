/**
 * @file Bytes of files and addresses as Uint8Arrays. Python decides which bytes, and what a status
 * means; errors of the network reach it as exceptions.
 */

const STALL_MS = 60_000; // a server that sends nothing for so long counts as gone

/** One response body, cut into pieces of equal length. */
class ByteStream {
  /**
   * @param {Response} response
   * @param {AbortController} controller
   * @param {number} skip bytes at the start of the body that nobody asked for
   * @param {number} length bytes to deliver after them
   */
  constructor(response, controller, skip, length) {
    this.status = response.status;
    this.reader = response.body?.getReader();
    this.controller = controller;
    this.skip = skip;
    this.left = length;
    /** @type {Uint8Array} */
    this.rest = new Uint8Array(0);
  }

  /**
   * The next `size` bytes (fewer at the end of the range, or where the server ends too early).
   * @param {number} size
   * @returns {Promise<Uint8Array>}
   */
  async next(size) {
    const piece = new Uint8Array(Math.min(size, this.left));
    let at = 0;
    while (at < piece.length && (this.rest.length || (await this.more()))) {
      const part = this.rest.subarray(0, piece.length - at);
      piece.set(part, at);
      at += part.length;
      this.rest = this.rest.subarray(part.length);
    }
    this.left -= at;
    return at === piece.length ? piece : piece.subarray(0, at);
  }

  /** @returns {Promise<boolean>} whether the body went on; its bytes are in `rest` */
  async more() {
    const timer = setTimeout(() => this.controller.abort(stalled()), STALL_MS);
    try {
      const { value, done } = (await this.reader?.read()) ?? { value: undefined, done: true };
      if (done || !value) return false;
      const skipped = Math.min(this.skip, value.length);
      this.skip -= skipped;
      this.rest = value.subarray(skipped);
      return true;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the request; what was not read is dropped. */
  close() {
    this.controller.abort();
  }
}

/** @returns {DOMException} */
function stalled() {
  return new DOMException(`no bytes for ${STALL_MS / 1000} seconds`, "TimeoutError");
}

/**
 * Asks for bytes [start, end) of an address. `status` of the result is 206, or 200 where the server
 * sends the whole file: the stream then begins at `start` all the same. Any other status comes
 * without bytes.
 * @param {string} url
 * @param {number} start
 * @param {number} end
 */
export async function openStream(url, start, end) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(stalled()), STALL_MS);
  try {
    const headers = { Range: `bytes=${start}-${end - 1}` };
    const response = await fetch(url, { headers, cache: "no-store", signal: controller.signal });
    const skip = response.status === 200 ? start : 0;
    return new ByteStream(response, controller, skip, response.ok ? end - start : 0);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The length of the file at an address whose server answers ranges.
 * @param {string} url
 * @returns {Promise<{status: number, size: number}>} size is -1 where the server does not tell it
 */
export async function probe(url) {
  const controller = new AbortController();
  const headers = { Range: "bytes=0-0" };
  const response = await fetch(url, { headers, cache: "no-store", signal: controller.signal });
  const range = response.headers.get("Content-Range"); // "bytes 0-0/1234"; CORS may hide it
  controller.abort();
  if (response.status !== 206) return { status: response.status, size: -1 };
  const total = range ? Number(range.split("/")[1]) : await contentLength(url);
  return { status: response.status, size: Number.isSafeInteger(total) ? total : -1 };
}

/**
 * @param {string} url
 * @returns {Promise<number>}
 */
async function contentLength(url) {
  const response = await fetch(url, { method: "HEAD", cache: "no-store" });
  return Number((response.ok && response.headers.get("Content-Length")) || NaN);
}

/**
 * A small file as it is: a manifest, a tokenizer.
 * @param {string} url
 * @returns {Promise<{status: number, data: Uint8Array}>}
 */
export async function fetchBytes(url) {
  const response = await fetch(url, { cache: "no-cache" });
  const body = response.ok ? await response.arrayBuffer() : new ArrayBuffer(0);
  return { status: response.status, data: new Uint8Array(body) };
}

/**
 * A part of the page as text: a kernel.
 * @param {string} url
 * @returns {Promise<{status: number, text: string}>}
 */
export async function fetchText(url) {
  const response = await fetch(url, { cache: "no-cache" });
  return { status: response.status, text: response.ok ? await response.text() : "" };
}

/**
 * @param {Blob} blob
 * @param {number} start
 * @param {number} end
 * @returns {Promise<Uint8Array>} bytes [start, end)
 */
export async function readBlob(blob, start, end) {
  return new Uint8Array(await blob.slice(start, end).arrayBuffer());
}
