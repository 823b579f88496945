/** An engine that has ended or does not answer: the person is told, and can restart it. */

import { noteEnd, restartEngine } from "./actions.js";
import { client } from "./client.js";
import { failure } from "./engine.js";
import { problemOf, showProblem } from "./notices.js";

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
    noteEnd();
    const restart = { label: "Restart the engine", run: restartEngine };
    showProblem(problemOf(failure(error), [restart]));
  });
}
