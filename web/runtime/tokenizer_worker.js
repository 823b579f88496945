/** @file The worker in which a tokenizer is opened, and which then answers for it. */

import { Mailbox } from "./mailbox.js";
import { tokenizerOf } from "./tokenizer.js";

addEventListener("message", ({ data }) => {
  const { bytes, memory } = data;
  try {
    const { encode, decode, ids, added } = tokenizerOf(bytes);
    postMessage({});
    new Mailbox(memory).serve({ encode, decode, ids, added });
  } catch (error) {
    postMessage({ error: String(error) });
  }
});
