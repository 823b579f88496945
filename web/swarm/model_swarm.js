/**
 * @file The swarm of one model: its cuts' torrents, the peers of all of them, one scheduler over them,
 * and what the worker has. The worker's BLAKE3 is the truth about a block; a torrent's SHA-1s are a
 * stranger's word, and a torrent whose word is false is left.
 */

import { agree, DIGEST_BYTES, Geometry, hex, infoOf, rendezvousOf, sha1 } from "./cut.js";
import { CutSwarm, infoBytes } from "./cut_swarm.js";
import { Judge } from "./judge.js";
import { recall, remember } from "./memory.js";
import { Peers } from "./peers.js";
import { Scheduler } from "./scheduler.js";
import { ServedPieces } from "./served.js";

/** @import {CutNews} from "./gossip.js" */
/** @import {Blame, FileName, Identity, Layout, Model, ToPage} from "./port.js" */
/** @import {Host} from "./swarm.js" */

const MOST_CUTS = 4; // torrents of one model that a page is in
const METADATA_MS = 30_000; // a cut of which nobody has the metadata makes room for another

export class ModelSwarm {
  /** @type {Layout | null} */
  layout = null;
  /** @type {Geometry | null} of the layout; before it is known, of the cut whose manifest comes */
  geometry = null;
  /** @type {Scheduler | null} */
  scheduler = null;
  /** @type {Set<number>} blocks that the worker has */
  have = new Set();
  /** @type {Map<string, CutSwarm>} by infohash */
  cuts = new Map();
  /** @type {CutSwarm | null} */
  rendezvous = null;
  /** @type {Map<number, string>} block -> the peer that sent it, of this visit */
  origins = new Map();
  /** @type {Set<string>} infohashes of torrents that are not what they say */
  falseCuts = new Set();
  /** @type {CutSwarm | null} whose manifest.json is fetched */
  #home = null;
  /** @type {CutSwarm | null} the cut as it is stored here */
  #own = null;
  /** @type {Judge | null} */
  #judge = null;
  /** @type {ServedPieces | null} */
  #served = null;
  #making = false;
  left = false;

