/**
 * The protocol between the page and worker.js: `call(method, args, onEvent, files)`. Methods are
 * those of py/doppler/api.py; a rejected call has an Error whose name is a class of
 * py/doppler/errors.py ("CorruptError") or "InternalError", and whose message is for people.
 */

/** What comlink exposes of worker.js. */
export interface DopplerWorker {
  /** Loads Python and Doppler; a second call waits for the first. */
  boot(onEvent?: OnEvent, stops?: SharedArrayBuffer | null): Promise<Stage[]>;
  call<M extends Method>(
    method: M,
    args: Methods[M]["args"],
    onEvent?: OnEvent | null,
    files?: File[] | null,
  ): Promise<Methods[M]["result"]>;
  /** Answers when nothing else is being done; the lock is held until the worker ends. */
  live(lock: string): Promise<void>;
  /** Runs Python in the worker: for the console. */
  run(code: string): Promise<any>;
}

export type OnEvent = (event: DopplerEvent) => void;
export type Method = keyof Methods;

export type DopplerEvent = BootEvent | ProgressEvent | PrefillEvent | TokenEvent | UnloadedEvent;

export interface BootEvent {
  type: "boot";
  stage: "python" | "image" | "ready";
  done: number;
  total: number;
}

export interface ProgressEvent {
  type: "progress";
  /**
   * waiting: another tab, or another call, is storing the same model; when that has ended, what it
   * stored is used, or the work is done here. download and import count bytes stored; verify bytes uploaded; compile kernels. */
  stage: "waiting" | "download" | "import" | "verify" | "compile" | "tokenizer";
  done: number;
  total: number;
  /** Units of `done` a second. */
  rate: number;
}

/** The loaded model left the GPU: by unload, delete, load, or with a device that was lost. */
export interface UnloadedEvent {
  type: "unloaded";
}

export interface PrefillEvent {
  type: "prefill";
  /** Tokens of the prompt. */
  done: number;
  total: number;
}

export interface TokenEvent {
  type: "token";
  /** null: text that was held back, at the end. */
  id: number | null;
  text: string;
  /** Tokens generated so far. */
  n: number;
  /** What a model thinks before it answers, or the answer; complete has answers only. */
  part: "answer" | "reasoning";
}

export interface Methods {
  device: { args: Empty; result: Device };
  storage: { args: Empty; result: StorageUse };
  models: { args: Empty; result: StoredModel[] };
  /**
   * `url` of a manifest.json, relative to the page or absolute. Goes on where it was cut off; with
   * the `id` of what is to go on, it fails where another model is there now.
   */
  download: { args: { url: string; id?: string }; result: ModelId };
  /**
   * What a model is and what it takes, read from headers: of one that is stored (`id`), or of what
   * import_url or import_file would be given. What is wrong with it is an answer too. `context` may
   * be more than the model's: then that is meant.
   */
  inspect: {
    args: (ModelId | Address | Files) & Omit<LoadArgs, "id" | "limits">;
    result: Inspection;
  };
  import_url: { args: Address & Naming; result: ModelId };
  import_file: { args: Files & Naming; result: ModelId };
  /** A running chat or complete is cancelled by delete (of its model), load and unload, which wait. */
  delete: { args: ModelId; result: Empty };
  load: { args: LoadArgs; result: LoadedModel };
  unload: { args: Empty; result: Empty };
  chat: { args: GenerateArgs & Conversation; result: Generation };
  complete: { args: GenerateArgs & Prompt; result: Generation };
  /**
   * The running chat or complete ends within one token, with finish_reason "cancelled"; running
   * downloads and imports end with a RequestError, and a download started again goes on from there.
   * `what` spares the other kind.
   */
  cancel: { args: { what?: "answer" | "transfers" }; result: Empty };
  tokenize: { args: Prompt | Conversation; result: { ids: number[] } };
  /** Logits of every position of the prompt, float32 rows in the OPFS file doppler/tmp/`file`. */
  logits: {
    args: (Prompt | Conversation) & { batch?: number };
    result: { prompt_ids: number[]; rows: number; vocab: number; file: string };
  };
  /**
   * Waits for what begins by itself when a model is loaded: the kernels of matrices whose shapes are
   * new to this GPU are measured while nothing else is asked, and the best are used from then on.
   */
  tune: { args: Empty; result: Empty };
  memory: { args: Empty; result: Memory };
  /** The dispatches of a token after `tokens` of context, or of a prefill batch. */
  plan: { args: { tokens?: number; batch?: number }; result: Work[] };
  /** The same with the GPU time of each; the KV cache is lost. */
  profile: { args: { tokens?: number; batch?: number }; result: Timing[] };
  /** How fast the GPU reads its memory; takes some seconds. */
  bandwidth: { args: Empty; result: Bandwidth };
  /** Names of the WGSL kernels. */
  kernels: { args: Empty; result: string[] };
}

