/**
 * @file The page's end of the swarm: WebTorrent on the main thread (workers have no WebRTC), loaded
 * when something is shared for the first time. The worker, at the other end of the port, stores and
 * verifies: see port.d.ts. Nothing is asked of any address but the trackers and ICE servers given.
 */

import { Bans } from "./bans.js";
import { factsOf } from "./facts.js";
import { ModelSwarm } from "./model_swarm.js";

/** @import {Client} from "./webtorrent.js" */
/** @import {Data, Identity, Keep, ReadBlock, ReadFile, ToPage, ToWorker} from "./port.js" */

const WATCH_MS = 250;
const TICKS = 4; // watches to a second

/**
 * @typedef {object} Host what models' swarms share
 * @property {Client} client
 * @property {string[]} trackers
 * @property {Bans} bans
 * @property {boolean} isSpent whether nothing is given: as much was as may be, or it is only taken
 * @property {(message: ToWorker, transfer?: Transferable[]) => void} post
 * @property {(question: Question) => Promise<ArrayBuffer | null>} ask
 * @property {(bytes: number) => void} sent
 * @property {(what: string, detail: Record<string, unknown>) => void} happening
 * @property {(peer: string) => void} refuse closes all that is open to a peer
 * @property {(peer: string, why: string, identity: Identity) => void} ban
 */

/** @typedef {Omit<ReadBlock, "id"> | Omit<ReadFile, "id">} Question */
/** @typedef {{rate: number | null, volume: number | null}} Limits bytes a second, and in all */
/** @typedef {Pick<Keep, "least" | "room">} Pledge what is kept of a model for others */

/** The tracker of this page's own server. */
export const ownTracker = () => new URL("/tracker", location.href.replace(/^http/, "ws")).href;

/**
 * Events "happening": `detail.what` is "joined", "left", "peer came", "peer went", "bad piece",
 * "promise broken", "banned", "torrent refused" or "client failed"; the rest of `detail` says who and
 * where.
 */
export class Swarm extends EventTarget {
  /** @type {Map<Identity, ModelSwarm>} */
  #models = new Map();
  /** @type {Map<number, (bytes: ArrayBuffer | null) => void>} */
  #asked = new Map();
  #questions = 0;
  /** @type {Promise<Client> | null} */
  #loading = null;
  /** @type {Client | null} */
  #client = null;
  #timer = 0;
  #watches = 0;
  #bans = new Bans();
  /** @type {Limits} */
  #limits = { rate: null, volume: null };
  /** @type {Set<Identity>} of which nothing is given */
  #taken = new Set();
  /** @type {Map<Identity, Pledge>} */
  #pledges = new Map();
  /** Bytes of pieces that peers were given since the page was opened. */
  #sent = 0;

