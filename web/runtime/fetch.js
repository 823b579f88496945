/**
 * @file Bytes of files and addresses as Uint8Arrays. Python decides which bytes, and what a status
 * or a header means; errors of the network reach it as exceptions.
 */

const SECONDS = 60; // that a part of the page may take to begin, and between two LEAST of it
const LEAST = 64 << 10;

/** @param {Response} response as Python reads it: texts are empty for what is not there to see */
function told(response) {
  const text = (/** @type {string} */ name) => response.headers.get(name) ?? "";
  return {
    status: response.status,
    range: text("Content-Range"),
    length: text("Content-Length"),
    encoding: text("Content-Encoding"),
    type: text("Content-Type"),
    etag: text("ETag"),
    modified: text("Last-Modified"),
    link: text("Link"),
    where: response.url.split(/[?#]/)[0],
    hides: response.type !== "basic", // another site lets the page see some headers only
  };
}

/** One response: what was told of it, and its body in pieces. */
class ByteStream {
  /**
   * @param {Response} response
   * @param {AbortController} controller
   * @param {number} seconds of waiting after which the server counts as gone
   * @param {number} least bytes; the wait begins anew when so many have come
   */
  constructor(response, controller, seconds, least) {
    this.told = told(response);
    this.reader = response.body?.getReader();
    this.controller = controller;
    this.patience = 1000 * seconds;
    this.least = least;
    this.waited = 0; // milliseconds
    this.came = 0; // bytes in that time
    /** @type {Uint8Array} */
    this.rest = new Uint8Array(0);
  }

  /**
   * The next `size` bytes, fewer at the end of the body.
   * @param {number} size
   * @returns {Promise<Uint8Array>}
   */
  async next(size) {
    const piece = new Uint8Array(size);
    let at = 0;
    while (at < size && (this.rest.length || (await this.more()))) {
      const part = this.rest.subarray(0, size - at);
      piece.set(part, at);
      at += part.length;
      this.rest = this.rest.subarray(part.length);
    }
    return at === size ? piece : piece.subarray(0, at);
  }

  /** @param {number} count bytes to be read and dropped */
  async skip(count) {
    let left = count;
    while (left > 0 && (this.rest.length || (await this.more()))) {
      const dropped = Math.min(left, this.rest.length);
      this.rest = this.rest.subarray(dropped);
      left -= dropped;
    }
  }

  /**
   * @param {number} limit
   * @returns {Promise<Uint8Array | undefined>} the whole body; undefined if it is longer than `limit`
   */
  async whole(limit) {
    const parts = [];
    let length = 0;
    while (length <= limit && (await this.more())) {
      parts.push(this.rest);
      length += this.rest.length;
    }
    if (length > limit) return undefined;
    const body = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      body.set(part, at);
      at += part.length;
    }
    return body;
  }

  /** @returns {Promise<boolean>} whether nothing more comes */
  async ended() {
    return !this.rest.length && !(await this.more());
  }

  /** @returns {Promise<boolean>} whether the body went on; its bytes are in `rest` */
  async more() {
    const began = performance.now();
    const left = Math.max(0, this.patience - this.waited);
    const timer = setTimeout(() => this.controller.abort(late(this.came, this.patience)), left);
    try {
      const { value, done } = (await this.reader?.read()) ?? { value: undefined, done: true };
      this.rest = value ?? new Uint8Array(0);
      this.waited += performance.now() - began;
      this.came += this.rest.length;
      if (this.came >= this.least) this.waited = this.came = 0;
      return !done;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the request; what was not read is dropped. */
  close() {
    this.controller.abort();
  }
}

/**
 * @param {number} bytes
 * @param {number} ms
 */
function late(bytes, ms) {
  return new DOMException(`${bytes} bytes came in ${ms / 1000} seconds`, "TimeoutError");
}

/**
 * Asks for a file, or for the bytes of it that `range` says.
 * @param {string} url
 * @param {string} range such as "bytes=0-99", or empty for the whole file
 * @param {number} [seconds] that the server may take to answer, and as ByteStream has it
 * @param {number} [least] bytes, as ByteStream has it
 */
export async function openStream(url, range, seconds = SECONDS, least = LEAST) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(late(0, 1000 * seconds)), 1000 * seconds);
  /** @type {RequestInit} */
  const how = range ? { headers: { Range: range }, cache: "no-store" } : { cache: "no-cache" };
  try {
    const response = await fetch(url, { ...how, signal: controller.signal });
    return new ByteStream(response, controller, seconds, least);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * What the server tells of a file without sending it.
 * @param {string} url
 * @param {number} seconds
 */
export async function askAbout(url, seconds) {
  const signal = AbortSignal.timeout(1000 * seconds);
  return told(await fetch(url, { method: "HEAD", cache: "no-store", signal }));
}

/**
 * A part of the page as text: a kernel, a list of models.
 * @param {string} url
 * @param {number} limit bytes
 * @returns {Promise<{status: number, text: string}>}
 */
export async function fetchText(url, limit) {
  const stream = await openStream(url, "");
  try {
    const { status } = stream.told;
    const body = status === 200 ? await stream.whole(limit) : new Uint8Array(0);
    if (body) return { status, text: new TextDecoder().decode(body) };
    throw new RangeError(`${url} is longer than the ${limit} bytes that it may have`);
  } finally {
    stream.close();
  }
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
