/** Finding conversations by words of their titles and messages. */

import { saidIn } from "./calls.js";
import { titleOf } from "./conversations.js";

/** @import {Conversation, Message} from "./types.js" */
/** @typedef {{text: string, marked: boolean}} Piece */
/** @typedef {{conversation: Conversation, message: Message | null, pieces: Piece[]}} Hit */

const BEFORE = 14; // characters of a message that are shown before the first word found
const SHOWN = 160;

/** @type {WeakMap<Message | Conversation, {text: string, folded: string}>} */
const known = new WeakMap();

/** @param {Message | Conversation} of @param {string} text @returns {string} without capitals */
function folded(of, text) {
  const before = known.get(of);
  if (before?.text === text) return before.folded;
  const now = { text, folded: text.toLowerCase() };
  known.set(of, now);
  return now.folded;
}

/** @param {string} query @returns {string[]} */
export const wordsOf = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);

/** @param {string[]} words */
export const pattern = (words) =>
  new RegExp(words.map((word) => word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")).join("|"), "giu");

/** @param {string} text @param {string[]} words @returns {Piece[]} */
function marked(text, words) {
  const pieces = [];
  let at = 0;
  for (const { 0: match, index } of text.matchAll(pattern(words))) {
    pieces.push({ text: text.slice(at, index), marked: false }, { text: match, marked: true });
    at = index + match.length;
  }
  return [...pieces, { text: text.slice(at), marked: false }].filter(({ text: part }) => part);
}

/** @param {string} text @param {string[]} words @returns {Piece[]} a line of it, about the first word */
function excerpt(text, words) {
  const first = Math.max(0, text.search(pattern(words)) - BEFORE);
  const start = first && text.indexOf(" ", first) + 1; // not amid a word
  const line = text.slice(start, start + SHOWN).replace(/\s+/g, " ");
  return marked(start > 0 ? `… ${line}` : line, words);
}

/**
 * @param {Conversation[]} conversations
 * @param {string[]} words all have to be there: in the title, or in one message
 * @returns {Hit[]} one a conversation, in their order
 */
export function search(conversations, words) {
  const all = (/** @type {string} */ text) => words.every((word) => text.includes(word));
  return conversations.flatMap((conversation) => {
    const { kind, messages, text } = conversation;
    const inText = kind === "text" && all(folded(conversation, text));
    const hit = !inText && messages.find((each) => all(folded(each, saidIn(each))));
    const message = hit || null;
    if (!message && !inText && !all(titleOf(conversation).toLowerCase())) return [];
    const found = message ? saidIn(message) : inText ? text : "";
    return [{ conversation, message, pieces: excerpt(found, words) }];
  });
}

/**
 * Mark words in what is shown, until other words are; nothing of the document changes.
 * @param {HTMLElement} element
 * @param {string[]} words
 */
export function markWords(element, words) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const marks = new Highlight();
  while (walker.nextNode()) {
    for (const { 0: match, index } of (walker.currentNode.nodeValue ?? "").matchAll(
      pattern(words),
    )) {
      const range = new Range();
      range.setStart(walker.currentNode, index);
      range.setEnd(walker.currentNode, index + match.length);
      marks.add(range);
    }
  }
  CSS.highlights.set("found", marks);
}
