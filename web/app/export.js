/** Conversations as files that the person keeps. */

import { saveAs } from "./dom.js";
import { fileName } from "./names.js";

/** @import {Conversation} from "./types.js" */

export const FORMAT = "doppler-conversations";

/**
 * @param {Conversation[]} conversations
 * @param {string} name
 */
export function exportJson(conversations, name) {
  const text = JSON.stringify({ format: FORMAT, version: 2, conversations }, null, 2);
  saveAs(new Blob([text], { type: "application/json" }), fileName(name, "json"));
}
