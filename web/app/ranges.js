/** Which parts of a text the model wrote, kept right while a person edits the text. */

/** @import {Range} from "./types.js" */

/**
 * @param {Range[]} ranges of the old text
 * @param {string} before
 * @param {string} after the text with one stretch replaced
 * @returns {Range[]} of the new text; a range that the person typed into is split, what was deleted
 *     is gone
 */
export function adjust(ranges, before, after) {
  let start = 0;
  const shorter = Math.min(before.length, after.length);
  while (start < shorter && before[start] === after[start]) start += 1;
  let same = 0;
  while (same < shorter - start && before.at(-1 - same) === after.at(-1 - same)) same += 1;
  const end = before.length - same;
  const shift = after.length - before.length;
  return ranges
    .flatMap((range) => [
      { start: range.start, end: Math.min(range.end, start) },
      { start: Math.max(range.start, end) + shift, end: range.end + shift },
    ])
    .filter((range) => range.start < range.end);
}

/**
 * @param {string} text
 * @param {Range[]} ranges in the order in which they were written
 * @returns {{text: string, marked: boolean}[]}
 */
export function pieces(text, ranges) {
  const parts = [];
  let at = 0;
  for (const { start, end } of ranges.toSorted((a, b) => a.start - b.start)) {
    parts.push({ text: text.slice(at, start), marked: false });
    parts.push({ text: text.slice(start, end), marked: true });
    at = end;
  }
  parts.push({ text: text.slice(at), marked: false });
  return parts.filter((part) => part.text);
}
