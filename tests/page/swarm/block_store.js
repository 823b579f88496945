// The worker's end of web/swarm/port.d.ts for tests of the transport: blocks in OPFS, and BLAKE3.
// What a test does with it besides comes as messages of the worker itself, answered in their order.

import { blake3 } from "/vendor/hash-wasm.js";

const models = new Map(); // identity -> Model
const utf8 = new TextDecoder();
let port = null;
// How this peer misbehaves: `corrupt`: bytes of every second block that it gives; `mute`: blocks are
// given when it ends; `empty`: they are refused.
let fault = null;
const held = [];

class Model {
  manifest = null;
  tokenizer = null;
  blocks = new Map(); // block -> bytes
  wants = { urgency: "idle", blocks: null };
  written = []; // [block, peer, good]
  joined = false;

  constructor(identity) {
    this.identity = identity;
  }

  get description() {
    return this.manifest && JSON.parse(utf8.decode(this.manifest)).description;
  }

  async folder() {
    const root = await navigator.storage.getDirectory();
    return root.getDirectoryHandle(this.identity, { create: true });
  }

  async keep(name, bytes) {
    const file = await (await this.folder()).getFileHandle(name, { create: true });
    const handle = await file.createSyncAccessHandle();
    handle.truncate(0);
    handle.write(bytes);
    handle.close();
  }

  async restore() {
    for await (const [name, file] of (await this.folder()).entries()) {
      const bytes = await (await file.getFile()).arrayBuffer();
      if (name.endsWith(".json")) this[name.split(".")[0]] = new Uint8Array(bytes);
      else this.blocks.set(Number(name), new Uint8Array(bytes));
    }
  }

  message() {
    const { description, identity } = this;
    if (!description) return { type: "model", identity, layout: null, have: new ArrayBuffer(0) };
    const { block_size, bytes, blocks, tokenizer } = description;
    const have = new Uint8Array(Math.ceil(blocks.length / 8));
    for (const block of this.blocks.keys()) have[block >> 3] |= 128 >> (block & 7);
    const layout = {
      block_size,
      bytes,
      shards: JSON.parse(utf8.decode(this.manifest)).shards,
      manifest_bytes: this.manifest.length,
      tokenizer: tokenizer && { bytes: tokenizer.bytes, stored: this.tokenizer !== null },
    };
    return { type: "model", identity, layout, have: have.buffer };
  }

  tell() {
    port.postMessage(this.message());
    if (this.description && this.wants.blocks !== "none") this.want();
  }

  want() {
    const all = this.description.blocks.map((_, block) => block);
    const blocks = (this.wants.blocks ?? all).filter((block) => !this.blocks.has(block));
    const { identity } = this;
    port.postMessage({ type: "want", identity, blocks, urgency: this.wants.urgency });
  }
}

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const fields = Object.keys(value).sort();
  return `{${fields.map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

async function check(model, name, bytes) {
  if (name === "tokenizer.json") return (await blake3(bytes)) === model.description.tokenizer.blake3;
  const { description } = JSON.parse(utf8.decode(bytes));
  return (await blake3(canonical(description))) === model.identity;
}

const answers = {
  async join(model) {
    await model.restore();
    model.joined = true;
    model.tell();
  },
  leave(model) {
    model.joined = false;
  },
  read(model, { id, block }) {
    if (fault === "mute") return void held.push([model, { id, block }]);
    const bytes = fault === "empty" ? undefined : model.blocks.get(block)?.slice();
    if (bytes && fault === "corrupt" && block % 2) bytes[bytes.length - 1] ^= 1;
    port.postMessage({ type: "data", id, bytes: bytes?.buffer ?? null });
  },
  read_file(model, { id, name, start, end }) {
    const bytes = model[name.split(".")[0]]?.slice(start, end);
    port.postMessage({ type: "data", id, bytes: bytes?.buffer ?? null });
  },
  async write(model, { block, bytes, from }) {
    const { identity } = model;
    const data = new Uint8Array(bytes);
    const good = (await blake3(data)) === model.description.blocks[block];
    model.written.push([block, from, good]);
    if (!good) return port.postMessage({ type: "blame", identity, block, file: null });
    model.blocks.set(block, data);
    await model.keep(String(block), data);
    port.postMessage({ type: "done", identity, block, stored: true, for_others: false });
  },
  async file(model, { name, bytes }) {
    const { identity } = model;
    const data = new Uint8Array(bytes);
    const good = await check(model, name, data);
    if (!good) return port.postMessage({ type: "blame", identity, block: null, file: name });
    model[name.split(".")[0]] = data;
    await model.keep(name, data);
    model.tell();
  },
  seen(model, { peers, copies }) {
    model.seen = { peers, copies: [...new Uint8Array(copies)] };
  },
};

const modelOf = (identity) => {
  if (!models.has(identity)) models.set(identity, new Model(identity));
  return models.get(identity);
};

let turn = Promise.resolve(); // one message after another, as they came

function onPort({ data }) {
  turn = turn.then(() => answers[data.type](modelOf(data.identity), data));
}

// What tests ask for.
const commands = {
  port({ port: end }) {
    port = end;
    port.onmessage = onPort;
  },
  /** Stores files of an address, and some blocks of them: as if they had come over HTTP. */
  async fill({ identity, url, blocks }) {
    const model = modelOf(identity);
    for (const name of ["manifest.json", "tokenizer.json"]) {
      const bytes = new Uint8Array(await (await fetch(`${url}${name}`)).arrayBuffer());
      model[name.split(".")[0]] = bytes;
      await model.keep(name, bytes);
    }
    const { block_size, bytes: total } = model.description;
    const weights = new Uint8Array(await (await fetch(`${url}weights.bin`)).arrayBuffer());
    if (weights.length !== total) throw new Error(`${weights.length} bytes are not ${total}`);
    for (const block of blocks ?? model.description.blocks.keys()) {
      const bytes = weights.slice(block * block_size, (block + 1) * block_size);
      model.blocks.set(block, bytes);
      await model.keep(String(block), bytes);
    }
  },
  want({ identity, ...wants }) {
    const model = modelOf(identity);
    model.wants = wants;
    if (model.joined && model.description) model.want();
  },
  async lose({ identity, blocks }) {
    const model = modelOf(identity);
    for (const block of blocks) model.blocks.delete(block);
    port.postMessage({ type: "lost", identity, blocks });
  },
  fault({ fault: kind }) {
    fault = kind;
    for (const [model, question] of held.splice(0)) answers.read(model, question);
  },
  async state({ identity }) {
    const { blocks, description, written, seen, tokenizer } = modelOf(identity);
    const good = description && tokenizer && blocks.size === description.blocks.length;
    for (const [block, bytes] of good ? blocks : []) {
      if ((await blake3(bytes)) !== description.blocks[block]) throw new Error(`${block} is bad`);
    }
    return { have: blocks.size, whole: Boolean(good), written, seen };
  },
};

self.onmessage = ({ data }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ number: data.number, value: await commands[data.command](data) });
    } catch (error) {
      self.postMessage({ number: data.number, error: String(error) });
    }
  });
};
