/**
 * @file The worker: Pyodide with WebGPU and the browser's file system. It boots Python, passes
 * methods to doppler.api and events back; everything else is Python. See runtime/worker.d.ts.
 */

import * as Comlink from "./vendor/comlink.js";
import * as fetching from "./runtime/fetch.js";
import * as hashing from "./runtime/hash.js";
import * as offloading from "./runtime/offload.js";
import * as opfs from "./runtime/opfs.js";
import * as peers from "./runtime/peers.js";
import { loadPackage, numpyURL, startPython } from "./runtime/python.js";
import * as room from "./runtime/room.js";
import * as replaying from "./runtime/replay.js";
import * as staging from "./runtime/staging.js";
import * as stops from "./runtime/stops.js";
import * as text from "./runtime/text.js";
import * as turns from "./runtime/turns.js";

/**
 * @typedef {import("./runtime/worker.js").OnEvent} OnEvent
 * @typedef {import("./runtime/messages.js").Stage} Stage
 * @typedef {import("./runtime/worker.js").BootEvent["stage"]} BootStage
 */

/** @type {Promise<any> | undefined} */
let python;
/** @type {Stage[]} of the start of Python; the worker's own begins with its clock */
const stages = [{ stage: "worker", start: performance.timeOrigin, end: now() }];

/** Milliseconds since 1970, as all clocks of the page can be compared. */
function now() {
  return performance.timeOrigin + performance.now();
}

/** @type {OnEvent | undefined} who is told how far Python is */
let watcher;

/** @returns {Promise<any>} the Pyodide instance, with doppler importable */
async function start() {
  const began = now();
  const stage = (/** @type {BootStage} */ name, /** @type {number} */ done) =>
    watcher?.({ type: "boot", stage: name, done, total: 2 });
  const loadNumpy = () => python?.then(loadPackage);
  const parts = {
    ...fetching,
    ...hashing,
    ...offloading,
    ...opfs,
    ...peers,
    ...room,
    ...replaying,
    ...staging,
    ...stops,
    ...text,
    ...turns,
    loadNumpy,
  };
  const [pyodide] = await Promise.all([startPython(parts, stage), hashing.prepareHash()]);
  pyodide.pyimport("doppler.page.bridge").destroy();
  pyodide._api.on_fatal = end;
  stages.push({ stage: "python", start: began, end: now() });
  const later = [numpyURL(pyodide), new URL("runtime/tokenizer_worker.js", import.meta.url).href];
  fetchOnce(later).catch(() => {}); // the server is gone already
  return pyodide;
}

/**
 * Fetches what this visit may not need, so that sw.js has it when the server is gone.
 * @param {string[]} urls
 */
async function fetchOnce(urls) {
  for (const url of urls) {
    if (!(await globalThis.caches?.match(url))) await fetch(url);
  }
}

/**
 * Waits for Python, which starts with the worker; a start that failed may be tried again.
 * @param {OnEvent} [onEvent]
 * @param {SharedArrayBuffer | null} [memory] with the number of stops that the page has asked for
 * @returns {Promise<Stage[]>}
 */
async function boot(onEvent, memory = null) {
  watcher = onEvent;
  stops.shareStops(memory);
  python ??= start();
  try {
    await python;
    return stages;
  } catch (error) {
    python = undefined;
    return internal(error);
  }
}

/**
 * Python that has crashed never answers again: the page is told why, and this worker ends.
 * @param {unknown} error
 */
function end(error) {
  postMessage({ ended: `Python ended: ${error}` });
  self.close();
}

/** @type {Set<string>} locks that are held as long as this worker lives */
const held = new Set();

/**
 * Answers as soon as nothing else is being done.
 * @param {string} lock taken at the first call
 */
async function live(lock) {
  if (held.has(lock)) return;
  held.add(lock);
  await new Promise((resolve) => {
    if (!navigator.locks) return resolve(null);
    navigator.locks.request(lock, () => {
      resolve(null);
      return new Promise(() => {});
    });
  });
}

/**
 * Runs a method of doppler.api.
 * @param {string} method
 * @param {object} args JSON-able
 * @param {OnEvent} [onEvent] a Comlink.proxy
 * @param {File[] | null} [files]
 * @returns {Promise<any>}
 */
async function call(method, args, onEvent, files) {
  const bridge = (await booted()).pyimport("doppler.page.bridge");
  /** @type {unknown} until the page has heard the last event */
  let told;
  /** @param {string} event */
  const emit = (event) => {
    told = onEvent?.(JSON.parse(event));
  };
  try {
    const text = JSON.stringify(args);
    const answer = await bridge.call(method, text, emit, files ?? undefined).catch(internal);
    return result(JSON.parse(answer));
  } finally {
    // Events have a port of their own: what is sent after them by another may overtake them.
    await Promise.resolve(told).catch(() => {});
    bridge.destroy();
    /** @type {any} */ (onEvent)?.[Comlink.releaseProxy]?.();
  }
}

/** @param {{result?: any, error?: {name: string, message: string}}} answer */
function result(answer) {
  if (!answer.error) return answer.result;
  throw Object.assign(new Error(answer.error.message), { name: answer.error.name });
}

/**
 * @param {unknown} error one that is not meant for people: Python could not be loaded, or died
 * @returns {never}
 */
function internal(error) {
  throw Object.assign(new Error(String(error)), { name: "InternalError" });
}

/**
 * For the console: runs Python in the worker, with `await` at its top level.
 * @param {string} code
 * @returns {Promise<any>} the last expression's value, which must be plain data
 */
async function run(code) {
  const value = await (await booted()).runPythonAsync(code);
  return value?.toJs ? value.toJs({ dict_converter: Object.fromEntries }) : value;
}

/** @returns {Promise<any>} */
function booted() {
  if (!python) throw new Error("call boot() first");
  return python;
}

navigator.gpu?.requestAdapter().catch(() => {}); // wakes the GPU's process while Python starts
python = start();
python.catch(() => {}); // boot tells
Comlink.expose({ boot, call, live, run, connectPeers: peers.connectPeers });
