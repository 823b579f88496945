/**
 * @file Which of this browser's tabs keeps parts of a model for others: one, since all of them would
 * write into the same files.
 */

/** @type {Map<string, {ending: AbortController, isMine: boolean}>} models that this tab would */
const asked = new Map();

/** @param {string} id @returns {boolean} whether it is this tab */
export const keeps = (id) => asked.get(id)?.isMine ?? false;

/**
 * @param {string[]} ids of the models that are shared
 * @param {() => void} onTurn called when it has become this tab
 */
export function askToKeep(ids, onTurn) {
  for (const [id, { ending }] of asked) {
    if (ids.includes(id)) continue;
    ending.abort();
    asked.delete(id);
  }
  for (const id of ids) if (!asked.has(id)) ask(id, onTurn);
}

/** @param {string} id @param {() => void} onTurn */
function ask(id, onTurn) {
  const turn = { ending: new AbortController(), isMine: false };
  const { signal } = turn.ending;
  asked.set(id, turn);
  const hold = () =>
    new Promise((release) => {
      signal.addEventListener("abort", release);
      turn.isMine = true;
      onTurn();
    });
  navigator.locks.request(`doppler-keeping-${id}`, { signal }, hold).catch(() => {}); // given up
}
