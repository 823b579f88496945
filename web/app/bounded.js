/**
 * Markdown's rules with bounds, so that no text takes longer than its length allows: lists and
 * quotes nest so deep and no deeper, and what is too long for emphasis is shown as it is written.
 */

import { Tokenizer } from "../vendor/marked.js";

const DEEPEST = 16; // lists and quotes in each other: each level reads what is in it once more
const LONGEST = 10_000; // letters of a paragraph in which the ends of emphasis are looked for
/** Letters that may be an e-mail address: marked looks for its @ from each of them to the end. */
const WORD = /^[\w.!#$%&'*+/=?`{|}~-]{1000,}/;

export class BoundedTokenizer extends Tokenizer {
  #depth = 0;

  /**
   * @param {string} src
   * @param {string} masked the whole paragraph
   * @param {string} [before]
   */
  emStrong(src, masked, before) {
    return masked.length > LONGEST ? undefined : super.emStrong(src, masked, before);
  }

  /**
   * @param {string} src
   * @param {string} masked
   * @param {string} [before]
   */
  del(src, masked, before) {
    return masked.length > LONGEST ? undefined : super.del(src, masked, before);
  }

  /** @param {string} src */
  list(src) {
    return this.#within(() => super.list(src));
  }

  /** @param {string} src */
  blockquote(src) {
    return this.#within(() => super.blockquote(src));
  }

  /**
   * @param {string} src
   * @returns {import("../vendor/marked.js").Tokens.Text | undefined}
   */
  inlineText(src) {
    const raw = WORD.exec(src)?.[0];
    return raw ? { type: "text", raw, text: raw, escaped: false } : super.inlineText(src);
  }

  /**
   * @template T
   * @param {() => T} read
   * @returns {T | undefined}
   */
  #within(read) {
    if (this.#depth >= DEEPEST) return undefined;
    this.#depth += 1;
    try {
      return read();
    } finally {
      this.#depth -= 1;
    }
  }
}
