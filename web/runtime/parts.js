/** @file Parts of the page, each with the SHA-256 that the server says it has (Repr-Digest). */

export const ADVICE =
  "reload the page; if that does not help, run scripts/setup where it is served from";

/**
 * The whole of a part; asked for once more where it is damaged on the way or in the browser's cache.
 * @param {URL} url
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 * @throws {Error} that names the part, and says what is wrong with it
 */
export async function part(url) {
  const name = url.pathname.split("/").at(-1);
  for (const cache of /** @type {RequestCache[]} */ (["no-cache", "reload"])) {
    const response = await fetch(url, { cache }).catch(() => undefined);
    if (!response) throw new Error(`a part of the page, ${name}, cannot be reached: ${ADVICE}`);
    if (!response.ok && response.statusText !== "Damaged") {
      throw new Error(`a part of the page, ${name}, is answered ${response.status}: ${ADVICE}`);
    }
    const data = new Uint8Array(await response.arrayBuffer());
    const told = /sha-256=:([^:]*):/.exec(response.headers.get("Repr-Digest") ?? "")?.[1];
    if (response.ok && (!told || told === (await sha256(data)))) return data;
  }
  throw new Error(`a part of the page, ${name}, is damaged: ${ADVICE}`);
}

/**
 * @param {Uint8Array<ArrayBuffer> | ArrayBuffer} data
 * @returns {Promise<string>} in base64, as Repr-Digest has it
 */
export async function sha256(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return btoa(String.fromCharCode(...digest));
}
