/**
 * What the model wrote at one place of a text, and wrote there before: the continuations are kept
 * among the conversation's messages, and found again by the text that they follow. One of them, or
 * none, stands in the text; its place is marked.
 */

import { change } from "./conversations.js";
import { stamp } from "./merge.js";

/** @import {Conversation, Message, Place} from "./types.js" */

/** @param {string} text @returns {string} the same for the same text: its length and FNV-1a hash */
function keyOf(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  }
  return `${text.length}.${(hash >>> 0).toString(16)}`;
}

/** @param {Conversation} conversation @param {number} start @returns {Message[]} oldest first */
function versionsAt({ messages, text }, start) {
  const some = messages.filter(({ follows }) => follows?.startsWith(`${start}.`));
  const key = some.length > 0 && keyOf(text.slice(0, start));
  return some.filter(({ follows }) => follows === key);
}

/** @param {Conversation} conversation @returns {Place | null} null where the model wrote nothing */
function placeOf(conversation) {
  const { place } = conversation;
  if (place) return place.start < place.end ? place : { ...place, shown: null };
  const range = conversation.ranges.at(-1);
  if (!range) return null;
  const content = conversation.text.slice(range.start, range.end);
  const known = versionsAt(conversation, range.start).find((each) => each.content === content);
  return { ...range, shown: known?.id ?? crypto.randomUUID() };
}

/** @param {Conversation} conversation @returns {{versions: Message[], at: number, count: number}} at -1: none is shown */
export function versionsOf(conversation) {
  const place = placeOf(conversation);
  if (!place) return { versions: [], at: -1, count: 0 };
  const versions = versionsAt(conversation, place.start);
  const found = versions.findIndex(({ id }) => id === place.shown);
  // One that was never kept: of a tab that was closed while it was written.
  const at = found >= 0 || place.shown === null ? found : versions.length;
  return { versions, at, count: Math.max(versions.length, at + 1) };
}

/**
 * Keep the continuation that is shown, as it stands now.
 * @param {Conversation} conversation
 * @returns {Place | null} where it stands
 */
export function keep(conversation) {
  const place = placeOf(conversation);
  if (!place?.shown) return place;
  const content = conversation.text.slice(place.start, place.end);
  const known = conversation.messages.find(({ id }) => id === place.shown);
  if (!known) {
    const now = stamp();
    const role = /** @type {const} */ ("assistant");
    const times = { created: now, updated: now };
    const follows = keyOf(conversation.text.slice(0, place.start));
    const fields = { id: place.shown, parent: null, ...times, role, content, follows };
    conversation.messages.push({ ...fields, ...conversation.last });
  } else if (known.content !== content) {
    Object.assign(known, { content, updated: stamp(known.updated) });
  }
  return place;
}

/**
 * Put a version where another is shown, or none. What follows it stays.
 * @param {Conversation} conversation
 * @param {Message | null} version
 * @returns {number | null} where it begins; null: the model wrote nothing
 */
export function put(conversation, version) {
  const place = keep(conversation);
  if (!place) return null;
  const { text } = conversation;
  const { start } = place;
  const content = version?.content ?? "";
  const end = start + content.length;
  const shift = end - place.end;
  const ranges = conversation.ranges
    .filter((range) => range.end <= start || range.start >= place.end)
    .map((range) =>
      range.end <= start ? range : { start: range.start + shift, end: range.end + shift },
    );
  if (version) ranges.push({ start, end });
  const { finish, stats } = version ?? {};
  change(conversation, "text", {
    text: text.slice(0, start) + content + text.slice(place.end),
    ranges,
    place: { start, end, shown: version?.id ?? null },
    last: version ? { finish, stats } : undefined,
  });
  return start;
}

/**
 * Take the newest continuation away; its versions are kept.
 * @param {Conversation} conversation
 * @returns {number | null} where it began
 */
export function takeAway(conversation) {
  // Nothing is shown at the last place: then the one before it goes.
  if (keep(conversation)?.shown === null) conversation.place = undefined;
  return put(conversation, null);
}

/**
 * @param {Conversation} conversation
 * @param {number} at where the model goes on
 * @returns {(written: string) => void} puts there what it has written so far
 */
export function begin(conversation, at) {
  const before = conversation.text.slice(0, at);
  const after = conversation.text.slice(at);
  const others = conversation.ranges;
  const shown = crypto.randomUUID();
  const write = (/** @type {string} */ written) => {
    const range = { start: at, end: at + written.length };
    conversation.text = before + written + after;
    conversation.ranges = written ? [...others, range] : others;
    conversation.place = { ...range, shown: written ? shown : null };
  };
  write("");
  return write;
}
