/** What comes of an answer, put into its message. */

/** @import {Called, Generation, GenerationResult, Message, MessageToolCall, TokenEvent} from "./types.js" */

/** A message of which nothing is kept. */
export const EMPTY = {
  content: "",
  reasoning: undefined,
  thought: undefined,
  calls: undefined,
  calling: undefined,
  notes: undefined,
  journal: undefined,
};

/** @param {MessageToolCall} call @returns {Called} */
const kept = ({ function: called, raw }) => ({ ...called, raw });

/**
 * @param {Message} message
 * @param {Pick<Generation, "firstAt">} generation that writes it
 */
export function writerOf(message, generation) {
  const { thought = 0 } = message; // before it was cut off, of an answer that goes on
  return {
    /**
     * @param {string} text
     * @param {TokenEvent["part"]} part
     */
    append(text, part) {
      if (!text) return;
      if (part === "tool_call") {
        message.calling = (message.calling ?? "") + text;
        return;
      }
      delete message.calling; // what looked like a call was none, and comes again as text
      if (part === "answer") message.content += text;
      else {
        message.reasoning = (message.reasoning ?? "") + text;
        message.thought = thought + performance.now() - generation.firstAt;
      }
    },

    /** @param {MessageToolCall} call whose text has come */
    called(call) {
      delete message.calling;
      message.calls = [...(message.calls ?? []), kept(call)];
    },

    /** @param {GenerationResult} result */
    end(result) {
      delete message.calling;
      message.content = result.text;
      if (result.reasoning_content) message.reasoning = result.reasoning_content;
      if (result.tool_calls.length) message.calls = result.tool_calls.map(kept);
      if (result.notes.length) message.notes = result.notes;
    },
  };
}
