/**
 * The messages of a conversation are a tree: each follows another, and those that follow the same
 * one are versions of each other. One way through it is shown.
 */

import { stamp } from "./merge.js";

/** @import {Conversation, Message} from "./types.js" */

/** @param {string | null} parent its key in Conversation.shown */
const keyOf = (parent) => parent ?? "";

/** @param {Conversation} conversation @returns {Map<string, Message[]>} by the parent's key, oldest first */
function children({ messages }) {
  /** @type {Map<string, Message[]>} */
  const all = new Map();
  for (const message of messages) {
    if (message.gone) continue;
    const siblings = all.get(keyOf(message.parent));
    if (siblings) siblings.push(message);
    else all.set(keyOf(message.parent), [message]);
  }
  return all;
}

/** @param {Conversation} conversation @returns {Message[]} those that are shown, from the first on */
export function path(conversation) {
  const all = children(conversation);
  const shown = [];
  for (let key = ""; ;) {
    const versions = all.get(key);
    if (!versions) return shown;
    const chosen = conversation.shown[key]?.id;
    const message = versions.find(({ id }) => id === chosen) ?? versions[versions.length - 1];
    shown.push(message);
    key = message.id;
  }
}

/** @param {Conversation} conversation @param {Message} message @returns {Message[]} what comes before it */
export function before(conversation, message) {
  const byId = new Map(conversation.messages.map((each) => [each.id, each]));
  const found = [];
  for (let at = message; at.parent !== null;) {
    const parent = byId.get(at.parent);
    if (!parent) break;
    found.push(parent);
    at = parent;
  }
  return found.reverse();
}

/** @param {Conversation} conversation @param {Message} message @returns {Message[]} it among them, oldest first */
export const versionsOf = ({ messages }, { parent }) =>
  messages.filter((message) => message.parent === parent && !message.gone);

/** @param {Conversation} conversation @param {Message} message shown from now on, with what leads to it */
export function choose(conversation, message) {
  for (const { id, parent } of [...before(conversation, message), message]) {
    const now = conversation.shown[keyOf(parent)];
    if (now?.id !== id) conversation.shown[keyOf(parent)] = { id, at: stamp(now?.at) };
  }
}

/**
 * @param {Conversation} conversation
 * @param {Message | null} parent that it follows
 * @param {Pick<Message, "role" | "content"> & Partial<Message>} fields
 * @returns {Message} added, and shown
 */
export function add(conversation, parent, fields) {
  const now = stamp(parent?.created);
  const place = { id: crypto.randomUUID(), parent: parent?.id ?? null };
  const message = { ...fields, ...place, created: now, updated: now };
  conversation.messages.push(message);
  choose(conversation, message);
  return message;
}

/** @param {Conversation} conversation @param {Message} message @returns {Message[]} it and all that follows it */
export function under(conversation, message) {
  const all = children(conversation);
  const found = [message];
  for (const each of found) found.push(...(all.get(each.id) ?? []));
  return found;
}

/**
 * Delete a message with all that follows it.
 * @param {Conversation} conversation
 * @param {Message} message
 * @returns {() => void} brings them back
 */
export function cut(conversation, message) {
  const kept = under(conversation, message).map((each) => ({ each, fields: { ...each } }));
  for (const { each, fields } of kept) {
    const { id, parent, created, role } = fields;
    const updated = stamp(fields.updated);
    become(each, { id, parent, created, updated, role, content: "", gone: true });
  }
  return () => {
    for (const { each, fields } of kept) become(each, { ...fields, updated: stamp(each.updated) });
  };
}

/**
 * @template {object} T
 * @param {T} old is changed in place, so that whoever holds it sees it
 * @param {T} fields
 */
export function become(old, fields) {
  for (const key of Object.keys(old)) {
    if (!(key in fields)) delete (/** @type {any} */ (old)[key]);
  }
  return Object.assign(old, fields);
}
