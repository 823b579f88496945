// Written by scripts/messages.py from py/doppler/api: change it there.

/** Methods by name: what each takes, gives and tells. */
export interface Methods {
  /** What the page has for a GPU. */
  device: { args: Empty; result: DeviceReport; events: UnloadedEvent };
  /** How much storage there is. */
  storage: { args: Empty; result: StorageUse; events: never };
  /** What is stored, whole or not. */
  models: { args: Empty; result: (StoredModel | DamagedModel)[]; events: never };
  /** Goes on where it was cut off. */
  download: { args: DownloadArgs; result: ModelId; events: ProgressEvent };
  /**
   * Gets a model that the page shares from the peers that have it: its manifest, verified by its
   * identity, then the rest. Goes on where it was cut off, and waits for what no peer has.
   */
  download_from_peers: { args: FromPeersArgs; result: ModelId; events: ProgressEvent };
  /**
   * Stores what `files` have that a stored model lacks: shards of it, in its cut or in that of the
   * manifest.json among them, and its tokenizer.json. Every block is verified; downloads that run
   * go on with what is left.
   */
  give_files: { args: ModelId; result: FilesTaken; events: ProgressEvent };
  /**
   * What a model is and what it takes, read from headers: of one that is stored, or of what
   * import_url or import_file would be given. What is wrong with it is an answer too.
   */
  inspect: { args: InspectArgs; result: Inspection; events: UnloadedEvent };
  /** Converts and stores the model of an address. */
  import_url: { args: ImportUrlArgs; result: ModelId; events: ProgressEvent };
  /** Converts and stores the model of `files`. */
  import_file: { args: ImportFileArgs; result: ModelId; events: ProgressEvent };
  /** Cancels what the model is answering, and waits for its end. */
  delete: { args: ModelId; result: Empty; events: UnloadedEvent };
  /**
   * Cancels what is being answered, and waits for its end; the model takes the place of the one
   * that is loaded. Nothing changes where there is no such model, or no such room.
   */
  load: { args: LoadArgs; result: LoadedModel; events: ProgressEvent | UnloadedEvent };
  /** Cancels what is being answered, and waits for its end. */
  unload: { args: Empty; result: Empty; events: UnloadedEvent };
  /** Answers the last of the messages. */
  chat: { args: ChatArgs; result: GenerationResult; events: AnswerEvent };
  /** Goes on with a prompt; what comes is text in one part. */
  complete: { args: CompleteArgs; result: GenerationResult; events: AnswerEvent };
  /** Removes what is kept of a conversation's keys and values. */
  forget: { args: ConversationName; result: Empty; events: never };
  /**
   * Waits for what begins by itself after an answer in a conversation with a name: its keys and
   * values are put into storage.
   */
  keep: { args: Empty; result: Empty; events: never };
  /**
   * The running chat or complete ends within one token, with finish_reason "cancelled"; running
   * downloads and imports end with a RequestError, and a download started again goes on from there.
   */
  cancel: { args: CancelArgs; result: Empty; events: never };
  /** A prompt as the loaded model reads it. */
  tokenize: { args: Prompt; result: TokenIds; events: never };
  /** Logits of every position of the prompt. */
  logits: { args: LogitsArgs; result: LogitsFile; events: never };
  /** The experts that each token of the prompt uses. */
  routes: { args: Prompt; result: Routing; events: never };
  /**
   * Waits for what begins by itself when a model is loaded: the kernels of matrices whose shapes
   * are new to this GPU are measured while nothing else is asked, and the best are used from then
   * on.
   */
  tune: { args: Empty; result: Tuning; events: never };
  /** What is held on the GPU; nothing where none is open. */
  memory: { args: Empty; result: Memory; events: never };
  /** Where the loaded model is, by tier and by expert, and what was brought. */
  residency: { args: Empty; result: Residency; events: never };
  /**
   * What the loaded model keeps to from now on, while an answer is written too: on the host at
   * once, and on the GPU from the next token on.
   */
  set_budgets: { args: BudgetArgs; result: BudgetsSet; events: never };
  /** How a model would run within budgets: simulated, before anything of it is loaded. */
  foresee: { args: ForeseeArgs; result: Foresight; events: never };
  /** What the dispatches have to do. */
  plan: { args: PlanArgs; result: Work[]; events: never };
  /** The same with the GPU time of each; the KV cache is lost. */
  profile: { args: PlanArgs; result: Timing[]; events: never };
  /**
   * How fast the GPU reads its memory; takes some seconds, for which others wait. Refused where the
   * loaded model's budget has no room for it.
   */
  bandwidth: { args: Empty; result: Bandwidth; events: UnloadedEvent };
  /** How fast the loaded model is read from storage, with nothing done to it. */
  storage_rate: { args: Empty; result: StorageRate; events: never };
  /** Every WGSL kernel: what it binds, its cases, and how it is compiled now. */
  kernels: { args: Empty; result: KernelReport[]; events: UnloadedEvent };
  /**
   * Runs a kernel on a case, beside its NumPy twin, or on given arrays. With `source`, that text is
   * run instead of the one that the device uses, which stays.
   */
  run_kernel: { args: RunKernelArgs; result: KernelRun; events: UnloadedEvent };
  /**
   * Makes the device that is open use another text, from the loaded model's next token on, or the
   * shipped one again. One that does not compile, or binds other things, is refused.
   */
  replace_kernel: { args: ReplaceKernelArgs; result: Empty; events: UnloadedEvent };
}

