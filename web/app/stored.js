/**
 * Conversations as they are kept and exported: today's form, and the one without versions before.
 * What this page stored is believed; a file is somebody's, and each of its fields is looked at.
 */

import { nameOf } from "./names.js";

/** @import {Called, Conversation, Message} from "./types.js" */

/** @typedef {Omit<Conversation, "shown" | "gone" | "stamps"> & {named: boolean}} OldConversation messages in a row */

export const FORMAT = "doppler-conversations";
const MOST_CONVERSATIONS = 10_000;
const MOST_MESSAGES = 20_000;
const MOST_CALLS = 1000; // of a message
const LONGEST_TITLE = 300;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const FINISHES = ["stop", "tool_calls", "length", "cancelled", "context", "error", null, undefined];
const COUNTS = ["tokens", "reused", "rate", "first", "seed"];

/** @param {OldConversation} old */
function ofOld({ named, ...old }) {
  const { updated, created } = old;
  /** @param {Message} message @param {number} index @returns {Message} */
  const placed = (message, index) => {
    const parent = old.messages[index - 1]?.id ?? null;
    return { ...message, parent, created: created + index, updated };
  };
  const stamps = { title: updated, system: updated, text: updated, gone: updated };
  const title = named ? old.title : "";
  return { ...old, title, messages: old.messages.map(placed), shown: {}, gone: false, stamps };
}

/** @param {any} kept @returns {boolean} whether it is a conversation, and no damaged or foreign record */
export const isStored = ({ id, kind, text, messages, ranges, updated }) =>
  [id, kind, text].every((value) => typeof value === "string") &&
  [messages, ranges].every(Array.isArray) &&
  Number.isFinite(updated);

/** @param {Conversation | OldConversation} kept @returns {Conversation} */
export const ofStored = (kept) => ("stamps" in kept ? kept : ofOld(kept));

/**
 * @param {boolean} holds
 * @param {string} what
 * @returns {asserts holds}
 */
function must(holds, what) {
  if (!holds) throw Object.assign(new Error(what), { name: "FormatError" });
}

/** The fields of one object of a file, by the type that they have to be of. */
class Fields {
  /**
   * @param {unknown} value
   * @param {string} where
   */
  constructor(value, where) {
    must(
      typeof value === "object" && value !== null && !Array.isArray(value),
      `${where}: no object`,
    );
    this.all = /** @type {Record<string, any>} */ (value);
    this.where = where;
  }

  /** @param {string} name @returns {string} */
  text(name) {
    must(typeof this.all[name] === "string", `${this.where}: ${name} must be a text`);
    return this.all[name];
  }

  /** @param {string} name @returns {string} */
  id(name) {
    must(ID.test(this.text(name)), `${this.where}: ${name} is no id of Doppler's`);
    return this.all[name];
  }

  /** @param {string} name @returns {number} */
  number(name) {
    must(Number.isFinite(this.all[name]), `${this.where}: ${name} must be a number`);
    return this.all[name];
  }

  /** @param {string} name @returns {number} never later than now, or nothing here could be newer */
  time(name) {
    return Math.max(0, Math.min(this.number(name), Date.now()));
  }

  /**
   * @template {string} T
   * @param {string} name
   * @param {readonly T[]} values
   */
  one(name, ...values) {
    must(values.includes(this.all[name]), `${this.where}: ${name} must be ${values.join(" or ")}`);
    return /** @type {T} */ (this.all[name]);
  }

  /** @param {string} name @param {number} most @returns {Fields[]} */
  list(name, most) {
    const list = this.all[name];
    must(Array.isArray(list), `${this.where}: ${name} must be a list`);
    must(list.length <= most, `${this.where}: more than ${most} ${name}`);
    const one = name.replace(/s$/, "");
    return list.map((value, index) => new Fields(value, `${this.where}, ${one} ${index + 1}`));
  }

  /** @param {string} name @param {number} most @returns {string[]} */
  texts(name, most) {
    const list = this.all[name];
    const holds = Array.isArray(list) && list.every((value) => typeof value === "string");
    must(holds && list.length <= most, `${this.where}: ${name} must be at most ${most} texts`);
    return list;
  }

  /** @param {string} name @returns {Fields | null} null where there is none */
  part(name) {
    const value = this.all[name];
    return value === undefined ? null : new Fields(value, `${this.where}: ${name}`);
  }
}

/** @param {Fields} fields how an answer ended */
function ending(fields) {
  must(FINISHES.includes(fields.all.finish), `${fields.where}: finish is not known`);
  const failure = fields.part("failure");
  const stats = fields.part("stats");
  const counts = stats && COUNTS.map((name) => [name, stats.number(name)]);
  return {
    ...(fields.all.finish !== undefined && { finish: fields.all.finish }),
    ...(failure && { failure: { name: failure.text("name"), message: failure.text("message") } }),
    ...(counts && { stats: Object.fromEntries(counts) }),
  };
}

