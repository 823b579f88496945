/**
 * @file Colours in code, by highlight.js, which is fetched when the first block of a language that it
 * may know is finished. Code in no known language stays as it is; nothing is guessed.
 */

import DOMPurify from "../vendor/purify.js";

const LONGEST = 50_000; // characters of a block: more takes long, and nobody reads its colours

/**
 * @typedef {object} Highlighter
 * @property {(name: string) => object | undefined} getLanguage
 * @property {(code: string, options: {language: string, ignoreIllegals: boolean}) => {value: string}} highlight
 */
/** @type {Promise<Highlighter> | null} */
let loading = null;

/** @returns {Promise<Highlighter>} */
function load() {
  loading ??= import("../vendor/highlight.js").then((module) => module.default);
  loading.catch(() => (loading = null)); // the next block asks again
  return loading;
}

/** @param {ParentNode} root whose blocks of code will not change any more */
export function highlightCode(root) {
  for (const code of root.querySelectorAll('pre > code[class*="language-"]:not(.hljs)')) {
    const language = /language-(\S+)/.exec(code.className)?.[1].toLowerCase() ?? "";
    const text = code.textContent ?? "";
    if (text.length > LONGEST) continue;
    code.classList.add("hljs"); // once
    load().then(
      (highlighter) => colour(code, highlighter, language, text),
      () => {},
    );
  }
}

/**
 * @param {Element} code
 * @param {Highlighter} highlighter
 * @param {string} language
 * @param {string} text
 */
function colour(code, highlighter, language, text) {
  if (!highlighter.getLanguage(language)) return;
  const { value } = highlighter.highlight(text, { language, ignoreIllegals: true });
  const allowed = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true };
  code.replaceChildren(DOMPurify.sanitize(value, allowed));
}