export type Empty = Record<string, never>;

/** The GPU, or why there is none. */
export interface DeviceReport {
  ok: boolean;
  /** What is missing and what to do; null when ok. */
  problem: string | null;
  /** vendor, architecture and description, as far as the browser tells. */
  adapter: Record<string, string>;
  features: string[];
  limits: Record<string, number>;
}

/** The loaded model left the GPU: by unload, delete, load, or with a device that was lost. */
export interface UnloadedEvent {
  type: "unloaded";
}

/** What the browser says of its storage for this site, in bytes. */
export interface StorageUse {
  /** What the browser tells, not a promise. */
  quota: number;
  /** Our own count of the models. */
  used: number;
  /** Whether the browser promised not to evict it. */
  persisted: boolean;
}

/** A model of which all is stored, or the beginning. */
export interface StoredModel extends Facts {
  id: string;
  /** Of its files, so far. */
  stored_bytes: number;
  complete: boolean;
  /** Address of its manifest.json; null where it was imported. */
  url: string | null;
  problem: null;
  /** What else is wrong with it, though it can be used. */
  note: string | null;
}

/** What is in a model. Bytes are of its weights. */
export interface Facts {
  name: string;
  title: string;
  architecture: string;
  /** The block type that most bytes have. */
  quantization: string;
  /** The bytes of each block type, the most first. */
  types: Record<string, number>;
  parameters: number;
  bytes: number;
  layers: number;
  experts: Experts | null;
  vocab: number;
  /** Tokens, at most. */
  context: number;
  /** Whether it has a chat template; others continue text. */
  chat: boolean;
  /** Why its chat template cannot be used; `models` does not look, `inspect` and `load` do. */
  chat_problem: string | null;
  /** Without one the model takes and gives token ids only. */
  tokenizer: boolean;
  /** Which holds for a setting that a request leaves out. */
  sampling: ModelSampling;
  license: string | null;
}

/** Of each layer: how many there are, and how many a token uses. */
export interface Experts {
  count: number;
  used: number;
}

/** How a model's files say that it is sampled; None where they say nothing. */
export interface ModelSampling {
  temperature?: number | null;
  top_k?: number | null;
  top_p?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  greedy?: boolean | null;
}

/** A stored model that cannot be used, since its manifest is damaged. */
export interface DamagedModel {
  id: string;
  name: string;
  title: string;
  stored_bytes: number;
  complete: false;
  url: string | null;
  /** Why, and what to do. */
  problem: string;
  note: null;
}

