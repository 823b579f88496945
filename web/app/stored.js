/** Conversations as they are kept and exported: today's form, and the one without versions before. */

/** @import {Conversation, Message} from "./types.js" */

/** @typedef {Omit<Conversation, "shown" | "gone" | "stamps"> & {named: boolean}} OldConversation messages in a row */

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

/** @param {Conversation | OldConversation} kept @returns {Conversation} */
export const ofStored = (kept) => ("stamps" in kept ? kept : ofOld(kept));
