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
  if (keeps(event.request)) event.respondWith(answer(event));
});

/** The page's list of what it had loaded before this worker was there: see app/offline.js. */
worker.addEventListener("message", (event) => {
  /** @type {string[]} */
  const urls = event.data.keep;
  const requests = urls.map((url) => new Request(url)).filter(keeps);
  event.waitUntil(Promise.allSettled(requests.map((request) => fromServer(request, event))));
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
 * @param {FetchEvent} event
 * @returns {Promise<Response>}
 */
async function answer(event) {
  const { request } = event;
  const versioned = VERSIONED.test(new URL(request.url).pathname);
  const kept = versioned ? await fromCache(request) : undefined;
  if (kept) return kept;
  try {
    return await fromServer(request, event);
  } catch (error) {
    const old = await fromCache(request);
    if (old) return old;
    throw error;
  }
}

/**
 * The answer comes at once, so that what is large can be used as it arrives, and is kept meanwhile.
 * @param {Request} request
 * @param {ExtendableEvent} event
 * @returns {Promise<Response>}
 */
async function fromServer(request, event) {
  const response = await fetch(request);
  if (response.status === 200 && response.type === "basic") {
    event.waitUntil(keep(request, response.clone()));
  }
  return response;
}

/**
 * @param {Request} request
 * @param {Response} response
 */
async function keep(request, response) {
  const cache = await caches.open(CACHE);
  const tag = response.headers.get("ETag");
  const kept = tag && (await cache.match(key(request)))?.headers.get("ETag");
  if (tag && kept === tag) await response.body?.cancel();
  else await cache.put(key(request), response);
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