/** What to download. */
export interface DownloadArgs {
  /** Of a manifest.json, relative to the page or absolute. */
  url: string;
  /** Of what is to go on: the download fails where another model is there now. */
  id?: string;
  /**
   * Bytes of weights that may be stored. Of a larger model none are stored yet: they come when it
   * is loaded and run, each time that they are not there.
   */
  storage_budget?: number;
  /**
   * Of the shards that it is to be stored in, a multiple of its block size: another cut of the same
   * model. Left out, the cut is that in which it is stored already, or comes. What lies in shards
   * stays as it is: another cut is refused then.
   */
  shard_bytes?: number;
}

/** A stored model. */
export interface ModelId {
  id: string;
}

/** How far long work is. */
export interface ProgressEvent {
  type: "progress";
  stage: ProgressStage;
  done: number;
  total: number;
  /** Units of `done` a second. */
  rate: number;
}

/**
 * waiting: another tab, or another call, is storing the same model; when that has ended, what it
 * stored is used, or the work is done here. download and import count bytes stored; verify bytes
 * uploaded; compile kernels.
 */
export type ProgressStage = "waiting" | "download" | "import" | "verify" | "compile" | "tokenizer";

/** Which model is to come from peers: one that the page's transport has joined. */
export interface FromPeersArgs extends ModelId {
  /** As `download` takes it. */
  storage_budget?: number;
  /** As `download` takes it. */
  shard_bytes?: number;
}

/** What became of files that were given to a model. */
export interface FilesTaken extends ModelId {
  /** Whether all of it is stored now. */
  complete: boolean;
  /** Bytes of its weights that are not. */
  lacking: number;
  problems: FileProblem[];
}

/** A file that is not what it should be. */
export interface FileProblem {
  file: string;
  problem: string;
}

/**
 * Which model is meant (its id, its address, or files), and how it would be loaded.
 *
 * `context` may be more than the model's: then that is meant.
 */
export interface InspectArgs extends RoomArgs {
  /** Of a stored model. */
  id?: string;
  /** As import_url takes it. */
  url?: string;
  /** As import_file takes it. */
  folder?: string;
}

/** How a model is loaded, or would be. */
export interface RoomArgs {
  /** Tokens; the model's own maximum or less. */
  context?: number;
  /** Tokens a prefill batch. */
  batch?: number;
  /**
   * What keys and values are kept as; f16 unless the adapter is a CPU. q8: 8 bits and a scale for
   * every 32 numbers.
   */
  kv?: CacheType;
  /** What weights and activations are multiplied as; f16 where a GPU has it. Sums are f32. */
  precision?: Bits;
  /**
   * Where per-layer embeddings are: on the GPU, or in storage, of which a token's row is brought.
   * auto is the GPU, unless it has no room.
   */
  ple?: "gpu" | "host" | "auto";
  /** Bytes of GPU memory that are never exceeded: what does not fit is brought when it is used. */
  gpu_budget?: number;
  /** Bytes of the host's memory for experts, layers, keys and values that are not on the GPU. */
  host_budget?: number;
  adapter?: AdapterOverride;
}

export type CacheType = "f32" | "f16" | "q8";

export type Bits = "f16" | "f32";

/** What to take the adapter for, for tests and debugging: it decides which kernels run. */
export interface AdapterOverride {
  is_cpu?: boolean;
  subgroup_size?: number;
}

/** What a model is and what it takes. */
export interface Inspection {
  /** There are no choices then. */
  problem: ModelProblem | null;
  /** One for each quantisation, its own first. */
  choices: Choice[];
  /** null with a problem. */
  gpu: GpuLimits | null;
  /** What the repository at an address holds, where that are several models: then choose one. */
  models: Offer[];
}

/** Why a model cannot be used: an error's name and message. */
export interface ModelProblem {
  name: string;
  message: string;
}

