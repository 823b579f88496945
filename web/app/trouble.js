/** An engine that has ended or does not answer: the person is told, and can restart it. */

import { restartEngine } from "./actions.js";
import { client } from "./client.js";
import { failure } from "./engine.js";
import { problemOf, showProblem } from "./notices.js";
import { set, state } from "./store.js";

export function startTrouble() {
  /** @type {() => void} */
  let close = () => {};
  client.on("silent", ({ silence = 0 }) => {
    close = showProblem({
      title: "The engine does not answer",
      text: `Nothing has come from it for ${Math.round(silence / 1000)} seconds. Wait if it may be busy; a restart ends what it does and keeps your conversations.`,
      actions: [
        { label: "Restart the engine", run: restartEngine },
        { label: "Wait", run: () => {} },
      ],
    });
  });
  client.on("answers", () => close());
  client.on("ended", ({ error }) => {
    const had = state.model !== null || state.loading !== null;
    set({ model: null });
    const run = () => restartEngine(had);
    showProblem(problemOf(failure(error), [{ label: "Restart the engine", run }]));
  });
}
