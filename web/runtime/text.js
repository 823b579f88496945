// @ts-check
/** The kept libraries for text, in the few shapes that py/doppler/tokenizer.py calls. */

import { Template } from "../vendor/jinja.js";
import { Tokenizer } from "../vendor/tokenizers.js";

/**
 * Opens a tokenizer.json.
 * @param {Uint8Array} bytes the file
 * @returns {{encode(text: string): number[], decode(ids: number[], skipSpecial: boolean): string}}
 */
export function openTokenizer(bytes) {
  const tokenizer = new Tokenizer(JSON.parse(new TextDecoder().decode(bytes)), {});
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
  };
}

/**
 * Compiles a chat template.
 * @param {string} source Jinja
 * @returns {{render(values: string): string}} `values` is a JSON object
 */
export function openTemplate(source) {
  const template = new Template(source);
  return { render: (values) => template.render(JSON.parse(values)) };
}