/** A model as it can be had. */
export interface Choice extends Facts {
  quant: Quant;
  /** What it lacks, or was guessed of its files, in a sentence each; none of stored models. */
  warnings: string[];
  /** Tokens: what was asked for, or what a load chooses by itself. */
  wanted_context: number;
  /** At several lengths, rising; empty where there is no GPU. */
  fits: Fit[];
  /** For `foresee`; null where there is no GPU, or it does not take the model. */
  needs: Needs | null;
  storage: StorageNeed;
}

export type Quant = "none" | "q4_0" | "q8_0";

/**
 * What a load would hold at a context.
 *
 * How much memory a GPU has, no browser tells: its limits of a buffer and of a binding are known.
 */
export interface Fit {
  context: number;
  /** Exactly what `load` would report, but for transfers; null where it would be refused. */
  memory: Memory | null;
  /** Why it would be refused. */
  problem: string | null;
  /** The least GPU budget that it runs in; null where that is not known. */
  least: number | null;
  /** The least GPU budget in which all of it is there. */
  whole: number | null;
}

/** GPU bytes by kind, and their total. */
export type Memory = Record<string, number>;

/** What decides how fast a model runs that is not all on the GPU, as `foresee` takes it back. */
export interface Needs {
  /** Bytes that the GPU reads for a token. */
  reads: number;
  /** Kernels that it runs for one. */
  dispatches: number;
  /** Bytes of embeddings that layers have of their own: they may stay in storage. */
  table: number;
  /** In each layer that has some; 0 where none can be brought. */
  experts: number;
  /** Of them, by a token. */
  used: number;
  /** Bytes of an expert by layer, 0 in those that have none. */
  units: number[];
}

/** Bytes that storing a model takes beyond what is stored, and how many of these are free. */
export interface StorageNeed {
  needed: number;
  free: number;
}

/** What decides whether a model's buffers fit. */
export interface GpuLimits {
  /** Why there is no GPU. */
  problem: string | null;
  limits: Record<string, number>;
}

/** A model of a hub's repository, for inspect and import_url by its own address. */
export interface Offer {
  title: string;
  url: string;
  bytes: number;
  /** Files of a GGUF model; 0 for a checkpoint of safetensors. */
  parts: number;
}

/** A model of files at an address. */
export interface ImportUrlArgs extends Naming {
  /**
   * A .gguf or a part of a split one, a checkpoint's folder (config.json, .safetensors, …) or a
   * file in it, or a model hub's repository: its page's address, or ORG/NAME alone. The server of a
   * .gguf or .safetensors must answer range requests.
   */
  url: string;
}

/** How a model is stored. */
export interface Naming {
  /** What to call the model; it is called like the files else. */
  name?: string;
  /** What matrices of floats become; of a safetensors checkpoint only. */
  quant?: Quant;
}

/** With `files`: a .gguf, all parts of a split one in any order, or those of a checkpoint. */
export interface ImportFileArgs extends Naming {
  /** The name of the folder of which they are all the files, which may hold one model. */
  folder?: string;
}

/** Which stored model to load, and how. */
export interface LoadArgs extends ModelId, RoomArgs {
  /** Smaller device limits, for tests and debugging. */
  limits?: Record<string, number>;
  /**
   * Bytes of weights that may be stored from now on: of a larger model the blocks that were used
   * last. What is stored already stays until something has to come. All of it, left out.
   */
  storage_budget?: number;
}

