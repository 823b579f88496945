/**
 * @file The addresses that may run as workers. Under the page's content security policy (Trusted
 * Types) a worker is started from a value that only this policy makes, and it knows these three.
 */

const WORKERS = ["../worker.js", "../sw.js", "tokenizer_worker.js"].map(
  (path) => new URL(path, import.meta.url).href,
);

/** @param {string} url */
function own(url) {
  if (!WORKERS.includes(url)) throw new TypeError(`${url} is no worker of this page`);
  return url;
}

/** @type {{createScriptURL(url: string): any}} browsers without Trusted Types take the text itself */
const policy = /** @type {any} */ (globalThis).trustedTypes?.createPolicy("doppler", {
  createScriptURL: own,
}) ?? { createScriptURL: own };

/**
 * @param {string} path of a worker, from the folder of this file
 * @returns {any} what `new Worker` and `register` take for it
 */
export const workerURL = (path) => policy.createScriptURL(new URL(path, import.meta.url).href);
