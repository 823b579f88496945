/**
 * @file Files in the origin private file system, through synchronous access handles (worker only).
 *
 *     doppler/models/<identity>/   one folder a model
 *     doppler/imports/<number>/    models that are being made from a file; leftovers are removed
 *     doppler/tmp/                 results that the page offers as downloads; removed likewise
 *     doppler/kv/                  keys and values of conversations with models
 *
 * Whoever has a folder open shares a lock, so that tidying never meets a folder that is in use.
 */

const LOCK = "doppler-folders";
/**
 * A read of so many bytes, on a machine of so many threads, is left to the browser's own process,
 * where several go on side by side. Elsewhere this thread's reads take less of a processor.
 */
const LARGE = 4 << 20;
const THREADS = 4;
/** @type {Promise<() => void> | undefined} this tab's own share, which it never gives back */
let held;

/**
 * @typedef {object} OpenFile
 * @property {boolean} writable
 * @property {FileSystemSyncAccessHandle} handle
 * @property {Promise<File>} [file] for large reads of what nobody writes to
 */

/**
 * One folder of files. Handles stay open until `close`: reading shares a file, writing owns it.
 *
 * What is asked of one file is done in the order it was asked: a file that is being closed or
 * removed here must not be opened anew beside that, which would shut itself out. And it is done
 * even where nobody waits for it any more, so `close` waits for it: no handle outlives its folder.
 */
class Folder {
  /** @type {Map<string, OpenFile>} */
  open = new Map();
  /** @type {Map<string, Promise<unknown>>} the last thing asked of a file; never rejected */
  #last = new Map();
  /** @type {Set<Promise<unknown>>} what is being done; never rejected */
  #doing = new Set();
  #closed = false;

  /**
   * @param {FileSystemDirectoryHandle} directory
   * @param {() => void} release gives the shared lock back
   */
  constructor(directory, release) {
    this.directory = directory;
    this.release = release;
  }

