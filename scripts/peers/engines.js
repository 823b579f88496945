/**
 * The engines as the bench uses them, each through its public way in:
 *   store(site)         first visit: the browser keeps the model where the engine keeps it
 *   load(site)          until a prompt can be taken, on a visit that has it stored
 *   complete(ids, n)    greedy, past end tokens, nothing reused from before; -> tokens written
 * site: {gguf, onnx, dtype, context}: addresses of the model's files, the ONNX file's kind, and
 * tokens of context.
 */

const PACKAGES = new URL("/peers/packages/", location.href).href;

/** One token each in every vocabulary that was met: wllama takes text only. */
const WORDS = (
  "the of and to in is that for it as was with be by on not at are this have from or had an they " +
  "which one you were all there would their we been has when who will no more if out so up said"
).split(" ");

const doppler = {
  async store({ gguf, context }) {
    await window.doppler.ready;
    await window.doppler.call("import_url", { url: gguf });
    await this.load({ context });
    await window.doppler.call("tune", {}); // as it does by itself where nothing else is asked
  },
  async load({ context }) {
    const [{ id }] = await window.doppler.call("models");
    await window.doppler.call("load", { id, context });
  },
  async complete(prompt_ids, max_tokens) {
    const sampling = { greedy: true };
    const args = { prompt_ids, max_tokens, sampling, ignore_eos: true, speculate: "off" };
    return (await window.doppler.call("complete", args)).generated_ids.length;
  },
};

const wllama = {
  async store({ gguf }) {
    await (await this.open()).modelManager.downloadModel({ url: gguf });
  },
  async load({ gguf, context }) {
    this.engine = await this.open();
    const shape = { n_ctx: context, n_parallel: 1, n_batch: 512, n_ubatch: 512 };
    await this.engine.loadModelFromUrl({ url: gguf }, shape);
  },
  async complete(ids, max_tokens) {
    const words = ids
      .slice(this.engine.mustAddBosToken() ? 1 : 0)
      .map((id) => WORDS[id % WORDS.length]);
    const greedy = { temperature: 0, top_k: 1, ignore_eos: true, cache_prompt: false };
    const prompt = words.join(" ");
    const { timings } = await this.engine.createCompletion({ prompt, max_tokens, ...greedy });
    if (timings.prompt_n !== ids.length) throw new Error(`it took ${timings.prompt_n} tokens`);
    return timings.predicted_n;
  },
  async open() {
    const { Wllama } = await import(`${PACKAGES}wllama/index.js`);
    return new Wllama({ default: `${PACKAGES}wllama/wasm/wllama.wasm` });
  },
};

const transformers = {
  async store(site) {
    await this.load(site);
    await this.model.dispose();
  },
  async load({ onnx, dtype }) {
    hideMatrixUnits();
    const { AutoModelForCausalLM, Tensor, env } = await import(
      `${PACKAGES}transformers/transformers.min.js`
    );
    const runtime = `${PACKAGES}onnxruntime/ort-wasm-simd-threaded.asyncify`;
    env.backends.onnx.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    const cut = onnx.lastIndexOf("/");
    env.localModelPath = onnx.slice(0, cut + 1);
    this.Tensor = Tensor;
    this.model = await AutoModelForCausalLM.from_pretrained(onnx.slice(cut + 1), {
      device: "webgpu",
      dtype,
    });
  },
  async complete(ids, max_new_tokens) {
    const of = (numbers) =>
      new this.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, ids.length]);
    const sequences = await this.model.generate({
      inputs: of(ids),
      attention_mask: of(ids.map(() => 1)),
      do_sample: false,
      max_new_tokens,
      min_new_tokens: max_new_tokens,
    });
    return sequences.dims[1] - ids.length;
  },
};

/**
 * Only a flag shows Chromium's matrix units to pages, and what transformers.js writes for them does
 * not compile in Chromium 150: without them it takes what it takes in every browser as it comes.
 */
function hideMatrixUnits() {
  const { get } = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, "features");
  const shown = (adapter) =>
    [...get.call(adapter)].filter((name) => !name.includes("experimental"));
  Object.defineProperty(GPUAdapter.prototype, "features", {
    configurable: true,
    get() {
      return new Set(shown(this));
    },
  });
}

const engines = { doppler, wllama, transformers };

/** A load; -> milliseconds since the page was opened, its scripts included. */
export async function load(name, site) {
  await engines[name].load(site);
  return performance.now();
}

export const store = (name, site) => engines[name].store(site);

/** -> milliseconds from the prompt to the last of `tokens` tokens. */
export async function time(name, ids, tokens) {
  const start = performance.now();
  const written = await engines[name].complete(ids, tokens);
  const ms = performance.now() - start;
  if (written !== tokens) throw new Error(`${written} tokens were written and not ${tokens}`);
  return ms;
}