  /** @param {Identity} identity @param {Host} host */
  constructor(identity, host) {
    this.identity = identity;
    this.host = host;
    this.peers = new Peers(identity, host, {
      scheduler: () => this.scheduler,
      counts: (cut) => this.layout !== null || cut === this.#home,
      tell: () => this.#news(),
      hear: (news) => this.#hear(news),
      rendezvous: () => this.rendezvous,
    });
    this.#ends = {
      read: (/** @type {number} */ index, /** @type {number} */ start, /** @type {number} */ end) =>
        this.#serve(index, start, end),
      admits: (/** @type {string} */ id) => !host.bans.has(id),
      onWire: this.peers.meet.bind(this.peers),
      onReady: (/** @type {CutSwarm} */ cut) => this.#onReady(cut),
      onFalse: (/** @type {CutSwarm} */ cut, /** @type {string} */ why) => this.#drop(cut, why),
    };
  }

  #ends;

  /** @param {string[]} infohashes of cuts that are known already */
  async start(infohashes) {
    const infohash = await rendezvousOf(this.identity);
    if (this.left) return;
    const admits = (/** @type {string} */ id) =>
      this.#ends.admits(id) && !this.peers.speaksWith(id);
    this.rendezvous = this.#open(infohash, null, { ...this.#ends, admits });
    for (const one of infohashes) this.#join(one);
    this.host.post({ type: "join", identity: this.identity });
  }

  /** @param {ToPage} message of the worker about this model */
  receive(message) {
    if (message.type === "model") void this.#onModel(message);
    else if (message.type === "want")
      this.scheduler?.want(this.#new(message.blocks), message.urgency);
    else if (message.type === "done") this.#judge?.done(message);
    else if (message.type === "blame") this.#onBlame(message);
    else if (message.type === "have") this.#gain(message.blocks);
    else if (message.type === "lost") this.#lose(message.blocks);
  }

  /** @param {number[]} blocks those of them that are not here and were not sent to the worker */
  #new(blocks) {
    const count = this.geometry?.blocks ?? 0;
    return blocks.filter((block) => block < count && !this.have.has(block));
  }

  leave() {
    this.left = true;
    this.host.post({ type: "leave", identity: this.identity });
    for (const cut of this.cuts.values()) cut.close();
    this.rendezvous?.close();
    this.peers.close();
  }

  /** Once a second. */
  tick() {
    this.peers.tick();
    const cuts = [...this.cuts.values(), ...(this.rendezvous ? [this.rendezvous] : [])];
    for (const cut of cuts) {
      if (this.#isStarving()) cut.reannounce();
      else cut.content();
    }
    if (!this.layout) this.#chooseHome();
    const [stale] = cuts.filter((cut) => cut !== this.rendezvous && !cut.pieces);
    if (this.cuts.size >= MOST_CUTS && stale && performance.now() - stale.began > METADATA_MS) {
      stale.close();
      this.cuts.delete(stale.infohash);
    }
    this.#tellSeen();
  }

  get isComplete() {
    return (
      this.geometry !== null && this.layout !== null && this.have.size === this.geometry.blocks
    );
  }

  #isStarving() {
    if (!this.layout) return this.peers.size === 0;
    const { scheduler } = this;
    if (!scheduler?.missing) return false;
    const copies = scheduler.count();
    return !Object.values(scheduler.wanted).some((set) => [...set].some((piece) => copies[piece]));
  }

  #seen = "";
  #tellSeen() {
    const copies = this.layout ? this.scheduler?.count().subarray(0, this.geometry?.blocks) : null;
    const bytes = Uint8Array.from(copies ?? [], (count) => Math.min(count, 255));
    const peers = this.peers.ids().size;
    const text = `${peers} ${bytes}`;
    if (text === this.#seen) return;
    this.#seen = text;
    const seen = { type: "seen", identity: this.identity, peers, copies: bytes.buffer };
    this.host.post(/** @type {any} */ (seen), [bytes.buffer]);
  }

  /** @returns {CutNews[]} */
  #news() {
    return [...this.cuts.values()].flatMap(({ infohash, layout }) =>
      layout
        ? [{ infohash, shard_bytes: layout.shards[0].bytes, files: layout.shards.length }]
        : [],
    );
  }

  /** @param {CutNews[]} news */
  #hear(news) {
    for (const { infohash } of news) this.#join(infohash);
  }

  /** @param {string} infohash @param {Uint8Array | null} info @param {any} ends */
  #open(infohash, info, ends = this.#ends) {
    const { identity, host } = this;
    return new CutSwarm(host.client, infohash, info, { identity, announce: host.trackers, ends });
  }

  /** @param {string} infohash @param {Uint8Array | null} info */
  #join(infohash, info = null) {
    const known = this.cuts.has(infohash) || this.falseCuts.has(infohash);
    if (this.left || known || this.cuts.size >= MOST_CUTS + Number(info !== null)) return;
    this.cuts.set(infohash, this.#open(infohash, info));
  }

  /** @param {CutSwarm} cut @param {string} why */
  #drop(cut, why) {
    cut.close();
    if (!this.cuts.delete(cut.infohash)) return;
    this.falseCuts.add(cut.infohash);
    this.host.happening("torrent refused", {
      identity: this.identity,
      infohash: cut.infohash,
      why,
    });
    if (cut === this.#home) this.#home = this.scheduler = null;
  }

  /** @param {CutSwarm} cut */
  #onReady(cut) {
    if (this.layout) void this.#sync(cut);
    else this.#chooseHome();
  }

  /** Whose manifest is fetched: of a cut that has peers, rather. */
  #chooseHome() {
    const ready = [...this.cuts.values()].filter(({ pieces, layout }) => pieces && layout);
    const [best] = ready.sort((a, b) => this.peers.count(b) - this.peers.count(a));
    if (!best?.layout || best === this.#home) return;
    if (this.#home && (this.peers.count(this.#home) || !this.peers.count(best))) return;
    this.#home = best;
    this.#plan(best.layout);
    this.#fetchFile("manifest.json");
  }

  /** @param {Layout} layout */
  #plan(layout) {
    const { host, identity } = this;
    const geometry = new Geometry(layout);
    this.geometry = geometry;
    this.#served = new ServedPieces(geometry, {
      block: (block) => host.ask({ type: "read", identity, block }),
      file: (name, start, end) => host.ask({ type: "read_file", identity, name, start, end }),
    });
    this.peers.rest();
    const judge = new Judge(geometry, identity, host, {
      settle: (item, good) => scheduler.settle(item, good),
      keep: (block, peer) => {
        if (peer) this.origins.set(block, peer);
        this.#gain([block]);
      },
      refuse: (cut, why) => this.#drop(cut, why),
    });
    const scheduler = new Scheduler(geometry.items, {
      onWhole: (fetch) => void judge.verify(fetch),
      onBroken: (peer, why) => {
        host.happening("promise broken", { identity, peer: peer.id, why });
        if (host.bans.brokenPromise(peer.id)) host.refuse(peer.id);
      },
    });
    this.scheduler = scheduler;
    this.#judge = judge;
    this.peers.schedule();
  }

  /** @param {FileName} name */
  #fetchFile(name) {
    if (this.#judge) this.scheduler?.want(this.#judge.arrivals.begin(name), "now");
  }

  /** @param {Model} message */
  async #onModel({ layout, have }) {
    if (!layout) return;
    const first = !this.layout;
    this.layout = layout;
    if (first) {
      this.#home = null;
      this.#plan(layout);
      for (const cut of [...this.cuts.values()]) if (cut.pieces) await this.#sync(cut);
    }
    const bits = new Uint8Array(have);
    const count = this.geometry?.blocks ?? 0;
    const held = (/** @type {number} */ block) => (bits[block >> 3] >> (7 - (block & 7))) & 1;
    this.#gain(Array.from({ length: count }, (_, block) => block).filter(held));
    if (layout.tokenizer && !layout.tokenizer.stored) this.#fetchFile("tokenizer.json");
    if (!first) for (const cut of [...this.cuts.values()]) await this.#sync(cut);
    const kept = this.#own ? null : await recall(`torrent ${this.identity}`);
    if (kept instanceof Uint8Array) this.#join(hex(await sha1(new Uint8Array(kept))), kept);
    await this.#make();
  }

  /** @param {CutSwarm} cut its peers are given what is here, of files what its SHA-1s agree with */
  async #sync(cut) {
    const { layout, geometry } = this;
    if (!layout || !geometry || !cut.layout || !cut.pieces) return;
    if (!agree(cut.layout, layout)) return this.#drop(cut, "is of another model's bytes");
    cut.mark([...this.have].filter((block) => block < geometry.pure));
    for (let piece = geometry.pure; piece < Math.min(cut.pieces, geometry.pieces); piece++) {
      if (cut.has(piece)) continue;
      const bytes = await this.#served?.read(piece).catch(() => null);
      if (bytes && (await cut.isPiece(piece, bytes))) cut.mark([piece]);
    }
    // The last piece has the end of manifest.json in it.
    if (cut.pieces !== geometry.pieces || !cut.has(cut.pieces - 1) || this.#own) return;
    this.#own = cut;
    void remember(`torrent ${this.identity}`, infoBytes(cut.torrent));
  }

  /** Makes the torrent of the cut that is here, once all of it is, where it is not known. */
  async #make() {
    const { layout, geometry } = this;
    const whole = this.isComplete && layout && (!layout.tokenizer || layout.tokenizer.stored);
    if (!whole || !geometry || this.#own || this.#making) return;
    this.#making = true;
    try {
      const digests = new Uint8Array(geometry.pieces * DIGEST_BYTES);
      for (let piece = 0; piece < geometry.pieces && !this.left && !this.#own; piece++) {
        const bytes = await this.#served?.read(piece);
        if (bytes) digests.set(await sha1(bytes), piece * DIGEST_BYTES);
      }
      if (this.#own || this.left) return;
      const info = infoOf(this.identity, layout, digests);
      this.#join(hex(await sha1(info)), info);
    } catch {
      // A block was found damaged on the way: once it is here again, this begins again.
    } finally {
      this.#making = false;
    }
  }

  /** @param {Blame} message */
  #onBlame({ block, file }) {
    if (block !== null) return void this.#judge?.blame(block);
    // Each piece of the file was what the torrent says: it is the torrent that is false.
    const cuts = this.#home ? [this.#home] : [...this.cuts.values()].filter((c) => c !== this.#own);
    for (const cut of cuts) this.#drop(cut, `its ${file} is not this model's`);
    if (this.layout && file) this.#fetchFile(file);
  }

  /** @param {number[]} blocks */
  #gain(blocks) {
    const pure = this.geometry?.pure ?? 0;
    for (const block of blocks) this.have.add(block);
    this.scheduler?.want(blocks, null);
    for (const cut of this.cuts.values()) {
      cut.mark(blocks.filter((block) => block < pure));
      if (blocks.includes(pure)) void this.#sync(cut);
    }
    if (this.isComplete) void this.#make();
  }

  /** @param {number[]} blocks */
  #lose(blocks) {
    for (const block of blocks) {
      this.have.delete(block);
      this.#served?.forget(block);
    }
    for (const cut of this.cuts.values()) cut.unmark(blocks);
  }

  /** @param {number} piece @param {number} start @param {number} end */
  async #serve(piece, start, end) {
    if (this.host.isSpent || !this.#served) throw new Error("nothing is given now");
    const bytes = await this.#served.kept(piece);
    return bytes.subarray(start, Math.min(end, bytes.length));
  }
}