/** The model on the GPU. */
export interface LoadedModel {
  id: string;
  title: string;
  config: Record<string, any>;
  context: number;
  /** Tokens a prefill batch, at most. */
  batch: number;
  kv: CacheType;
  precision: Bits;
  /** Where per-layer embeddings are, where there are some. */
  ple: "gpu" | "host" | null;
  chat: boolean;
  chat_problem: string | null;
  /** Without one the model takes and gives token ids only. */
  tokenizer: boolean;
  sampling: ModelSampling;
  memory: Memory;
  /** Bytes, as they were asked for. */
  gpu_budget: number | null;
  host_budget: number;
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

/** A conversation to answer. */
export interface ChatArgs extends GenerateArgs, TemplateArgs {
  /** The oldest first. */
  messages: ChatMessage[];
}

/** How an answer is written. */
export interface GenerateArgs {
  /** What it leaves out is the model's own, or else as it stands there. */
  sampling?: Sampling;
  max_tokens?: number;
  /** Texts that end the answer, where they come in it and not in the reasoning. */
  stop?: string[];
  /**
   * Drafts of what comes next, taken from what was said before and verified a few at a time: where
   * that is faster (auto, the default), always, or never. The tokens are the same, but that a batch
   * may add up a logit in another order, which decides where two tokens are equal to six digits.
   */
  speculate?: Speculate;
  /** Go on past end tokens, to compare with references that do. */
  ignore_eos?: boolean;
  /**
   * Ids of this very answer, which was cut off after them: it goes on as it would have then, where
   * prompt and sampling are the same. Events tell of what is new, the result of all.
   */
  written?: number[];
  /**
   * A name of letters, digits and -. Keys and values are kept in storage under it when the answer
   * has ended, and used by later requests of that name whose prompts begin alike.
   */
  conversation?: string;
}

/**
 * Settings of one generation, applied in the order in which they stand here.
 *
 * `repetition_penalty` divides positive (multiplies negative) logits of tokens already seen;
 * `temperature` divides logits; `top_k` keeps the k best (0: all); `top_p` the fewest whose
 * probabilities reach p; `min_p` those with at least that share of the best one's probability.
 * `greedy` takes the best logit after the penalty and needs none of the rest.
 */
export interface Sampling {
  repetition_penalty?: number;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  seed?: number;
  greedy?: boolean;
}

export type Speculate = "auto" | "on" | "off";

/** What a chat template is given beside the messages. */
export interface TemplateArgs {
  /** Refused where the template would leave them out. */
  tools?: Tool[];
  documents?: Record<string, any>[];
  /** Values of the template's own: enable_thinking, reasoning_effort, … */
  template_options?: Record<string, any>;
}

/** A tool that a model may call, as OpenAI's API has them. */
export interface Tool {
  type: "function";
  function: ToolFunction;
}

/** What a tool is to a model. */
export interface ToolFunction {
  /** Letters, digits and _ . : / - */
  name: string;
  description?: string;
  /** A JSON schema of an object. */
  parameters?: Record<string, any>;
  /** A JSON schema of what it gives, for templates that tell it. */
  response?: Record<string, any>;
  /** Given to the template, and no promise. */
  strict?: boolean;
}

/** One message of a conversation. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  /** null where tool calls stand in its place; of several parts, the texts are joined by lines. */
  content: string | ContentPart[] | null;
  reasoning_content?: string;
  /** As answers have them, without `raw` too; arguments may also be JSON text. */
  tool_calls?: Record<string, any>[];
  /** Of the call that a tool's message is the result of. */
  tool_call_id?: string;
  name?: string;
}

/** A text of several. */
export interface ContentPart {
  type: "text";
  text: string;
}

/** What an answer or a continuation came to. */
export interface GenerationResult {
  /** The answer alone. */
  text: string;
  tool_calls: MessageToolCall[];
  /** What is odd in the answer, in a sentence each: a call in its text could not be read. */
  notes: string[];
  /** What the model thought before, as far as it came; null where there is none. */
  reasoning_content: string | null;
  finish_reason: AnswerEnd;
  prompt_ids: number[];
  generated_ids: number[];
  /** Of the prompt: tokens whose keys and values were still there. */
  reused_tokens: number;
  /** Oldest messages left out so that the rest fits. */
  dropped_messages: number;
  timings: Speed;
  drafts: Drafts;
  /** Of this answer; null where the whole model is on the GPU. */
  paging: Paging | null;
  memory: Memory;
}

