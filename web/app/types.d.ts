// What the page keeps and shows. What crosses to the worker is in ../runtime: messages.d.ts and
// worker.d.ts.

import type {
  CacheType,
  DeviceReport,
  GenerationResult,
  Methods,
  Naming,
  Sampling,
  Stage,
} from "../runtime/messages.js";
import type { OnEvent } from "../runtime/worker.js";

export type * from "../runtime/messages.js";
export type * from "../runtime/worker.js";

/** What can be said of sampling by a model's files. */
export type OwnSampling = Required<Omit<Sampling, "seed">>;

/**
 * A seed of null is drawn afresh for every answer; a context of null is the engine's choice, and so is
 * what keys and values are kept as (`kv`); any other null is of sampling: the model's own, or the page's
 * where its files say nothing.
 */
export type Settings = { [K in keyof OwnSampling]: OwnSampling[K] | null } & {
  seed: number | null;
  /** of how settings are kept */
  form: number;
  max_tokens: number;
  context: number | null;
  kv: CacheType | null;
  /** in bytes; null: the engine's choice */
  gpu_budget: number | null;
  host_budget: number | null;
  /** of weights of one model; null: all of them */
  storage_budget: number | null;
  /** addresses, one a line; null: the page's own tracker */
  trackers: string | null;
  /** one a line: its URL, and where it wants them a user name and a password; null: none */
  ice_servers: string | null;
  system: string;
};

/** Where a link says that a model's peers are; either list may be empty. */
export type Linked = {
  /** addresses */
  trackers: string[];
  /** infohashes of its cuts */
  torrents: string[];
};

/** What a person allowed of sharing. Models are called by their ids, which are their identities. */
export type Sharing = {
  /** those that others are given */
  models: string[];
  /** of those that a link named */
  links: Record<string, Linked>;
  /** bytes a second that others are given, of all models together; null: no limit */
  rate: number | null;
  /** the same in bytes a day */
  volume: number | null;
  /** of each block that few have; 0: nothing is got for others */
  copies: number;
};

/** A model of the server's models.json (`url` of a manifest) or catalogue.json (`gguf`). */
export type OfferedModel = {
  name: string;
  title?: string;
  about?: string;
  id?: string;
  url?: string;
  gguf?: string;
  bytes?: number;
  /** whether `bytes` is only about right */
  approximate?: boolean;
  quantization?: string;
  parameters?: number;
  license?: string | null;
  kind?: "base" | "chat";
  chat?: boolean;
};

/** A model that is stored, or a damaged one. */
export type Listed = Methods["models"]["result"][number];

/** A row of the model list. */
export type Entry = {
  name: string;
  title: string;
  about: string | null;
  group: "stored" | "server" | "catalogue";
  bytes: number | null;
  approximate: boolean;
  parameters: number | null;
  quantization: string | null;
  license: string | null;
  chat: boolean | null;
  stored: Listed | null;
  source: Source | null;
};

/** Where a model comes from, when it is not all here. */
export type Source =
  | { kind: "manifest"; url: string; id?: string }
  | { kind: "peers"; id: string }
  | ({ kind: "address"; url: string } & Naming)
  | ({ kind: "files"; files: File[]; folder: string | null } & Naming);

export type Call = { method: string; args: Record<string, unknown> };

export type Failure = { name: string; message: string };

export type Stats = { tokens: number; reused: number; rate: number; first: number; seed: number };

/** What an answer that was cut off goes on from: what it was asked with, and its ids so far. */
export type Journal = {
  /** the stored model that writes it */
  model: string;
  sampling: Sampling;
  max_tokens: number;
  ids: number[];
};

/** A tool that a model called; `raw` is what it wrote. */
export type Called = { name: string; arguments: Record<string, any>; raw: string };

/** One version of a message. Messages with one parent are versions of each other. */
export type Message = {
  id: string;
  /** id of the message that it follows; null: it begins the conversation */
  parent: string | null;
  /** in ms: of two versions the earlier comes first */
  created: number;
  /** in ms: of two states of one message the newer holds */
  updated: number;
  role: "user" | "assistant";
  content: string;
  /** what the model thought before it answered */
  reasoning?: string;
  /** calls of tools, in order */
  calls?: Called[];
  /** the call that is being written, or was when it ended */
  calling?: string;
  /** what is odd in the answer */
  notes?: string[];
  /** ms that it thought */
  thought?: number;
  model?: string;
  /** null while it is being written, and for ever if the tab was closed then */
  finish?: GenerationResult["finish_reason"] | "error" | null;
  failure?: Failure;
  /** until the answer has ended by itself, or was stopped; also where a context had no room for more */
  journal?: Journal;
  dropped?: number;
  stats?: Stats;
  /** of a continuation: which text it follows (continuations.js) */
  follows?: string;
  /** deleted: nothing but its place is kept, so that no other tab brings it back */
  gone?: boolean;
};

/** Characters [start, end) of a text that the model wrote. */
export type Range = { start: number; end: number };

/** Where the last continuation stands, or stood; id of its message, which may not be kept yet. */
export type Place = Range & { shown: string | null };

/** What is changed as one; where two tabs differ, the part that was stamped later holds. */
export type Part = "title" | "system" | "text" | "gone";

export type Conversation = {
  id: string;
  kind: "chat" | "text";
  /** as a person named it; empty: the beginning of its text is its title */
  title: string;
  created: number;
  updated: number;
  system: string;
  /** every version of every message, or of every continuation of a text, by the time of creation */
  messages: Message[];
  /** which child of a message is shown, and since when, by the message's id ("": of none) */
  shown: Record<string, { id: string; at: number }>;
  text: string;
  ranges: Range[];
  /** without it, the newest range is that place */
  place?: Place;
  /** of the last continuation of a text */
  last?: Pick<Message, "finish" | "failure" | "stats">;
  /** deleted: nothing but its id is kept */
  gone: boolean;
  /** when each part was changed last, in ms */
  stamps: Record<Part, number>;
};

/** The answer or continuation that is being written. */
export type Generation = {
  conversation: Conversation;
  message: Message | null;
  phase: string;
  tokens: number;
  /** of the tokens, those that had come before it was cut off */
  before: number;
  firstAt: number;
  stopping: boolean;
  /** of an answer that goes on: ends its wait for another tab that writes it */
  waiting: AbortController | null;
  /** once it has ended and is stored */
  done: Promise<void>;
};

export type Problem = {
  title: string;
  text: string;
  actions: { label: string; run: () => void }[];
};

declare global {
  interface Window {
    doppler: {
      /** Of the start, in milliseconds since the page was opened. */
      timeline: Stage[];
      ready: Promise<DeviceReport>;
      call(
        method: string,
        args?: Record<string, unknown>,
        onEvent?: OnEvent | null,
        files?: File[] | null,
      ): Promise<any>;
      saveLogits(args: Record<string, unknown>): Promise<{
        prompt_ids: number[];
        rows: number;
        vocab: number;
      }>;
    };
  }
}