/** One dispatch: bytes of weights and keys that it has to read, floating-point operations. */
export interface Work {
  label: string;
  kernel: string;
  bytes: number;
  flops: number;
}

/** All dispatches of a kind together. */
export interface Timing extends Work {
  count: number;
  /** Microseconds of GPU time. */
  us: number;
}

export interface Bandwidth {
  /** Bytes that were read at once. */
  bytes: number;
  gb_s: number;
  /** What it was timed by: the GPU's own clock, or the page's. */
  by: "timestamps" | "clock";
}

export type Empty = Record<string, never>;

export interface ModelId {
  id: string;
}

/**
 * A .gguf or a part of a split one, a checkpoint's folder (config.json, .safetensors, …) or a file
 * in it, or a model hub's repository: its page's address, or ORG/NAME alone. The server of a .gguf or .safetensors must answer range requests.
 */
export interface Address {
  url: string;
}

/**
 * With `files`: a .gguf, all parts of a split one in any order, or the files of a checkpoint.
 * `folder` is the name of the folder of which they are all the files, which may hold one model.
 */
export interface Files {
  folder?: string;
}

export interface Naming {
  /** What to call the model; it is called like the files else. */
  name?: string;
  /** What matrices of floats become; of a safetensors checkpoint only. */
  quant?: Quant;
}

export type Quant = "none" | "q4_0" | "q8_0";

/** What is in a model. Bytes are of its weights. */
export interface Facts {
  name: string;
  title: string;
  architecture: string;
  /** The block type that most bytes have, and the bytes of each, the most first. */
  quantization: string;
  types: Record<string, number>;
  parameters: number;
  bytes: number;
  layers: number;
  experts: { count: number; used: number } | null;
  vocab: number;
  /** Tokens, at most. */
  context: number;
  /** Whether it has a chat template; others continue text. */
  chat: boolean;
  /** Why its chat template cannot be used; `models` does not look, `inspect` and `load` do. */
  chat_problem: string | null;
  /** Without one the model takes and gives token ids only. */
  tokenizer: boolean;
  license: string | null;
}

export interface Inspection {
  /** Why the model cannot be used, as an error's name and message; there are no choices then. */
  problem: { name: string; message: string } | null;
  /** The model as it can be had: one choice for each quantisation, its own first. */
  choices: Choice[];
  /** What decides whether its buffers fit; `problem`: why there is no GPU. Null with a problem. */
  gpu: { problem: string | null; limits: Record<string, number> } | null;
  /** What the repository at an address holds, where that are several models: then choose one. */
  models: Offer[];
}

/** A model of a hub's repository, for inspect and import_url by its own address. */
export interface Offer {
  title: string;
  url: string;
  bytes: number;
  /** Files of a GGUF model; 0 for a checkpoint of safetensors. */
  parts: number;
}

export interface Choice extends Facts {
  quant: Quant;
  /** What it lacks, or was guessed of its files, in a sentence each; none of stored models. */
  warnings: string[];
  /** Tokens: what was asked for, or what a load chooses by itself. */
  wanted_context: number;
  /** What a load would hold at several lengths, rising; empty where there is no GPU. */
  fits: Fit[];
  /** Bytes that storing it takes beyond what is stored, and how many of these are free. */
  storage: { needed: number; free: number };
}

/** How much memory a GPU has, no browser tells: its limits of a buffer and of a binding are known. */
export interface Fit {
  context: number;
  /** Exactly what `load` would report, but for transfers; null where it would be refused. */
  memory: Memory | null;
  /** Why it would be refused. */
  problem: string | null;
}

