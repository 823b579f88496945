/** Which parts of a text the model wrote, kept right while a person edits the text. */

/** @import {Place, Range} from "./types.js" */

/**
 * @param {string} before
 * @param {string} after the text with one stretch replaced
 * @returns {Range & {shift: number}} of the old text; by how much what follows moves
 */
function replaced(before, after) {
  let start = 0;
  const shorter = Math.min(before.length, after.length);
  while (start < shorter && before[start] === after[start]) start += 1;
  let same = 0;
  while (same < shorter - start && before.at(-1 - same) === after.at(-1 - same)) same += 1;
  return { start, end: before.length - same, shift: after.length - before.length };
}

/**
 * @param {Range[]} ranges of the old text
 * @param {string} before
 * @param {string} after the text with one stretch replaced
 * @returns {Range[]} of the new text; a range that the person typed into is split, what was deleted
 *     is gone
 */
export function adjust(ranges, before, after) {
  const { start, end, shift } = replaced(before, after);
  return ranges
    .flatMap((range) => [
      { start: range.start, end: Math.min(range.end, start) },
      { start: Math.max(range.start, end) + shift, end: range.end + shift },
    ])
    .filter((range) => range.start < range.end);
}

/**
 * @param {Place | undefined} place in the old text
 * @param {string} before
 * @param {string} after the text with one stretch replaced
 * @returns {Place | undefined} none where the text before it was changed
 */
export function adjustPlace(place, before, after) {
  const { start, end, shift } = replaced(before, after);
  if (!place || start >= place.end) return place;
  if (start < place.start || end === place.start) return undefined;
  return { ...place, end: Math.max(place.end, end) + shift };
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