  /**
   * @param {string} name
   * @returns {Promise<number>} bytes, or -1 where there is no such file
   */
  size(name) {
    return this.#turn(name, async () => {
      const known = this.open.get(name);
      return known ? known.handle.getSize() : fileSize(this.directory, name);
    });
  }

  /**
   * @param {string} name
   * @param {number} offset
   * @param {number} length
   * @returns {Promise<Uint8Array>} fewer bytes where the file ends
   */
  read(name, offset, length) {
    const large = length >= LARGE && navigator.hardwareConcurrency >= THREADS;
    return this.#do(async () => {
      const beside = large && (await this.#readBeside(name, offset, length));
      if (beside) return beside;
      const data = new Uint8Array(length);
      const count = await this.#readInto(data, name, offset);
      return count === length ? data : data.subarray(0, count);
    });
  }

  /**
   * @param {[name: string, offset: number, length: number][]} pieces
   * @returns {Promise<Uint8Array>} one after another; fewer bytes where a file ends
   */
  gather(pieces) {
    return this.#do(async () => {
      const data = new Uint8Array(pieces.reduce((sum, [, , length]) => sum + length, 0));
      let at = 0;
      for (const [name, offset, length] of pieces) {
        const count = await this.#readInto(data.subarray(at, at + length), name, offset);
        at += count;
        if (count < length) break;
      }
      return data.subarray(0, at);
    });
  }

  /**
   * @param {string} name
   * @param {number} offset
   * @param {Uint8Array<ArrayBuffer>} data
   */
  async write(name, offset, data) {
    const write = (/** @type {FileSystemSyncAccessHandle} */ it) => it.write(data, { at: offset });
    const written = await this.#with(name, true, write);
    if (written !== data.length) {
      throw new DOMException(`${written} of ${data.length} bytes written`, "QuotaExceededError");
    }
  }

  /**
   * @param {string} name
   * @param {number} size
   */
  async truncate(name, size) {
    await this.#with(name, true, (handle) => handle.truncate(size));
  }

  /** @returns {Promise<string[]>} */
  async names() {
    return (await files(this.directory)).map((file) => file.name);
  }

  /** @param {string} name */
  async remove(name) {
    await this.#turn(name, async () => {
      this.#shut(name);
      await this.directory.removeEntry(name).catch(ignoreAbsent);
    });
  }

  /**
   * Puts a file on the disk, and lets other tabs read it until it is written again.
   * @param {string} name
   */
  async flush(name) {
    await this.#turn(name, async () => this.#shut(name));
  }

  /** When what was asked is done. What is asked later is refused. */
  async close() {
    this.#closed = true;
    while (this.#doing.size) await Promise.all(this.#doing);
    for (const name of [...this.open.keys()]) this.#shut(name);
    this.release();
  }

  /**
   * @param {Uint8Array} data
   * @param {string} name
   * @param {number} offset
   * @returns {Promise<number>} bytes that were there
   */
  #readInto(data, name, offset) {
    return this.#with(name, false, (handle) => handle.read(data, { at: offset }));
  }

  /**
   * A read by the browser's own process. The handle is open all the same: it keeps writers out.
   * @param {string} name
   * @param {number} offset
   * @param {number} length
   * @returns {Promise<Uint8Array | undefined>} undefined where the handle is what can read: this
   *   tab writes to the file, or has just written to it, or this browser refuses
   */
  async #readBeside(name, offset, length) {
    await this.#with(name, false, () => undefined);
    const known = this.open.get(name);
    if (!known || known.writable) return undefined;
    known.file ??= this.directory.getFileHandle(name).then((handle) => handle.getFile());
    try {
      const part = (await known.file).slice(offset, offset + length);
      return new Uint8Array(await part.arrayBuffer());
    } catch (error) {
      if (error instanceof DOMException) return undefined;
      throw error;
    }
  }

  /**
   * A handle for reading is replaced where one for writing is needed.
   * @template T
   * @param {string} name
   * @param {boolean} writable
   * @param {(handle: FileSystemSyncAccessHandle) => T} work
   * @returns {Promise<T>}
   */
  #with(name, writable, work) {
    return this.#turn(name, async () => {
      let known = this.open.get(name);
      if (!known || (writable && !known.writable)) {
        this.#shut(name);
        const file = await this.directory.getFileHandle(name, { create: writable });
        const open = /** @type {any} */ (file); // TypeScript does not know the modes yet
        const mode = writable ? "readwrite" : "read-only";
        known = { writable, handle: await open.createSyncAccessHandle({ mode }) };
        this.open.set(name, known);
      }
      return work(known.handle);
    });
  }

  /** @param {string} name */
  #shut(name) {
    this.open.get(name)?.handle.close(); // flushes
    this.open.delete(name);
  }

  /**
   * After what was asked of the file before.
   * @template T
   * @param {string} name
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  #turn(name, work) {
    const before = this.#last.get(name) ?? Promise.resolve();
    const answer = this.#do(() => before.then(() => told(work)));
    const last = answer.then(ignore, ignore);
    this.#last.set(name, last);
    return answer;
  }

  /**
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  #do(work) {
    // What a `gather` or `read` has begun goes on: `close` waits for it.
    if (this.#closed && !this.#doing.size) {
      return Promise.reject(new DOMException("the folder was closed", "InvalidStateError"));
    }
    const answer = work();
    const done = answer.then(ignore, ignore);
    this.#doing.add(done);
    void done.then(() => this.#doing.delete(done));
    return answer;
  }
}

/**
 * A promise that Python can wait for: it would wait forever for one that is rejected with the
 * browser's own QuotaExceededError, and gets a plain exception of that name instead.
 * @template T
 * @param {() => T | Promise<T>} work
 * @returns {Promise<T>}
 */
async function told(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof DOMException) || error.name !== "QuotaExceededError") throw error;
    throw new DOMException(error.message, error.name);
  }
}

function ignore() {}

/** @returns {Promise<() => void>} a function that gives the shared lock back */
function share() {
  return new Promise((resolve, reject) => {
    const hold = () => new Promise((release) => resolve(() => release(undefined)));
    navigator.locks.request(LOCK, { mode: "shared" }, hold).catch(reject);
  });
}

/**
 * @param {unknown} error
 * @returns {undefined}
 */
function ignoreAbsent(error) {
  if (!(error instanceof DOMException && error.name === "NotFoundError")) throw error;
}

/**
 * @param {FileSystemDirectoryHandle} directory
 * @returns {Promise<FileSystemFileHandle[]>}
 */
async function files(directory) {
  /** @type {FileSystemFileHandle[]} */
  const found = [];
  for await (const entry of directory.values()) {
    if (entry.kind === "file") found.push(/** @type {FileSystemFileHandle} */ (entry));
  }
  return found;
}

/**
 * @param {FileSystemDirectoryHandle} directory
 * @param {string} name
 */
async function fileSize(directory, name) {
  try {
    return (await (await directory.getFileHandle(name)).getFile()).size;
  } catch (error) {
    ignoreAbsent(error);
    return -1;
  }
}

/**
 * @param {string} path such as "models/<identity>"
 * @param {boolean} create where it is missing, to write into it; whoever reads makes nothing
 */
function directory(path, create) {
  return told(async () => {
    let place = await navigator.storage.getDirectory();
    for (const name of ["doppler", ...path.split("/")]) {
      place = await place.getDirectoryHandle(name, { create });
    }
    return place;
  });
}

