/**
 * Markdown to DOM. The model's HTML is shown as text, images are shown as their description, and
 * what is left goes through DOMPurify with a short list of elements, so that nothing a model writes
 * can run, load or track anything.
 */

import DOMPurify from "../vendor/purify.js";
import { BoundedTokenizer } from "./bounded.js";
import { Marked } from "../vendor/marked.js";
import { el, escape, icon } from "./dom.js";
import { drawFormulas, formulas, textOf } from "./formulas.js";
import { highlightCode } from "./highlight.js";

/** @import {Token, Tokens} from "../vendor/marked.js" */

const TAGS =
  "p br strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 hr table thead tbody tr th td a span";
/** Each has the direction of its own first letter; code runs from left to right. */
const DIRECTED = "p, li, h1, h2, h3, h4, h5, h6, th, td, blockquote, ul, ol";

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ text, href }) => escape(`[image: ${text || href}]`),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});
marked.use(formulas);
marked.setOptions({ tokenizer: new BoundedTokenizer() });

/** @param {Element} link */
function guardLink(link) {
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
}

/** @param {HTMLElement} pre a code block becomes a figure with its language and a copy button */
function frameCode(pre) {
  const language = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "code";
  const copy = el(
    "button",
    { class: "icon-button small", type: "button", "aria-label": "Copy code", title: "Copy code" },
    icon("copy"),
  );
  copy.addEventListener("click", () => copyText(pre.textContent ?? "", copy));
  const figure = el("figure", { class: "code" }, el("figcaption", {}, language, copy));
  pre.replaceWith(figure);
  pre.tabIndex = 0;
  figure.append(pre);
}

/** @param {HTMLElement} table */
function frameTable(table) {
  const frame = el("div", { class: "table", role: "region", tabindex: 0, "aria-label": "Table" });
  table.replaceWith(frame);
  frame.append(table);
}

/**
 * @param {string} text
 * @param {HTMLElement} control shows for a moment that it worked
 */
export async function copyText(text, control) {
  await navigator.clipboard.writeText(text);
  control.replaceChildren(icon("check"));
  setTimeout(() => control.replaceChildren(icon("copy")), 1500);
}

/** @param {string} html */
function purify(html) {
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS.split(" "),
    ALLOWED_ATTR: ["href", "class", "align", "start"],
    ADD_URI_SAFE_ATTR: ["align", "start"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    RETURN_DOM_FRAGMENT: true,
  });
  fragment.querySelectorAll(DIRECTED).forEach((block) => block.setAttribute("dir", "auto"));
  fragment.querySelectorAll("code").forEach((code) => code.setAttribute("dir", "ltr"));
  fragment.querySelectorAll("a").forEach(guardLink);
  fragment.querySelectorAll("pre").forEach(frameCode);
  fragment.querySelectorAll("table").forEach(frameTable);
  return fragment;
}

/** @param {string} source */
function blocksOf(source) {
  try {
    return marked.lexer(source).filter(({ type }) => type !== "space");
  } catch {
    return [asItIs(source)];
  }
}

/** @param {Token} token a block; one that cannot be shown as what it means is shown as written */
function shown(token) {
  try {
    const block = purify(marked.parser([token]));
    drawFormulas(block);
    return block;
  } catch {
    return purify(marked.parser([asItIs(token.raw)]));
  }
}

/**
 * @param {string} raw
 * @returns {Tokens.Paragraph}
 */
function asItIs(raw) {
  return { type: "paragraph", raw, text: raw, tokens: [{ type: "text", raw, text: raw }] };
}

/**
 * Show a text that may still grow: only the blocks that changed are made anew, so that a long answer
 * stays cheap and a selection in what is finished survives.
 */
export class Prose {
  element = el("div", { class: "prose" });
  /** @type {string[]} source of each block shown */
  #shown = [];

  /**
   * @param {string} source
   * @param {boolean} growing whether its last block may still change
   */
  render(source, growing) {
    const tokens = blocksOf(source);
    const raw = tokens.map((token) => token.raw);
    tokens.forEach((token, index) => {
      if (this.#shown[index] === token.raw) return;
      const block = el("div", { class: "block" });
      block.append(shown(token));
      const old = this.element.children[index];
      if (old) old.replaceWith(block);
      else this.element.append(block);
    });
    while (this.element.children.length > raw.length) this.element.lastElementChild?.remove();
    this.#shown = raw;
    const last = this.element.lastElementChild;
    for (const block of this.element.children) {
      if (block !== last || !growing) highlightCode(block);
    }
  }

  /** Text of the blocks that will not change any more. */
  finished() {
    return [...this.element.children].slice(0, -1).map(textOf);
  }

  /** Text of all blocks. */
  all() {
    return [...this.element.children].map(textOf);
  }
}
