/**
 * @file Formulas in an answer: `\(…\)`, `\[…\]`, `$…$` and `$$…$$`, drawn by KaTeX, which is fetched
 * when the first one appears. One that is not finished, or not right, is shown as it was written.
 */

import { el, escape } from "./dom.js";

/** @import {MarkedExtension, Tokens, TokenizerAndRendererExtension} from "../vendor/marked.js" */

const LONGEST = 8000; // characters of a formula; a closing mark is not looked for further on
const KEPT = 500; // drawn formulas
/** What each opening mark is closed by, and whether it stands on lines of its own. */
/** @type {Record<string, {close: string, display: boolean}>} */
const MARKS = {
  "\\(": { close: "\\)", display: false },
  "\\[": { close: "\\]", display: true },
  $$: { close: "$$", display: true },
  $: { close: "$", display: false },
};
const BLOCK = new RegExp(
  String.raw`^ {0,3}(?:\$\$(?:(?!\$\$)[^]){1,${LONGEST}}\$\$|\\\[[^]{1,${LONGEST}}?\\\])[ \t]*(?:\n+|$)`,
);
const BLOCK_BEGINS = /\n {0,3}(?:\$\$|\\\[)/;
/** What a formula that was begun has so far: up to the end of the paragraph. */
const BLOCK_BEGUN = /^ {0,3}(?:\$\$|\\\[)(?:(?!\n[ \t]*\n)[^])*/;
const IN_BACKSLASHES = String.raw`\\\([^]{1,${LONGEST}}?\\\)|\\\[[^]{1,${LONGEST}}?\\\]`;
// Money is no formula: "$5 and $10" has a space before the second mark, "$5–$10" a digit behind it,
// and "$5 (or 5$)" an amount with words after it.
const IN_DOLLARS =
  String.raw`\$\$(?:\\[^]|[^$\\${"`"}]){1,${LONGEST}}?\$\$|` +
  String.raw`\$(?![\s$]|[\d.,]+\s+\(?\p{L}{2})(?:\\[^\n]|[^$\\\n${"`"}]){1,${LONGEST}}?(?<!\s)\$(?![\p{L}\p{N}$])`;
const INLINE = new RegExp(`^(?:${IN_BACKSLASHES}|${IN_DOLLARS})`, "u");
const ALL_INLINE = new RegExp(`${IN_BACKSLASHES}|${IN_DOLLARS}`, "gu");
const INLINE_BEGUN = /^\\[([][^]*/;

/** @param {string} source with its marks */
function parse(source) {
  const mark = Object.keys(MARKS).find((open) => source.startsWith(open)) ?? "$";
  const { close, display } = MARKS[mark];
  return { tex: source.slice(mark.length, -close.length), display };
}

/** @type {TokenizerAndRendererExtension} */
const block = {
  name: "formulaBlock",
  level: "block",
  start: (src) => {
    const at = src.search(BLOCK_BEGINS);
    return at < 0 ? undefined : at + 1;
  },
  tokenizer(src) {
    const whole = BLOCK.exec(src);
    const raw = (whole ?? BLOCK_BEGUN.exec(src))?.[0];
    // "$$a$$ and more" is a paragraph that begins with a formula
    if (!raw || (!whole && raw.trim().slice(2).includes(MARKS[raw.trim().slice(0, 2)].close))) {
      return undefined;
    }
    return { type: "formulaBlock", raw, text: raw.trim(), whole: !!whole };
  },
  renderer: ({ text, whole }) => `<p>${whole ? placeholder(text) : escape(text)}</p>`,
};

/** @type {TokenizerAndRendererExtension} */
const inline = {
  name: "formula",
  level: "inline",
  start: (src) => {
    const at = src.search(/\$|\\[([]/);
    return at < 0 ? undefined : at;
  },
  tokenizer(src) {
    const whole = INLINE.exec(src);
    const raw = (whole ?? INLINE_BEGUN.exec(src))?.[0];
    return raw ? { type: "formula", raw, text: raw, whole: !!whole } : undefined;
  },
  renderer: ({ text, whole }) => (whole ? placeholder(text) : escape(text)),
};

/** @param {string} source */
const placeholder = (source) => `<span class="formula">${escape(source)}</span>`;

/** @type {MarkedExtension} for marked: formulas become elements that hold their source */
export const formulas = {
  extensions: [block, inline],
  hooks: {
    // stars and underlines in a formula emphasise nothing
    emStrongMask: (src) => src.replace(ALL_INLINE, (formula) => "a".repeat(formula.length)),
  },
};

/** @typedef {typeof import("../vendor/katex/katex.js").default} Katex */
/** @type {Katex | null} */
let katex = null;
/** @type {Promise<void> | null} */
let loading = null;
/** @type {Map<string, HTMLElement>} source -> drawn, the latest used last */
const drawn = new Map();

async function load() {
  const link = el("link", {
    rel: "stylesheet",
    href: new URL("../vendor/katex/katex.css", import.meta.url).href,
  });
  const styled = new Promise((resolve, reject) => {
    link.addEventListener("load", resolve);
    link.addEventListener("error", reject);
  });
  document.head.append(link);
  const [module] = await Promise.all([import("../vendor/katex/katex.js"), styled]);
  katex = module.default;
}

/** @param {string} source @returns {HTMLElement} drawn anew or found; its source where KaTeX refuses */
function drawing(source) {
  const known = drawn.get(source);
  const element = known ?? draw(source);
  drawn.delete(source);
  drawn.set(source, element);
  const [oldest] = drawn.keys();
  if (drawn.size > KEPT) drawn.delete(oldest);
  return /** @type {HTMLElement} */ (element.cloneNode(true));
}

/**
 * The source lies unseen beside the drawing: it is what is copied, and what `textOf` gives.
 * @param {string} source
 */
function draw(source) {
  const { tex, display } = parse(source);
  const drawing = el("span", { class: "drawing", tabindex: display ? 0 : null }); // a wide one scrolls
  try {
    // KaTeX makes elements, no HTML; what could name an address or a style is refused (trust)
    /** @type {Katex} */ (katex).render(tex, drawing, {
      displayMode: display,
      throwOnError: true,
      strict: "ignore",
      trust: false,
      maxSize: 30,
      maxExpand: 500,
    });
  } catch (error) {
    const title = String(error).slice(0, 200);
    return el("code", { class: "formula wrong", title, dir: "ltr" }, source);
  }
  const hidden = el("span", { class: "unseen", "aria-hidden": "true" }, source);
  const props = { class: `formula drawn${display ? " display" : ""}`, dir: "ltr" };
  return el("span", props, hidden, drawing);
}

/** @param {ParentNode} root every formula in it is drawn: at once, or when KaTeX is there */
export function drawFormulas(root) {
  const found = [...root.querySelectorAll(".formula:not(.drawn, .wrong)")];
  if (!found.length) return;
  const replace = () => {
    for (const element of found) element.replaceWith(drawing(element.textContent ?? ""));
  };
  if (katex) return replace();
  loading ??= load().catch((error) => {
    loading = null; // the next formula asks again
    throw error;
  });
  loading.then(replace, () => {}); // the source stays, and can be read
}

/** @param {Element} element @returns {string} its text, formulas as they were written */
export function textOf(element) {
  if (!element.querySelector(".drawing")) return element.textContent ?? "";
  const copy = /** @type {Element} */ (element.cloneNode(true));
  copy.querySelectorAll(".drawing").forEach((drawing) => drawing.remove());
  return copy.textContent ?? "";
}
