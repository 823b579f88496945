/** Conversations as files that the person keeps, and as files that come back. */

import { argumentsOf } from "./calls.js";
import { bring, titleOf } from "./conversations.js";
import { saveAs } from "./dom.js";
import { fileName, nameOf } from "./names.js";
import { FORMAT, ofExported } from "./stored.js";
import { path } from "./thread.js";

/** @import {Conversation} from "./types.js" */

const BEGINNING = new RegExp(`^\\s*\\{\\s*"format"\\s*:\\s*"${FORMAT}"`);
const MOST_BYTES = 64 * 2 ** 20; // of a file that is imported

/**
 * @param {Conversation[]} conversations
 * @param {string} name
 */
export function exportJson(conversations, name) {
  const kept = conversations.map((conversation) => ({
    ...conversation,
    messages: conversation.messages.filter(({ gone }) => !gone),
  }));
  const text = JSON.stringify({ format: FORMAT, version: 2, conversations: kept }, null, 2);
  saveAs(new Blob([text], { type: "application/json" }), fileName(name, "json"));
}

/** @param {string} text @returns {string} code, whatever is in it */
const indented = (text) => text.replace(/^/gm, "    ");

/** @param {Conversation} conversation @returns {string} what is shown of it */
export function markdownOf(conversation) {
  const { kind, text, system } = conversation;
  if (kind === "text") return `${text}\n`;
  const parts = [`# ${titleOf(conversation)}`];
  if (system.trim()) parts.push("## System", system.trim());
  for (const { role, model, content, reasoning, calls = [], calling } of path(conversation)) {
    const thought = reasoning ? [reasoning.replace(/^/gm, "> ")] : [];
    const called = calls.flatMap((call) => [
      `Tool call: ${nameOf(call.name)}`,
      indented(argumentsOf(call)),
    ]);
    const begun = calling ? ["Unfinished tool call:", indented(calling)] : [];
    const said = content.trim() || !(called.length || begun.length) ? [content.trim()] : [];
    parts.push(role === "user" ? "## You" : `## ${model ?? "Model"}`);
    parts.push(...thought, ...said, ...called, ...begun);
  }
  return `${parts.join("\n\n")}\n`;
}

/** @param {Conversation} conversation */
export function exportMarkdown(conversation) {
  const blob = new Blob([markdownOf(conversation)], { type: "text/markdown" });
  saveAs(blob, fileName(titleOf(conversation), "md"));
}

/** @param {File} file @returns {Promise<boolean>} whether Export wrote it, by how it begins */
export const isExport = async (file) =>
  /\.json$/i.test(file.name) && BEGINNING.test(await file.slice(0, 256).text());

/**
 * Take over what Export wrote; what is here already is not there twice.
 * @param {File} file
 * @returns {Promise<{all: Conversation[], fresh: number}>} Throws, and changes nothing, where
 *     anything of the file is not as it should be.
 */
export async function importFile(file) {
  if (file.size > MOST_BYTES) {
    const text = `${file.name} is larger than ${MOST_BYTES >> 20} MiB: no export of conversations is.`;
    throw Object.assign(new Error(text), { name: "FormatError" });
  }
  return bring(ofExported(await file.text(), file.name));
}
