/**
 * @file Starts Python with doppler imported. Starting it takes seconds, so the first visit keeps an
 * image of its memory, and every visit (the first too, so that there is one way) begins from it.
 *
 * NumPy is no part of the image: Pyodide's images cannot hold compiled packages.
 */

import { loadPyodide, version } from "../vendor/pyodide/pyodide.mjs";

/** @typedef {Uint8Array<ArrayBuffer>} Bytes */

const IMAGES = "doppler-python"; // a cache of its own: sw.js keeps files of the server, not this
const INDEX = new URL("../vendor/pyodide/", import.meta.url).href;
const WHEEL = new URL("../vendor/doppler-0.1.0-py3-none-any.whl", import.meta.url);
const PLACE = "/lib/doppler.whl"; // imported from as it is: nothing is unpacked
const MODULE = "doppler_runtime";

/**
 * @param {object} runtime what Python imports as doppler_runtime
 * @param {(stage: "python" | "image" | "ready", done: number) => void} told
 * @returns {Promise<any>} the Pyodide instance
 */
export async function startPython(runtime, told) {
  told("python", 0);
  const wheel = new Uint8Array(await (await fetch(WHEEL)).arrayBuffer());
  const name = await imageName(wheel);
  const kept = await recall(name);
  let pyodide = kept && (await restore(kept, runtime).catch(forget));
  if (!pyodide) {
    const image = await makeImage(wheel, runtime);
    told("image", 1);
    pyodide = await restore(image, runtime);
    keep(name, image).catch(() => {}); // where storage is full or refused, the next visit is slow
  }
  pyodide.FS.writeFile(PLACE, wheel); // files are no part of an image
  told("ready", 2);
  return pyodide;
}

/** @param {Parameters<typeof loadPyodide>[0]} options */
const load = (options) => loadPyodide({ indexURL: INDEX, ...options });

/**
 * @param {Bytes} image
 * @param {object} runtime
 */
const restore = (image, runtime) =>
  load({ _loadSnapshot: image, _snapshotDeserializer: () => runtime });

/** @param {unknown} error why a kept image is of no use: it is damaged, or another Pyodide's */
async function forget(error) {
  console.warn("Python's image is made anew:", error);
  await caches.delete(IMAGES);
}

/**
 * The memory of a Python that has imported doppler.
 * @param {Bytes} wheel
 * @param {object} runtime
 * @returns {Promise<Bytes>}
 */
async function makeImage(wheel, runtime) {
  const pyodide = await load({ _makeSnapshot: true });
  pyodide.registerJsModule(MODULE, runtime);
  pyodide.FS.writeFile(PLACE, wheel);
  pyodide.runPython(`import sys; sys.path.append("${PLACE}"); import doppler.page.bridge`);
  // Of JavaScript's objects Python may hold globals, which Pyodide finds again, and this module.
  const serializer = (/** @type {unknown} */ held) => {
    if (held === runtime) return MODULE;
    throw new Error(`Python holds ${held} when its image is made`);
  };
  return /** @type {Bytes} */ (pyodide.makeMemorySnapshot({ serializer }));
}

/**
 * @param {Bytes} wheel
 * @returns {Promise<string>} an address that changes with Pyodide and with doppler
 */
async function imageName(wheel) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", wheel));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${INDEX}image-${version}-${hex}`;
}

/**
 * @param {string} name
 * @returns {Promise<Bytes | undefined>}
 */
async function recall(name) {
  const kept = await globalThis.caches?.match(name, { cacheName: IMAGES });
  return kept && new Uint8Array(await kept.arrayBuffer());
}

/**
 * Keeps an image in place of all older ones.
 * @param {string} name
 * @param {Bytes} image
 */
async function keep(name, image) {
  await caches.delete(IMAGES);
  await (await caches.open(IMAGES)).put(name, new Response(image));
}

/**
 * @param {any} pyodide
 * @returns {string} where the page's NumPy lies
 */
export const numpyURL = (pyodide) => INDEX + pyodide.lockfile.packages.numpy.file_name;
