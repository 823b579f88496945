/**
 * @file Starts Python with doppler imported. Starting it takes seconds, so the first visit keeps an
 * image of its memory, and every visit (the first too, so that there is one way) begins from it.
 *
 * NumPy is no part of the image: Pyodide's images cannot hold compiled packages.
 */

import { loadPyodide, version } from "../vendor/pyodide/pyodide.mjs";
import { ADVICE, part, sha256 } from "./parts.js";

/** @typedef {Uint8Array<ArrayBuffer>} Bytes */
/** @typedef {{place: string, data: Bytes}} Archive */

const IMAGES = "doppler-python"; // a cache of its own: sw.js keeps files of the server, not this
const INDEX = new URL("../vendor/pyodide/", import.meta.url).href;
/** What Python imports from as it is, nothing being unpacked: the place of each, and its address. */
const ARCHIVES = {
  "/lib/doppler.whl": new URL("../vendor/doppler-0.1.0-py3-none-any.whl", import.meta.url),
  "/lib/jinja.zip": new URL("../vendor/jinja.zip", import.meta.url),
};
const MODULE = "doppler_runtime";
const PAGE = 64 << 10; // bytes by which memory grows
const DIGEST = "X-Doppler-SHA256"; // of a kept image
const CORE = ["pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"];

/**
 * @param {object} runtime what Python imports as doppler_runtime
 * @param {(stage: "python" | "image" | "ready", done: number) => void} told
 * @returns {Promise<any>} the Pyodide instance
 */
export async function startPython(runtime, told) {
  told("python", 0);
  const archives = await Promise.all(
    Object.entries(ARCHIVES).map(async ([place, url]) => ({ place, data: await part(url) })),
  );
  const name = await imageName(archives);
  const kept = await recall(name);
  let pyodide = kept && (await restore(kept, runtime).catch(forget));
  if (!pyodide) {
    try {
      const image = await makeImage(archives, runtime);
      told("image", 1);
      pyodide = await restore(image, runtime);
      keep(name, image).catch(() => {}); // where storage is full or refused, the next visit is slow
    } catch (error) {
      for (const file of CORE) await part(new URL(file, INDEX));
      throw error; // all parts are whole: it is something else
    }
  }
  place(pyodide, archives); // files are no part of an image
  told("ready", 2);
  return pyodide;
}

/**
 * @param {any} pyodide
 * @param {Archive[]} archives
 */
function place(pyodide, archives) {
  for (const { place, data } of archives) pyodide.FS.writeFile(place, data);
}

/** @param {Parameters<typeof loadPyodide>[0]} options */
const load = (options) => loadPyodide({ indexURL: INDEX, ...options });

/**
 * @param {Bytes} image
 * @param {object} runtime
 */
const restore = (image, runtime) =>
  load({
    _loadSnapshot: image,
    _snapshotDeserializer: () => runtime,
    createPyodideModule: withMemory(image.length),
  });

/**
 * What makes Pyodide's module with so much memory at least: it copies an image into the memory that
 * it was built with, 30 MiB, and an image that has grown beyond them would not fit.
 * @param {number} bytes
 * @returns {(settings: any) => Promise<any>}
 */
function withMemory(bytes) {
  return async (settings) => {
    const { instantiateWasm } = settings;
    /** @type {(info: any, receive: (instance: any, module: any) => any) => any} */
    settings.instantiateWasm = (info, receive) =>
      instantiateWasm(info, (/** @type {any} */ instance, /** @type {any} */ module) => {
        const { memory } = instance.exports;
        const lacking = bytes - memory.buffer.byteLength;
        if (lacking > 0) memory.grow(Math.ceil(lacking / PAGE));
        return receive(instance, module);
      });
    return (await import(`${INDEX}pyodide.asm.mjs`)).default(settings);
  };
}

/** @param {unknown} error why a kept image is of no use: it is damaged, or another Pyodide's */
async function forget(error) {
  console.warn("Python's image is made anew:", error);
  await caches.delete(IMAGES);
}

/**
 * The memory of a Python that has imported doppler, and Jinja with it.
 * @param {Archive[]} archives
 * @param {object} runtime
 * @returns {Promise<Bytes>}
 */
async function makeImage(archives, runtime) {
  const pyodide = await load({ _makeSnapshot: true });
  pyodide.registerJsModule(MODULE, runtime);
  place(pyodide, archives);
  const places = JSON.stringify(archives.map(({ place }) => place));
  pyodide.runPython(`import sys; sys.path += ${places}; import doppler.page.bridge`);
  // Of JavaScript's objects Python may hold globals, which Pyodide finds again, and this module.
  const serializer = (/** @type {unknown} */ held) => {
    if (held === runtime) return MODULE;
    throw new Error(`Python holds ${held} when its image is made`);
  };
  return /** @type {Bytes} */ (pyodide.makeMemorySnapshot({ serializer }));
}

/**
 * @param {Archive[]} archives
 * @returns {Promise<string>} an address that changes with Pyodide and with what Python imports
 */
async function imageName(archives) {
  const whole = await new Blob(archives.map(({ data }) => data)).arrayBuffer();
  return `${INDEX}image-${version}-${encodeURIComponent(await sha256(whole))}`;
}

/**
 * @param {string} name
 * @returns {Promise<Bytes | undefined>} nothing where it is damaged
 */
async function recall(name) {
  const kept = await globalThis.caches?.match(name, { cacheName: IMAGES });
  if (!kept) return undefined;
  const image = new Uint8Array(await kept.arrayBuffer());
  if ((await sha256(image)) === kept.headers.get(DIGEST)) return image;
  await forget("it is damaged");
  return undefined;
}

/**
 * Keeps an image in place of all older ones.
 * @param {string} name
 * @param {Bytes} image
 */
async function keep(name, image) {
  await caches.delete(IMAGES);
  const headers = { [DIGEST]: await sha256(image) };
  await (await caches.open(IMAGES)).put(name, new Response(image, { headers }));
}

/**
 * @param {any} pyodide
 * @returns {string} where the page's NumPy lies
 */
export const numpyURL = (pyodide) => INDEX + pyodide.lockfile.packages.numpy.file_name;

/**
 * Loads NumPy, whose SHA-256 Pyodide's lock has: a copy that is damaged where it is kept is fetched
 * anew, once.
 * @param {any} pyodide
 */
export async function loadPackage(pyodide) {
  const options = { messageCallback() {}, errorCallback() {} };
  for (const again of [false, true]) {
    if (again) await part(new URL(numpyURL(pyodide))).catch(() => undefined);
    await pyodide.loadPackage("numpy", options).catch(() => undefined);
    if (pyodide.loadedPackages.numpy) return;
  }
  await part(new URL(numpyURL(pyodide)));
  throw new Error(`a part of the page, NumPy, is damaged: ${ADVICE}`);
}
