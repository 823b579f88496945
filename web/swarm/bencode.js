/** @file Bencoding (BEP 3), as far as a torrent is written: keys in order, so that it is the same. */

/** @typedef {number | string | Uint8Array | unknown[] | {[key: string]: unknown}} Value */

/** @param {Value} value @returns {Uint8Array<ArrayBuffer>} */
export function encode(value) {
  /** @type {Uint8Array[]} */
  const parts = [];
  write(value, parts);
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const utf8 = new TextEncoder();

/** @param {any} value @param {Uint8Array[]} parts */
function write(value, parts) {
  if (typeof value === "number") {
    parts.push(utf8.encode(`i${value}e`));
  } else if (typeof value === "string" || value instanceof Uint8Array) {
    const bytes = typeof value === "string" ? utf8.encode(value) : value;
    parts.push(utf8.encode(`${bytes.length}:`), bytes);
  } else if (Array.isArray(value)) {
    parts.push(utf8.encode("l"));
    for (const item of value) write(item, parts);
    parts.push(utf8.encode("e"));
  } else {
    parts.push(utf8.encode("d"));
    for (const key of Object.keys(value).sort()) {
      write(key, parts);
      write(value[key], parts);
    }
    parts.push(utf8.encode("e"));
  }
}
