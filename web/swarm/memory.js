/**
 * @file What the swarm remembers between visits: torrents of the models here (their SHA-1s took a walk
 * through all bytes, or came from peers), and whom it banned.
 */

const DATABASE = "doppler-swarm";
const TABLE = "remembered";
/** @type {Promise<IDBDatabase> | null} */
let database = null;

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransactionMode} mode */
async function table(mode) {
  if (!database) {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    database = done(request);
  }
  return (await database).transaction(TABLE, mode).objectStore(TABLE);
}

/** @param {string} key @returns {Promise<any>} undefined where nothing is kept, or may be kept */
export async function recall(key) {
  return table("readonly")
    .then((store) => done(store.get(key)))
    .catch(() => undefined);
}

/** @param {string} key @param {unknown} value where the browser keeps nothing, it is not kept */
export async function remember(key, value) {
  await table("readwrite")
    .then((store) => done(store.put(value, key)))
    .catch(() => undefined);
}