/** A call that a model wrote; a message of the assistant may have it in its tool_calls. */
export interface MessageToolCall {
  /** 9 letters and digits, for the tool_call_id of the message with the tool's result. */
  id: string;
  type: "function";
  function: CalledFunction;
  /** What the model wrote, with its markers; of several between two markers the first has it. */
  raw: string;
}

/** A tool, and what it is called with. */
export interface CalledFunction {
  name: string;
  arguments: Record<string, any>;
}

/** tool_calls: the model stopped after a call, and waits for its result. */
export type AnswerEnd = FinishReason | "tool_calls";

export type FinishReason = "stop" | "length" | "cancelled" | "context";

/** Of one answer. */
export interface Speed {
  /** Milliseconds to the first token. */
  ttft_ms: number;
  prefill_tok_s: number;
  decode_tok_s: number;
}

/** Batches with drafts that were run, and the tokens that came of them: 1 to 8 a batch. */
export interface Drafts {
  batches: number;
  tokens: number;
}

/**
 * What it took that a mixture's experts are not all on the GPU, or a dense model's layers, or their
 * keys and values.
 */
export interface Paging {
  /** Bytes, as they were set. */
  gpu_budget: number | null;
  host_budget: number;
  /** Experts that have room on the GPU, of all layers. */
  slots: number;
  /** That there are in these layers. */
  experts: number;
  /** Uses of an expert by a token that found it there. */
  hits: number;
  /** Experts that were brought because they were missing. */
  misses: number;
  /** Experts that were brought since the router of the layer before chose them. */
  ahead: number;
  /** Times that a token or batch went on from a router, when they had come. */
  replays: number;
  /** Milliseconds from when a halt of a token was known until it was queued again. */
  halted_ms: number;
  /** Layers of a dense model that are brought for every token or batch: the last ones. */
  layers: number;
  /** Layers of a dense model whose keys and values lie in host memory. */
  kv_layers: number;
  /** Bytes of these that were brought to the GPU. */
  kv_brought: number;
  /** Bytes of these that were read back, of new tokens. */
  kv_read: number;
  bytes: Tiers;
  waited_ms: Tiers;
  /** Held in the host's memory now. */
  host_bytes: number;
}

/** A number for each place that weights come from: the host's memory, storage, an address. */
export interface Tiers {
  host: number;
  storage: number;
  remote: number;
}

export type AnswerEvent = PrefillEvent | TokenEvent | ToolCallEvent;

/** How much of the prompt is read. */
export interface PrefillEvent {
  type: "prefill";
  /** Tokens of the prompt. */
  done: number;
  total: number;
}

/** A token was generated, or text of earlier ones has become certain. */
export interface TokenEvent {
  type: "token";
  /** null: text that was held back, at the end. */
  id: number | null;
  text: string;
  /** Tokens generated so far. */
  n: number;
  /**
   * What a model thinks before it answers, the answer, or a call of a tool as it is written;
   * complete has answers only.
   */
  part: Part;
}

export type Part = "answer" | "reasoning" | "tool_call";

/**
 * A call has been written whole and could be read. Its text came before, in parts tool_call; where
 * these end without this event, it comes again as text.
 */
export interface ToolCallEvent {
  type: "tool_call";
  /** Among the calls of the answer, from 0. */
  index: number;
  call: MessageToolCall;
}

/** A prompt to go on with. */
export interface CompleteArgs extends GenerateArgs, Prompt {}

/** What is to be read: a text, token ids, or messages as the chat template writes them. */
export interface Prompt extends TemplateArgs {
  prompt?: string;
  prompt_ids?: number[];
  messages?: ChatMessage[];
}

/** A conversation, by the name that requests gave. */
export interface ConversationName {
  conversation: string;
}

/** What is to end; all of it where nothing is said. */
export interface CancelArgs {
  what?: "answer" | "transfers";
}

/** A prompt as the model reads it. */
export interface TokenIds {
  ids: number[];
}

/** A prompt to read. */
export interface LogitsArgs extends Prompt {
  /** Tokens a prefill batch. */
  batch?: number;
}