/**
 * @param {string} path
 * @param {boolean} create
 */
export async function openFolder(path, create) {
  const release = await share();
  try {
    return new Folder(await directory(path, create), release);
  } catch (error) {
    release();
    throw error;
  }
}

/** Keeps every folder from being tidied away until this tab is closed: it reads what it wrote. */
export async function hold() {
  await (held ??= share());
}

/**
 * A small file, without a handle that would shut other tabs out.
 * @param {string} path of the folder
 * @param {string} name
 * @param {number} most bytes; of a longer file come one more
 * @returns {Promise<Uint8Array | undefined>} undefined where it is missing
 */
export async function readSmall(path, name, most) {
  try {
    const file = await (await directory(path, false)).getFileHandle(name);
    const data = (await file.getFile()).slice(0, most + 1);
    return new Uint8Array(await data.arrayBuffer());
  } catch (error) {
    ignoreAbsent(error);
    return undefined;
  }
}

/**
 * @param {string} path
 * @returns {Promise<string[]>} names of the folders in it; none where it is missing
 */
export async function folders(path) {
  /** @type {string[]} */
  const found = [];
  try {
    for await (const entry of (await directory(path, false)).values()) {
      if (entry.kind === "directory") found.push(entry.name);
    }
  } catch (error) {
    ignoreAbsent(error);
  }
  return found;
}

/**
 * The folders in the folders of a folder.
 * @param {string} path
 * @returns {Promise<{path: string, bytes: number, changed: number}[]>} below `path`; when a file of
 *     it was written last, in ms
 */
export async function folderAges(path) {
  const found = [];
  for (const outer of await folders(path)) {
    for (const name of await folders(`${path}/${outer}`)) {
      const place = await directory(`${path}/${outer}/${name}`, false);
      const all = await Promise.all((await files(place)).map((file) => file.getFile()));
      const bytes = all.reduce((sum, { size }) => sum + size, 0);
      const changed = Math.max(0, ...all.map(({ lastModified }) => lastModified));
      found.push({ path: `${outer}/${name}`, bytes, changed });
    }
  }
  return found;
}

/**
 * @param {string} path
 * @param {string} name
 * @returns {Promise<void>}
 */
export async function removeFolder(path, name) {
  try {
    await (await directory(path, false)).removeEntry(name, { recursive: true });
  } catch (error) {
    ignoreAbsent(error);
  }
}

/**
 * Moves the files of one folder into another, the file `last` after all others: it is what says
 * that the rest is there.
 * @param {string} from
 * @param {string} to
 * @param {string} last
 */
export async function moveFiles(from, to, last) {
  const moving = await files(await directory(from, false));
  const target = await directory(to, true);
  moving.sort((a, b) => Number(a.name === last) - Number(b.name === last));
  for (const file of moving) {
    await /** @type {any} */ (file).move(target, file.name); // TypeScript does not know it either
  }
}

/**
 * Removes leftovers, what is kept of models that are gone, and doppler/tmp, unless a folder is open
 * in any tab.
 * @param {string} marker a folder of models/ without this file is a leftover
 * @returns {Promise<void>}
 */
export async function tidy(marker) {
  await navigator.locks.request(LOCK, { ifAvailable: true }, async (lock) => {
    if (!lock) return;
    const place = await navigator.storage.getDirectory();
    const top = await place.getDirectoryHandle("doppler").catch(ignoreAbsent);
    for (const name of top ? ["imports", "tmp"] : []) {
      await top?.removeEntry(name, { recursive: true }).catch(ignoreAbsent);
    }
    for (const name of await folders("models")) {
      if (!(await has(`models/${name}`, marker))) await removeFolder("models", name);
    }
    const models = new Set(await folders("models"));
    for (const name of await folders("kv")) {
      if (!models.has(name)) await removeFolder("kv", name);
    }
  });
}

/**
 * @param {string} path
 * @param {string} name
 * @returns {Promise<boolean>} whether something of that name lies there, a file or not
 */
async function has(path, name) {
  for await (const entry of (await directory(path, false)).keys()) {
    if (entry === name) return true;
  }
  return false;
}

/**
 * @param {string} path
 * @returns {Promise<number>} bytes of all files of a folder, or -1 where it is missing
 */
export async function folderSize(path) {
  try {
    const place = await directory(path, false);
    const sizes = (await files(place)).map((file) => fileSize(place, file.name));
    return (await Promise.all(sizes)).reduce((sum, size) => sum + Math.max(size, 0), 0);
  } catch (error) {
    ignoreAbsent(error);
    return -1;
  }
}
