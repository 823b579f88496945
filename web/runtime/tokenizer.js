/** @file A tokenizer.json opened by the kept library, in the shape that py/doppler calls. */

import { SequenceNormalizer, Tokenizer } from "../vendor/tokenizers.js";

/** Dropped from every text, once no control token can be recognised: see py/doppler/text/shield.py. */
const MARK = "\ufdd1";

/**
 * @typedef {object} OpenTokenizer
 * @property {(text: string) => number[]} encode without special tokens of its own
 * @property {(ids: number[], skipSpecial: boolean) => string} decode
 * @property {(pieces: string) => string} ids of pieces of the vocabulary, null for those it lacks;
 *   both are JSON arrays
 * @property {() => string} added tokens, as a JSON array of [text, id, special]
 */

/** How byte-level rules cut words: the library's own pattern takes U+FEFF for white space. */
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

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
  document.pre_tokenizer = byPattern(document.pre_tokenizer);
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

/**
 * Steps in which the library differs from Hugging Face's own, as patterns, in which it does not.
 * @param {any} step of tokenizer.json's pre_tokenizer
 * @returns {any}
 */
function byPattern(step) {
  switch (step?.type) {
    case "Sequence":
      return { ...step, pretokenizers: step.pretokenizers.map(byPattern) };
    case "Digits": // the library knows 0 to 9 only
      return split(step.individual_digits ? String.raw`\p{N}` : String.raw`\p{N}+`);
    case "ByteLevel":
      if (step.use_regex === false || step.add_prefix_space) return step;
      return { type: "Sequence", pretokenizers: [split(WORDS), { ...step, use_regex: false }] };
    default:
      return step;
  }
}

/** @param {string} pattern */
function split(pattern) {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}