/** Where logits were written. */
export interface LogitsFile {
  prompt_ids: number[];
  rows: number;
  vocab: number;
  /** In the OPFS folder doppler/tmp: float32 [rows, vocab]. */
  file: string;
}

/** Which experts a mixture's tokens use. */
export interface Routing {
  prompt_ids: number[];
  /** Of each token, of each layer: numbers of experts; none where a layer has no router. */
  tokens: number[][][];
}

/** What became of measuring. */
export interface Tuning {
  /** Kinds of matrices that were not measured: the GPU's budget has no room for it. */
  refused: number;
}

/** Where the loaded model is now, and what brings the rest of it. */
export interface Residency {
  memory: Memory;
  /** Bytes, as they were asked for. */
  gpu_budget: number | null;
  host_budget: number;
  /** Held in the host's memory. */
  host_bytes: number;
  host_peak: number;
  /** Of the model, as it is stored. */
  bytes: number;
  /** Since it was loaded; null where all of it is on the GPU. */
  paging: Paging | null;
  last: Answered | null;
  layers: LayerExperts[];
}

/** What the last answer took. */
export interface Answered {
  /** Tokens of its prompt that were computed. */
  read: number;
  written: number;
  reading: Paging;
  writing: Paging;
}

/** Of a layer that has room for some of its experts. */
export interface LayerExperts {
  layer: number;
  /** Of each expert, since the model was loaded. */
  uses: number[];
  /** Numbers of those that are on the GPU now. */
  resident: number[];
}

/**
 * Budgets that the loaded model keeps to from now on, in bytes: null is what a load takes by
 * itself, and one that is left out stays as it is.
 */
export interface BudgetArgs {
  gpu_budget?: number | null;
  host_budget?: number | null;
}

/** What became of them. */
export interface BudgetsSet {
  /**
   * Whether the model has to be loaded again with them, since more or less of it would be on the
   * GPU. Where a mixture has some of its experts there, they come and go at once.
   */
  load: boolean;
}

/** A model, as `inspect` tells of it, and budgets. */
export interface ForeseeArgs {
  needs: Needs;
  /** Bytes, as a `Fit` has them; `whole` too. */
  least: number;
  whole: number;
  gpu_budget: number;
  /** As a load takes it; left out, what that takes by itself. */
  host_budget?: number;
  /** What `bandwidth` measured of the GPU. */
  gb_s?: number;
}

/** How a model would run within budgets, by the model of cost of docs/paging.md. */
export interface Foresight {
  way: Way;
  /** The share of experts, or of what would be whole, that is on the GPU. */
  resident: number;
  /** Of the uses of an expert, those that would find it there. */
  hit_rate: number | null;
  /** Bytes a token. */
  brought: number;
  /** null where that is not known: without `gb_s`, or for the way `table`. */
  tok_s: number | null;
}

/**
 * All of a model on the GPU; all but embeddings that layers have of their own; with some of its
 * experts there, and the others brought; with layers, or keys and values, brought for every token;
 * or not at all.
 */
export type Way = "whole" | "table" | "experts" | "layers" | "none";

/** The dispatches of a token after `tokens` of context, or of a prefill batch. */
export interface PlanArgs {
  tokens?: number;
  batch?: number;
}

/** What one dispatch cannot do without: `bytes` of weights and keys read, `flops`. */
export interface Work {
  label: string;
  kernel: string;
  bytes: number;
  flops: number;
}

/** All `count` dispatches of a kind together. `us`: median microseconds of GPU time. */
export interface Timing extends Work {
  count: number;
  us: number;
}

/** `gb_s` of reading `bytes` at once, timed by the GPU's own clock or by the page's. */
export interface Bandwidth {
  bytes: number;
  gb_s: number;
  by: "timestamps" | "clock";
}

/** `gb_s` of reading all `bytes` of a model from where they are stored, and nothing else. */
export interface StorageRate {
  bytes: number;
  gb_s: number;
}