/** @param {Fields} fields @returns {Called} */
function callOf(fields) {
  const given = fields.part("arguments");
  must(given !== null, `${fields.where}: arguments must be an object`);
  return { name: fields.text("name"), arguments: given.all, raw: fields.text("raw") };
}

/** @param {Fields} fields @returns {Omit<Message, "parent" | "created" | "updated">} */
function messageOf(fields) {
  const { model, reasoning, calls, calling, notes, thought, dropped, follows } = fields.all;
  return {
    id: fields.id("id"),
    role: fields.one("role", "user", "assistant"),
    content: fields.text("content"),
    ...(model !== undefined && { model: nameOf(fields.text("model")) }),
    ...(reasoning !== undefined && { reasoning: fields.text("reasoning") }),
    ...(calls !== undefined && { calls: fields.list("calls", MOST_CALLS).map(callOf) }),
    ...(calling !== undefined && { calling: fields.text("calling") }),
    ...(notes !== undefined && { notes: fields.texts("notes", MOST_CALLS) }),
    ...(thought !== undefined && { thought: fields.number("thought") }),
    ...(dropped !== undefined && { dropped: fields.number("dropped") }),
    ...(follows !== undefined && { follows: fields.text("follows") }),
    ...ending(fields),
  };
}

/** @param {Fields} fields @returns {Conversation["shown"]} */
function shownOf(fields) {
  const entries = Object.keys(fields.all).map((key) => {
    must(key === "" || ID.test(key), `${fields.where}: a key is no id of Doppler's`);
    const choice = /** @type {Fields} */ (fields.part(key));
    return [key, { id: choice.id("id"), at: choice.time("at") }];
  });
  return Object.fromEntries(entries);
}

/** @param {Fields} fields @param {string} text */
function rangeOf(fields, text) {
  const range = { start: fields.number("start"), end: fields.number("end") };
  const inside = 0 <= range.start && range.start <= range.end && range.end <= text.length;
  must(inside, `${fields.where} is not in the text`);
  return range;
}

/** @param {Fields} fields @param {string} text */
function placeOf(fields, text) {
  const shown = fields.all.shown === null ? null : fields.id("shown");
  return { ...rangeOf(fields, text), shown };
}

/** @param {Fields} fields @returns {Conversation} */
function conversationOf(fields) {
  const text = fields.text("text");
  const last = fields.part("last");
  const place = fields.part("place");
  const common = {
    id: fields.id("id"),
    kind: fields.one("kind", "chat", "text"),
    title: fields.text("title").slice(0, LONGEST_TITLE),
    created: fields.time("created"),
    updated: fields.time("updated"),
    system: fields.text("system"),
    text,
    ranges: fields.list("ranges", MOST_MESSAGES).map((range) => rangeOf(range, text)),
    ...(place && { place: placeOf(place, text) }),
    ...(last && { last: ending(last) }),
  };
  const seen = new Set([null]);
  const stamps = fields.part("stamps");
  const messages = fields.list("messages", MOST_MESSAGES).map((message) => {
    const place = stamps && { parent: message.all.parent, ...timesOf(message) };
    must(!place || seen.has(place.parent), `${message.where}: its parent does not come before it`);
    const one = messageOf(message);
    must(!seen.has(/** @type {any} */ (one.id)), `${message.where}: its id is there twice`);
    seen.add(/** @type {any} */ (one.id));
    return /** @type {Message} */ ({ ...one, ...place });
  });
  if (!stamps) return ofOld({ ...common, messages, named: fields.all.named === true });
  const parts = /** @type {const} */ (["title", "system", "text", "gone"]);
  return {
    ...common,
    messages,
    shown: shownOf(/** @type {Fields} */ (fields.part("shown") ?? new Fields({}, ""))),
    gone: false,
    stamps: /** @type {Conversation["stamps"]} */ (
      Object.fromEntries(parts.map((part) => [part, stamps.time(part)]))
    ),
  };
}

/** @param {Fields} fields */
const timesOf = (fields) => ({ created: fields.time("created"), updated: fields.time("updated") });

/**
 * What Export wrote, today or before there were versions.
 * @param {string} text
 * @param {string} name of the file
 * @returns {Conversation[]} Throws an Error named FormatError, which says what is wrong.
 */
export function ofExported(text, name) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    must(false, `${name} is not JSON: it is damaged, or no export of Doppler's.`);
  }
  must(value?.format === FORMAT, `${name} holds no conversations that Doppler exported.`);
  return new Fields(value, name).list("conversations", MOST_CONVERSATIONS).map(conversationOf);
}
