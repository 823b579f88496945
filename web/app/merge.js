/**
 * Two states of one conversation, as two tabs have it, made one in which nothing that was written
 * in either is lost. In whatever order tabs hear of each other, they end with the same. Pure.
 */

/** @import {Conversation, Message, Part} from "./types.js" */

/** @type {Record<Part, (keyof Conversation)[]>} fields of each part */
const PARTS = {
  title: ["title"],
  system: ["system"],
  text: ["text", "ranges", "place", "last"],
  gone: ["gone"],
};

let last = 0;

/** @param {number} [after] @returns {number} now in ms; later than every stamp before, and `after` */
export const stamp = (after = 0) => (last = Math.max(Date.now(), last + 1, after + 1));

/**
 * The later of two states; where both have one stamp, the same one whichever comes first.
 * @template T
 * @param {T} a
 * @param {T} b
 * @param {number} later stamp of b less that of a
 */
const newer = (a, b, later) =>
  later > 0 || (later === 0 && JSON.stringify(b) > JSON.stringify(a)) ? b : a;

/** @param {Message} a @param {Message} b */
const inOrder = (a, b) => a.created - b.created || (a.id < b.id ? -1 : 1);

/** @param {Message[]} some @param {Message[]} others */
function mergeMessages(some, others) {
  const all = new Map(some.map((message) => [message.id, message]));
  for (const message of others) {
    const known = all.get(message.id) ?? message;
    all.set(message.id, newer(known, message, message.updated - known.updated));
  }
  return [...all.values()].sort(inOrder);
}

/** @param {Conversation["shown"]} some @param {Conversation["shown"]} others */
function mergeShown(some, others) {
  const all = { ...some };
  for (const [parent, choice] of Object.entries(others)) {
    const known = all[parent] ?? choice;
    all[parent] = newer(known, choice, choice.at - known.at);
  }
  return all;
}

/**
 * @param {Conversation} a
 * @param {Conversation} b of the same id
 * @returns {Conversation} messages and other values are those of a or b themselves, not copies
 */
export function merge(a, b) {
  const one = /** @type {Record<string, unknown>} */ ({});
  const stamps = { ...a.stamps };
  for (const part of /** @type {Part[]} */ (Object.keys(PARTS))) {
    const pick = (/** @type {Conversation} */ from) =>
      Object.fromEntries(PARTS[part].map((field) => [field, from[field]]));
    Object.assign(one, newer(pick(a), pick(b), b.stamps[part] - a.stamps[part]));
    stamps[part] = Math.max(a.stamps[part], b.stamps[part]);
  }
  const messages = mergeMessages(a.messages, b.messages);
  const times = {
    created: Math.min(a.created, b.created),
    updated: Math.max(a.updated, b.updated),
  };
  return { ...a, ...one, ...times, messages, shown: mergeShown(a.shown, b.shown), stamps };
}
