/** Conversations as files that the person keeps. */

import { saveAs } from "./dom.js";

/** @import {Conversation} from "./types.js" */

export const FORMAT = "doppler-conversations";

/** @param {string} name @param {string} extension */
const fileName = (name, extension) =>
  `${name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation"}.${extension}`;

/**
 * @param {Conversation[]} conversations
 * @param {string} name
 */
export function exportJson(conversations, name) {
  const text = JSON.stringify({ format: FORMAT, version: 2, conversations }, null, 2);
  saveAs(new Blob([text], { type: "application/json" }), fileName(name, "json"));
}
