/**
 * @file Text of strangers as it may be shown: names and titles of models, files and conversations,
 * and messages that quote them. What cannot be seen, or would turn what stands around it, is left out.
 */

const TITLE = 80; // characters of a name
const MESSAGE = 600; // characters of an error's text

/** White space and control characters that break lines. */
const BREAKS = /[\s\u0085\u2028\u2029]+/gu;
/** Other control characters, marks of direction, and what has no width. */
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff]|[\u{e0000}-\u{e0fff}]/gu;
/** Joiners belong between letters of some scripts, and in emoji; beside ASCII they are only unseen. */
const JOINERS = /(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])/gu;
/** Letters carry a few marks in any language; a tower of them covers what stands above. */
const TOWERS = /(\p{M}{4})\p{M}+/gu;
/** Hashes and the identities of models: some digits tell them apart. */
const DIGITS = /(?<![0-9a-f])([0-9a-f]{12})[0-9a-f]{12,}(?![0-9a-f])/gi;
/** What is wrong, and what to do: errors of py/doppler have the latter last. */
const ADVICE =
  /^(.+)(?:; |: (?=(?:allow|cancel|check|choose|close|delete|download|fetch|free|get|give|have|import|load|open|pick|restart|shorten|switch|try|update|use|wait)\b))([a-z].*)$/u;

/** @param {string} text @returns {string} on one line, all of it to be seen */
function printable(text) {
  return text
    .replace(BREAKS, " ")
    .replace(UNSEEN, "")
    .replace(/([\u200c\u200d])[\u200c\u200d]+/gu, "$1")
    .replace(JOINERS, "")
    .replace(TOWERS, "$1")
    .trim();
}

/**
 * @param {string} text
 * @param {number} most characters
 */
function cut(text, most) {
  if (text.length <= most) return text;
  const kept = [...new Intl.Segmenter().segment(text.slice(0, 8 * most))].slice(0, most - 1);
  const short = kept.map(({ segment }) => segment).join("");
  return short.length < text.length ? `${short.trimEnd()}…` : text;
}

/**
 * A name for a person to read; never for finding anything.
 * @param {unknown} text
 * @param {number} [most] characters
 */
export const nameOf = (text, most = TITLE) =>
  cut(printable(String(text ?? "").slice(0, 20 * most)), most);

/** @param {string} text @returns {string} begun with a capital, where it begins with a word and no name */
const begun = (text) => text.replace(/^[a-z](?=[a-z]*[,:]?\s)/, (letter) => letter.toUpperCase());

/**
 * @param {string} text of an error: what is wrong and what to do, as one sentence
 * @returns {string} a sentence for each, on one line; no hash longer than it takes to know it
 */
export function messageOf(text) {
  const line = cut(printable(text.slice(0, 20 * MESSAGE)).replace(DIGITS, "$1…"), MESSAGE);
  const [, what, advice] = ADVICE.exec(line) ?? [null, line, ""];
  return [what, advice]
    .filter(Boolean)
    .map((part) => begun(part).replace(/[\p{L}\p{N})"'”’]$/u, "$&."))
    .join(" ");
}

/**
 * What a model's file says of itself, with every text of it fit to be shown.
 * @template {object} T
 * @param {T} facts
 * @returns {T}
 */
export function named(facts) {
  /** @type {Record<string, number>} characters of each */
  const texts = {
    title: TITLE,
    about: 300,
    architecture: TITLE,
    quantization: TITLE,
    license: TITLE,
    chat_problem: 300,
  };
  const all = Object.entries(facts).map(([key, value]) =>
    key in texts && typeof value === "string" ? [key, nameOf(value, texts[key])] : [key, value],
  );
  return Object.fromEntries(all);
}

/**
 * @param {string} title
 * @param {string} ending
 * @returns {string} a file's name that every system takes
 */
export function fileName(title, ending) {
  const safe = nameOf(title)
    .normalize("NFC")
    .replace(/[^\p{L}\p{M}\p{N}]+/gu, "-");
  return `${cut(safe, 60).replace(/^-+|[-…]+$/g, "") || "conversation"}.${ending}`;
}
