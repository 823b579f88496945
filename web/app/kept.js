/**
 * Keys and values of conversations, which the engine keeps in storage (py/doppler/page/kept.py): they
 * can be computed again, and go before anything that a person wrote does.
 */

/** @returns {Promise<FileSystemDirectoryHandle>} their folder. Throws where nothing was ever kept. */
async function top() {
  let place = await navigator.storage.getDirectory();
  for (const name of ["doppler", "kv"]) place = await place.getDirectoryHandle(name);
  return place;
}

/** @param {FileSystemDirectoryHandle} folder @returns {Promise<FileSystemDirectoryHandle[]>} in it */
async function foldersOf(folder) {
  const found = [];
  for await (const entry of folder.values()) {
    if (entry.kind === "directory") found.push(/** @type {FileSystemDirectoryHandle} */ (entry));
  }
  return found;
}

/** @returns {Promise<{model: FileSystemDirectoryHandle, id: string}[]>} of which conversations */
async function all() {
  try {
    const models = await foldersOf(await top());
    const found = models.map(async (model) =>
      (await foldersOf(model)).map(({ name }) => ({ model, id: name })),
    );
    return (await Promise.all(found)).flat();
  } catch {
    return []; // there are none, or another tab has just removed them
  }
}

/** @returns {Promise<string[]>} ids of conversations of which something is kept */
export const kept = async () => [...new Set((await all()).map(({ id }) => id))];

/**
 * @param {(id: string) => boolean} [which] of the conversations
 * @returns {Promise<boolean>} whether something went; what is being read or written stays
 */
export async function letKeptGo(which = () => true) {
  const going = (await all()).filter(({ id }) => which(id));
  const went = going.map(({ model, id }) =>
    model.removeEntry(id, { recursive: true }).then(
      () => true,
      () => false,
    ),
  );
  return (await Promise.all(went)).includes(true);
}
