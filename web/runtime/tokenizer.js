/** @file A tokenizer.json opened by the kept library, in the shape that py/doppler calls. */

import { SequenceNormalizer, Tokenizer } from "../vendor/tokenizers.js";

/** Dropped from every text, once no control token can be recognised: see py/doppler/shield.py. */
const MARK = "\ufdd1";

/**
 * @typedef {object} OpenTokenizer
 * @property {(text: string) => number[]} encode without special tokens of its own
 * @property {(ids: number[], skipSpecial: boolean) => string} decode
 * @property {(pieces: string) => string} ids of pieces of the vocabulary, null for those it lacks;
 *   both are JSON arrays
 * @property {() => string} added tokens, as a JSON array of [text, id, special]
 */

/**
 * @param {Uint8Array} bytes the file
 * @returns {OpenTokenizer}
 */
export function tokenizerOf(bytes) {
  const document = JSON.parse(new TextDecoder().decode(bytes));
  const steps = document.normalizer ? [document.normalizer] : [];
  const normalizer = new SequenceNormalizer({ type: "Sequence", normalizers: steps });
  for (const token of document.added_tokens) {
    // Found before a mark is dropped, and for the rest as it was.
    token.normalized &&= normalizer.normalize(token.content) !== token.content;
  }
  const tokenizer = new Tokenizer(document, {});
  const drop = { type: "Replace", pattern: { String: MARK }, content: "" };
  const normalizers = [drop, ...steps];
  tokenizer.normalizer = new SequenceNormalizer({ type: "Sequence", normalizers });
  return {
    encode: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
    decode: (ids, skipSpecial) => {
      // Embeddings may have more rows than there are tokens: such an id has no text.
      const known = ids.filter((id) => tokenizer.id_to_token(id) !== undefined);
      if (known.length === 0) return "";
      return tokenizer.decode(known, {
        skip_special_tokens: skipSpecial,
        clean_up_tokenization_spaces: false,
      });
    },
    ids: (pieces) =>
      JSON.stringify(
        /** @type {string[]} */ (JSON.parse(pieces)).map(
          (piece) => tokenizer.token_to_id(piece) ?? null,
        ),
      ),
    added: () => {
      const tokens = [...tokenizer.get_added_tokens_decoder().values()];
      return JSON.stringify(tokens.map(({ content, id, special }) => [content, id, special]));
    },
  };
}
