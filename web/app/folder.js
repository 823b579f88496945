/** The one model of a folder that was dropped or picked: which of its files are meant. */

/** @import {Source} from "./types.js" */
/** @typedef {{path: string, get: () => File | Promise<File>}} Found a file by its path in what was given */

const WEIGHTS = /\.(gguf|safetensors)$|(^|\/)shard-\d+\.bin$/i;
const CONFIG = /(^|\/)config\.json$/;
const MOST_FILES = 10_000; // that a folder may hold, with those below it
const DEEPEST = 6;

/** @param {string} text */
const refuse = (text) => Object.assign(new Error(text), { name: "RequestError" });

/** @param {string} path */
const folderOf = (path) => path.split("/").slice(0, -1).join("/");

/** @param {string} path */
const depthOf = (path) => path.split("/").length;

/**
 * The files of the folder nearest to the top that has weights, or a config.json at least. What is
 * missing there, the worker tells.
 * @param {Found[]} found
 * @param {string} title of what was given
 * @returns {Promise<Source>}
 */
async function chosen(found, title) {
  const folders = [WEIGHTS, CONFIG, /./]
    .map((kind) => found.filter(({ path }) => kind.test(path)).map(({ path }) => folderOf(path)))
    .find((some) => some.length > 0);
  if (!folders) throw refuse(`${title} is empty: choose the folder that holds the model's files.`);
  const least = Math.min(...folders.map(depthOf));
  const [folder, ...others] = new Set(folders.filter((path) => depthOf(path) === least));
  if (others.length > 0) {
    const names = [folder, ...others].map((path) => path.split("/").pop());
    throw refuse(
      `The folder ${title} holds several models: ${names.join(", ")}. Choose one of these folders.`,
    );
  }
  const files = await Promise.all(
    found.filter(({ path }) => folderOf(path) === folder).map(({ get }) => get()),
  );
  return { kind: "files", files, folder: folder.split("/").pop() ?? title };
}

/** @param {FileSystemDirectoryEntry} folder @returns {Promise<FileSystemEntry[]>} */
async function entriesOf(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all; // they come a hundred at a time
    all.push(...some);
  }
}

/**
 * @param {FileSystemDirectoryEntry} folder
 * @param {string} path
 * @param {Found[]} found is added to
 */
async function walk(folder, path, found) {
  for (const entry of await entriesOf(folder)) {
    const inside = `${path}/${entry.name}`;
    if (entry.isFile) {
      const file = /** @type {FileSystemFileEntry} */ (entry);
      const get = () => new Promise((resolve, reject) => file.file(resolve, reject));
      found.push({ path: inside, get: /** @type {Found["get"]} */ (get) });
    } else if (depthOf(inside) <= DEEPEST) {
      await walk(/** @type {FileSystemDirectoryEntry} */ (entry), inside, found);
    }
    if (found.length > MOST_FILES) {
      throw refuse(`${path} holds too many files: choose the folder of the model itself.`);
    }
  }
}

/** @param {File[]} files picked with an input that takes folders */
export function ofPicked(files) {
  const found = files.map((file) => ({ path: file.webkitRelativePath, get: () => file }));
  const title = files[0]?.webkitRelativePath.split("/")[0] ?? "The folder";
  return { title, source: () => chosen(found, title), loose: [] };
}

/**
 * Call it while the event is handled: afterwards the browser forgets what was dropped.
 * @param {DataTransfer} dropped
 * @returns {{title: string, source: () => Promise<Source>, loose: File[]} | null} null where nothing
 *     was; loose: files that are in no folder
 */
export function ofDropped(dropped) {
  const entries = [...dropped.items].map((item) => item.webkitGetAsEntry?.());
  const folders = entries.filter((entry) => entry?.isDirectory);
  const files = [...dropped.files];
  if (folders.length === 0) {
    const source = async () => /** @type {Source} */ ({ kind: "files", files, folder: null });
    return files.length > 0 ? { title: files[0].name, source, loose: files } : null;
  }
  const title = folders.length === 1 ? (folders[0]?.name ?? "") : "What was dropped";
  const source = async () => {
    /** @type {Found[]} */
    const found = [];
    for (const folder of folders) {
      await walk(/** @type {FileSystemDirectoryEntry} */ (folder), folder?.name ?? "", found);
    }
    return chosen(found, title);
  };
  return { title, source, loose: [] };
}
