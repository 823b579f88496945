/**
 * @file Service worker: keeps what the page is made of, so that it opens with the server gone.
 *
 * Files are asked for at the server first, so that an edit shows at once; those whose name says
 * their version are taken from the cache. Model files live in OPFS and never pass through here.
 * Answers are kept whole, with the headers that make the page cross-origin isolated.
 */

const CACHE = "doppler-app";
const VERSIONED = /\/vendor\/pyodide\/[^/]+-\d[^/]*\.whl$/;

/** @type {ServiceWorkerGlobalScope} */
const worker = /** @type {any} */ (self);

worker.addEventListener("install", () => void worker.skipWaiting());
worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener("fetch", (event) => {
  if (keeps(event.request)) event.respondWith(answer(event.request));
});

/** The page's list of what it had loaded before this worker was there: see app/offline.js. */
worker.addEventListener("message", (event) => {
  /** @type {string[]} */
  const urls = event.data.keep;
  const requests = urls.map((url) => new Request(url)).filter(keeps);
  event.waitUntil(Promise.allSettled(requests.map(fromServer)));
});

/**
 * @param {Request} request
 * @returns {boolean} whether it is for a part of the page
 */
function keeps(request) {
  const { origin, pathname } = new URL(request.url);
  const ours = request.method === "GET" && origin === location.origin;
  return ours && !request.headers.has("Range") && !pathname.includes("/models/");
}

/**
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function answer(request) {
  const versioned = VERSIONED.test(new URL(request.url).pathname);
  const kept = versioned ? await fromCache(request) : undefined;
  if (kept) return kept;
  try {
    return await fromServer(request);
  } catch (error) {
    const old = await fromCache(request);
    if (old) return old;
    throw error;
  }
}

/**
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function fromServer(request) {
  const response = await fetch(request);
  if (response.status === 200 && response.type === "basic") {
    const cache = await caches.open(CACHE);
    await cache.put(key(request), response.clone());
  }
  return response;
}

/**
 * @param {Request} request
 * @returns {Promise<Response | undefined>}
 */
async function fromCache(request) {
  return (await caches.open(CACHE)).match(key(request));
}

/**
 * The page is one page, whatever its query.
 * @param {Request} request
 */
function key(request) {
  return request.mode === "navigate" ? request.url.split(/[?#]/)[0] : request.url.split("#")[0];
}
