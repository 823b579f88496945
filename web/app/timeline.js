/** When each stage of the start began and ended: from opening the page to the first token. */

/** @import {Stage} from "./types.js" */

/** @type {Stage[]} */
let booted = [];
/** @type {Stage[]} */
let loaded = [];
/** @type {Stage[]} */
let answered = [];

/** @returns {Stage[]} in milliseconds since the page was opened, by their beginnings */
export function timeline() {
  return [...booted, ...loaded, ...answered].sort((a, b) => a.start - b.start);
}

/**
 * @param {Stage[]} stages in milliseconds since 1970
 * @returns {Stage[]} since the page was opened
 */
const sinceOpened = (stages) =>
  stages.map(({ stage, start, end }) => ({
    stage,
    start: Math.round(start - performance.timeOrigin),
    end: Math.round(end - performance.timeOrigin),
  }));

/** @param {Stage[]} stages of the worker and of Python; before them, the page itself was loaded */
export function noteBoot(stages) {
  const page = { stage: "page", start: performance.timeOrigin, end: stages[0].start };
  booted = sinceOpened([page, ...stages]);
  loaded = answered = [];
}

/**
 * What a call adds: a load its stages, the first answer after it the first token.
 * @param {string} method
 * @param {number} began in milliseconds since the page was opened
 * @param {any} result
 */
export function noteCall(method, began, result) {
  if (method === "load") {
    loaded = sinceOpened(result.timeline);
    answered = [];
  } else if ((method === "chat" || method === "complete") && !answered.length) {
    const [start, end] = [began, began + result.timings.ttft_ms].map(Math.round);
    answered = [{ stage: "first token", start, end }];
  }
}