  /**
   * @param {MessagePort} port to the worker
   * @param {{trackers?: string[], iceServers?: RTCIceServer[]}} [addresses] by default the page's own
   *     tracker, and no ICE server: nobody outside hears of this page
   */
  constructor(port, { trackers = [ownTracker()], iceServers = [] } = {}) {
    super();
    this.port = port;
    this.trackers = trackers;
    this.iceServers = iceServers;
    port.onmessage = ({ data }) => this.#receive(data);
    // Others learn of a page that goes when it says so, or a quarter of a minute later.
    addEventListener("pagehide", () => {
      for (const model of this.#models.values()) model.cuts.hangUp();
    });
  }

  /**
   * Shares a model: gives what is stored of it, and gets what the worker wants of it.
   * @param {Identity} identity
   * @param {string[]} [infohashes] of cuts that are known, as a link may name them
   * @param {string[]} [trackers] that hear of it, in place of those of all models
   */
  async join(identity, infohashes = [], trackers = this.trackers) {
    if (this.#models.has(identity)) return;
    if (!/^[0-9a-f]{64}$/.test(identity))
      throw new RangeError(`${identity} is no model's identity`);
    const client = await (this.#loading ??= this.#load());
    if (this.#models.has(identity)) return;
    const model = new ModelSwarm(identity, this.#host(client, identity, trackers));
    this.#models.set(identity, model);
    this.#timer ||= setInterval(() => this.#watch(), WATCH_MS);
    this.#happening("joined", { identity });
    await model.start(infohashes);
    this.#tellPledge(identity);
  }

  /** @param {Identity} identity shared no more from now on; what came stays */
  leave(identity) {
    const model = this.#models.get(identity);
    if (!model) return;
    this.#models.delete(identity);
    model.leave();
    this.#happening("left", { identity });
    if (this.#models.size) return;
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  /** @param {Partial<Limits>} limits of what is given to peers; null: none */
  limit(limits) {
    this.#limits = { ...this.#limits, ...limits };
    this.#client?.throttleUpload(this.#limits.rate ?? -1);
    this.#choke();
  }

  /**
   * @param {Identity} identity
   * @param {boolean} gives whether peers are given what is here of it; without a word of it they are
   */
  give(identity, gives) {
    if (gives) this.#taken.delete(identity);
    else this.#taken.add(identity);
    this.#models.get(identity)?.peers.choke();
  }

  /**
   * @param {Identity} identity
   * @param {Pledge} pledge without a word of it, nothing is kept for others
   */
  keep(identity, pledge) {
    const known = this.#pledges.get(identity);
    if (known?.least === pledge.least && known.room === pledge.room) return;
    this.#pledges.set(identity, pledge);
    this.#tellPledge(identity);
  }

  /** @param {Identity} identity */
  #tellPledge(identity) {
    const pledge = this.#pledges.get(identity);
    if (pledge && this.#models.has(identity))
      this.port.postMessage({ type: "keep", identity, ...pledge });
  }

  /** Bytes of pieces that peers were given. */
  get given() {
    return this.#sent;
  }

  /** @param {string} peer may come again */
  pardon(peer) {
    this.#bans.pardon(peer);
  }

  /** What there is to show: see facts.js. */
  facts() {
    return {
      peer: this.#client?.peerId ?? null,
      models: [...this.#models.values()].map(factsOf),
      bans: this.#bans.list(),
      limits: { ...this.#limits },
      given: this.#sent,
    };
  }

  /** Leaves all models, and ends the client. */
  async close() {
    for (const identity of [...this.#models.keys()]) this.leave(identity);
    const client = await this.#loading;
    this.#loading = this.#client = null;
    if (client) await new Promise((resolve) => client.destroy(() => resolve(null)));
  }

  async #load() {
    const [{ default: WebTorrent }] = await Promise.all([
      import("../vendor/webtorrent.js"),
      this.#bans.load(),
    ]);
    /** @type {Client} */
    const client = new WebTorrent({
      dht: false,
      lsd: false,
      natPmp: false,
      natUpnp: false,
      utPex: false,
      webSeeds: false,
      tracker: { rtcConfig: { iceServers: this.iceServers } },
      uploadLimit: this.#limits.rate ?? -1,
    });
    client.on("error", (error) => this.#happening("client failed", { why: String(error) }));
    this.#client = client;
    return client;
  }

  /** @param {Client} client @param {Identity} identity @param {string[]} trackers @returns {Host} */
  #host(client, identity, trackers) {
    const swarm = this;
    return {
      client,
      trackers,
      bans: this.#bans,
      get isSpent() {
        return swarm.#isSpent || swarm.#taken.has(identity);
      },
      post: (message, transfer = []) => this.port.postMessage(message, transfer),
      ask: (question) => this.#ask(question),
      sent: (bytes) => this.#gave(bytes),
      happening: (what, detail) => this.#happening(what, detail),
      refuse: (peer) => this.#refuse(peer),
      ban: (peer, why, identity) => {
        this.#bans.ban(peer, why);
        this.#refuse(peer, identity);
      },
    };
  }

  get #isSpent() {
    return this.#limits.volume !== null && this.#sent >= this.#limits.volume;
  }

  /** @param {number} bytes */
  #gave(bytes) {
    this.#sent += bytes;
    if (this.#isSpent) this.#choke();
  }

  #choke() {
    for (const model of this.#models.values()) model.peers.choke();
  }

  /** @param {string} peer that is banned, or shut out for a while @param {Identity} [identity] */
  #refuse(peer, identity) {
    const ban = this.#bans.list().find((one) => one.peer === peer);
    this.#happening("banned", { ...ban, identity });
    for (const model of this.#models.values()) model.peers.refuse(peer);
  }

  /** @param {Question} question @returns {Promise<ArrayBuffer | null>} */
  #ask(question) {
    const id = ++this.#questions;
    return new Promise((resolve) => {
      this.#asked.set(id, resolve);
      this.port.postMessage({ ...question, id });
    });
  }

  /** @param {ToPage} message */
  #receive(message) {
    if (message.type === "data") this.#answered(message);
    else this.#models.get(message.identity)?.receive(message);
  }

  /** @param {Data} message */
  #answered({ id, bytes }) {
    this.#asked.get(id)?.(bytes);
    this.#asked.delete(id);
  }

  #watch() {
    this.#watches += 1;
    for (const model of this.#models.values()) {
      model.scheduler?.watch();
      if (this.#watches % TICKS === 0) model.tick();
    }
  }

  /** @param {string} what @param {Record<string, unknown>} detail */
  #happening(what, detail) {
    this.dispatchEvent(new CustomEvent("happening", { detail: { what, ...detail } }));
  }
}