export interface Device {
  ok: boolean;
  /** What is missing and what to do; null when ok. */
  problem: string | null;
  adapter: { vendor?: string; architecture?: string; description?: string };
  features: string[];
  limits: Record<string, number>;
}

/** Bytes; `used` is our own count of the models. */
export interface StorageUse {
  quota: number;
  used: number;
  /** Whether the browser promised not to evict it. */
  persisted: boolean;
}

export interface StoredModel extends Facts {
  id: string;
  /** Of its files, so far. */
  stored_bytes: number;
  complete: boolean;
  /** Address of its manifest.json; null where it was imported. */
  url: string | null;
  /** Why a stored model cannot be used (its manifest is damaged); then the facts are missing. */
  problem: string | null;
  /** What else is wrong with it, though it can be used. */
  note: string | null;
}

export interface LoadArgs {
  id: string;
  /** Tokens; the model's own maximum or less. */
  context?: number;
  /** Tokens a prefill batch. */
  batch?: number;
  /** What keys and values are kept as; f16 unless the adapter is a CPU. */
  kv?: "f16" | "f32";
  /** What weights and activations are multiplied as; f16 where a GPU has it. Sums are f32. */
  precision?: "f16" | "f32";
  /** What to take the adapter for, for tests and debugging: it decides which kernels run. */
  adapter?: { is_cpu?: boolean; subgroup_size?: number };
  /** Smaller device limits, for tests and debugging. */
  limits?: Record<string, number>;
}

export interface LoadedModel {
  id: string;
  title: string;
  config: Record<string, any>;
  context: number;
  /** Tokens a prefill batch, at most. */
  batch: number;
  kv: "f16" | "f32";
  precision: "f16" | "f32";
  chat: boolean;
  chat_problem: string | null;
  /** Without one the model takes and gives token ids only. */
  tokenizer: boolean;
  memory: Memory;
  /** Milliseconds by stage; stages overlap. */
  timings: Record<string, number>;
  timeline: Stage[];
}

/** A stage of a start, in milliseconds since 1970. */
export interface Stage {
  stage: string;
  start: number;
  end: number;
}

/** GPU bytes by kind. */
export type Memory = Record<string, number>;

export interface Message {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  /** null where tool calls stand in its place; of several parts, the texts are joined by lines. */
  content: string | { type: "text"; text: string }[] | null;
  reasoning_content?: string;
  /** As a template reads them; arguments may be an object or JSON text. */
  tool_calls?: object[];
  tool_call_id?: string;
  name?: string;
}

/** What the chat template is given. */
export interface Conversation {
  messages: Message[];
  tools?: object[];
  documents?: object[];
  /** Values of the template's own: enable_thinking, reasoning_effort, … */
  template_options?: Record<string, unknown>;
}

export type Prompt = { prompt: string } | { prompt_ids: number[] };

export interface Sampling {
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  repetition_penalty?: number;
  seed?: number;
  greedy?: boolean;
}

export interface GenerateArgs {
  sampling?: Sampling;
  max_tokens?: number;
  /** Texts that end the answer, where they come in it and not in the reasoning. */
  stop?: string[];
  /**
   * Drafts of what comes next, taken from what was said before and verified a few at a time: where
   * that is faster (auto, the default), always, or never. The tokens are the same, but that a batch
   * may add up a logit in another order, which decides where two tokens are equal to six digits.
   */
  speculate?: "auto" | "on" | "off";
}

export interface Generation {
  /** The answer alone. */
  text: string;
  /** What the model thought before, as far as it came; null where there is none. */
  reasoning_content: string | null;
  finish_reason: "stop" | "length" | "cancelled" | "context";
  prompt_ids: number[];
  generated_ids: number[];
  /** Of the prompt: tokens whose keys and values were still there. */
  reused_tokens: number;
  /** Oldest messages left out so that the rest fits. */
  dropped_messages: number;
  timings: { ttft_ms: number; prefill_tok_s: number; decode_tok_s: number };
  /** Batches with drafts that were run, and the tokens that came of them: 1 to 8 a batch. */
  drafts: { batches: number; tokens: number };
  memory: Memory;
}