/** A kernel, as its text says. */
export interface KernelReport {
  name: string;
  /** Its text, relative to the page. */
  file: string;
  /** Files that are put before it. */
  uses: string[];
  bindings: BindingReport[];
  /** Constants that a dispatch gives. */
  overrides: string[];
  /** Fields of Params and their types. */
  params: Record<string, string>;
  cases: CaseReport[];
  /** Those that are compiled. */
  variants: VariantReport[];
  /** Files of it whose text is not the shipped one. */
  replaced: string[];
}

/** `var<…> name` of a kernel. */
export interface BindingReport {
  name: string;
  access: Access;
  /** Whether a dispatch may go without it, where its constants say so. */
  optional: boolean;
}

export type Access = "uniform" | "read-only-storage" | "storage";

/** A case that the kernel can be run on, by name. */
export interface CaseReport {
  name: string;
  /** Features without which a device refuses it. */
  needs: string[];
}

/** A kernel as it was compiled. */
export interface VariantReport {
  constants: Record<string, number>;
  /** The optional bindings that it does without. */
  absent: string[];
}

/** What a kernel is to be run on: a case of it, or arrays. */
export interface RunKernelArgs extends EditedKernel {
  /** The name of a case, which has everything else. */
  case?: string;
  /** A value of each override. */
  constants?: Record<string, number>;
  /** What each binding holds, by its name, also those that are only written. */
  arrays?: Record<string, GivenArray>;
  /** A value of each field of Params. */
  params?: Record<string, number>;
  /** The arrays that are told after the run. */
  outputs?: string[];
  /** For how many tokens workgroups are started; 1 by default. */
  tokens?: number;
}

/** A kernel, and a text of its own. */
export interface EditedKernel {
  kernel: string;
  /** WGSL, whose `// uses:` lines count as in the shipped files. */
  source?: string;
  /** The file that `source` is the text of, if not the kernel's: one that it uses. */
  file?: string;
}

/** What a binding holds at first; zeros where no data are given. */
export interface GivenArray {
  dtype: NumberType;
  shape: number[];
  /** The numbers in row-major order, or their little-endian bytes in base64. */
  data?: Real[] | string;
}

export type NumberType = "f32" | "f16" | "u32" | "i32" | "u8";

/** A number; those that JSON has none for are texts. */
export type Real = number | "NaN" | "Infinity" | "-Infinity";

/** What came of running a kernel. */
export interface KernelRun {
  kernel: string;
  case: string | null;
  /** Whether all outputs are within the case's margins; null for given arrays. */
  within: boolean | null;
  outputs: Record<string, OutputReport>;
  /** Microseconds of GPU time, the median of some runs; null where the adapter has no clock. */
  us: number | null;
  /** What the compiler had to say. */
  messages: CompilerMessage[];
}

/** An array after a run. */
export interface OutputReport {
  dtype: string;
  shape: number[];
  /** A few of its values, in row-major order. */
  first: Real[];
  /** null for given arrays, which have no twin. */
  errors: OutputErrors | null;
  /** Of given arrays: all of it, little-endian in base64. */
  data: string | null;
}

/**
 * An output beside its NumPy twin's.
 *
 * Errors are relative to a scale of the case's; "Infinity" where what is to stay as it was has
 * changed, or something is no number.
 */
export interface OutputErrors {
  max: Real;
  rms: Real;
  margin: number;
  /** Whether `max` is within the margin. */
  within: boolean;
  /** Index of the largest error. */
  worst: number[];
  /** What is there. */
  got: Real;
  /** What should be. */
  expected: Real;
}

/** What the compiler says of a kernel: `line` and `column` (from 1 on) of `file`. */
export interface CompilerMessage {
  kind: "error" | "warning" | "info";
  file: string;
  line: number;
  column: number;
  text: string;
}

/** What is to be put in the place of a kernel's text: the shipped one, without `source`. */
export interface ReplaceKernelArgs extends EditedKernel {}
