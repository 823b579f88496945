/**
 * @file Service worker: keeps what the page is made of, so that it opens with the server gone.
 *
 * Files are asked for at the server first, so that an edit shows at once; those whose name says
 * their version are taken from the cache. Model files live in OPFS and never pass through here.
 * Answers are kept whole, with the headers that make the page cross-origin isolated.
 *
 * The server says the SHA-256 of each part (Repr-Digest): what does not have it is asked for once
 * more, and never used. What is kept has its own beside it, which is checked whenever it is used.
 */

const CACHE = "doppler-app";
const DIGEST = "X-Doppler-SHA256"; // of a kept answer's body
const PATIENCE_MS = 5000; // with a server that does not answer, where a copy is kept
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
 * A good copy that is kept stands in for a server that is gone, silent, refuses or sends damaged
 * bytes. One that was silent is not waited for again until it has answered something.
 * @param {FetchEvent} event
 * @returns {Promise<Response>}
 */
async function answer(event) {
  const { request } = event;
  const versioned = VERSIONED.test(new URL(request.url).pathname) && request.cache !== "reload";
  const kept = versioned ? await fromCache(request) : undefined;
  if (kept) return kept;
  const asked = fromServer(request, event).catch((error) => error);
  const answered = await Promise.race([asked, silence()]);
  if (answered === SILENT) silent = true;
  if (answered instanceof Response && answered.ok) return answered;
  const old = await fromCache(request);
  if (old) return old;
  const late = await asked;
  if (late instanceof Response) return late;
  throw late;
}

const SILENT = Symbol("silent");
let silent = false; // the server, when it was asked last

/** Comes to its end when the server has been waited for long enough. */
async function silence() {
  if (!silent) await new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
  return SILENT;
}

/**
 * @param {Request} request
 * @param {ExtendableEvent} event
 * @returns {Promise<Response>} one of status 502 where what the server sends is damaged
 */
async function fromServer(request, event) {
  for (const again of [false, true]) {
    const asked = again ? new Request(request.url, { cache: "reload" }) : request;
    const response = await fetch(asked);
    silent = false;
    if (response.status !== 200 || response.type !== "basic") return response;
    const body = await response.clone().arrayBuffer();
    const digest = await sha256(body);
    const told = /sha-256=:([^:]*):/.exec(response.headers.get("Repr-Digest") ?? "")?.[1];
    if (!told || told === digest) {
      event.waitUntil(keep(request, response, body, digest));
      return response;
    }
  }
  const text = `${new URL(request.url).pathname} is damaged where the server keeps it\n`;
  return new Response(text, { status: 502, statusText: "Damaged" });
}

/**
 * @param {Request} request
 * @param {Response} response
 * @param {ArrayBuffer} body
 * @param {string} digest
 */
async function keep(request, { status, headers }, body, digest) {
  const kept = await fromCache(request);
  if (kept?.headers.get(DIGEST) === digest) return;
  const marked = new Headers(headers);
  marked.set(DIGEST, digest);
  await (
    await caches.open(CACHE)
  ).put(key(request), new Response(body, { status, headers: marked }));
}

/**
 * @param {Request} request
 * @returns {Promise<Response | undefined>} what is kept, where it is still what was kept
 */
async function fromCache(request) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(key(request));
  if (!kept) return undefined;
  const body = await kept.clone().arrayBuffer();
  if ((await sha256(body)) === kept.headers.get(DIGEST)) return kept;
  await cache.delete(key(request));
  return undefined;
}

/**
 * @param {ArrayBuffer} data
 * @returns {Promise<string>} in base64, as Repr-Digest has it
 */
async function sha256(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return btoa(String.fromCharCode(...digest));
}

/**
 * The page is one page, whatever its query.
 * @param {Request} request
 */
function key(request) {
  return request.mode === "navigate" ? request.url.split(/[?#]/)[0] : request.url.split("#")[0];
}
