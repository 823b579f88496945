/**
 * Markdown to DOM. The model's HTML is shown as text, images are shown as their description, and
 * what is left goes through DOMPurify with a short list of elements, so that nothing a model writes
 * can run, load or track anything.
 */

import DOMPurify from "../vendor/purify.js";
import { Marked } from "../vendor/marked.js";
import { el, icon } from "./dom.js";

const TAGS =
  "p br strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 hr table thead tbody tr th td a";

/** @param {string} text */
const escape = (text) =>
  text.replace(/[&<>"]/g, (mark) => `&#${/** @type {number} */ (mark.codePointAt(0))};`);

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ text, href }) => escape(`[image: ${text || href}]`),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

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
  fragment.querySelectorAll("a").forEach(guardLink);
  fragment.querySelectorAll("pre").forEach(frameCode);
  fragment.querySelectorAll("table").forEach(frameTable);
  return fragment;
}

/**
 * Show a text that may still grow: only the blocks that changed are made anew, so that a long answer
 * stays cheap and a selection in what is finished survives.
 */
export class Prose {
  element = el("div", { class: "prose" });
  /** @type {string[]} source of each block shown */
  #shown = [];

  /** @param {string} source */
  render(source) {
    const tokens = marked.lexer(source).filter(({ type }) => type !== "space");
    const raw = tokens.map((token) => token.raw);
    tokens.forEach((token, index) => {
      if (this.#shown[index] === token.raw) return;
      const block = el("div", { class: "block" });
      block.append(purify(marked.parser([token])));
      const old = this.element.children[index];
      if (old) old.replaceWith(block);
      else this.element.append(block);
    });
    while (this.element.children.length > raw.length) this.element.lastElementChild?.remove();
    this.#shown = raw;
  }

  /** Text of the blocks that will not change any more. */
  finished() {
    return [...this.element.children].slice(0, -1).map((block) => block.textContent ?? "");
  }

  /** Text of all blocks. */
  all() {
    return [...this.element.children].map((block) => block.textContent ?? "");
  }
}
