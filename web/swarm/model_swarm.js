/**
 * @file The swarm of one model: its cuts' torrents, the peers of all of them, one scheduler over them,
 * and what the worker has. The worker's BLAKE3 is the truth about a block; a torrent's SHA-1s are a
 * stranger's word, and a torrent whose word is false is left.
 */

import { agree, blocksIn, Geometry, hashed, hex, sha1 } from "./cut.js";
import { infoBytes } from "./cut_swarm.js";
import { Cuts } from "./cuts.js";
import { Judge } from "./judge.js";
import { recall, remember } from "./memory.js";
import { Peers } from "./peers.js";
import { Scheduler } from "./scheduler.js";
import { Seen } from "./seen.js";
import { ServedPieces } from "./served.js";

/** @import {CutSwarm} from "./cut_swarm.js" */
/** @import {Blame, FileName, Identity, Layout, Model, ToPage, Want} from "./port.js" */
/** @import {Host} from "./swarm.js" */

/** @param {Layout} one @param {Layout} other @returns {boolean} whether their files are of the same sizes */
const isSame = (one, other) =>
  JSON.stringify([one.shards, one.manifest_bytes]) ===
  JSON.stringify([other.shards, other.manifest_bytes]);

export class ModelSwarm {
  /** @type {Layout | null} */
  layout = null;
  /** @type {Geometry | null} of the layout; before it is known, of the cut whose manifest comes */
  geometry = null;
  /** @type {Scheduler | null} */
  scheduler = null;
  /** @type {Set<number>} blocks that the worker has */
  have = new Set();
  /** @type {Map<number, string>} block -> the peer that sent it, of this visit */
  origins = new Map();
  /** @type {Set<number>} blocks that came over HTTP or from a file, of this visit */
  others = new Set();
  /** @type {Set<number>} blocks that are kept since few have them, of this visit */
  forOthers = new Set();
  wasted = { bad: 0, overtaken: 0, abandoned: 0 };
  /** @type {CutSwarm | null} whose manifest.json is fetched */
  #home = null;
  /** @type {CutSwarm | null} the cut as it is stored here, once its torrent is known */
  #own = null;
  /** @type {Judge | null} */
  #judge = null;
  /** @type {ServedPieces | null} */
  #served = null;
  #making = false;
  #seen;
  #left = false;

  /** @param {Identity} identity @param {Host} host */
  constructor(identity, host) {
    this.identity = identity;
    this.host = host;
    this.#seen = new Seen(identity, host);
    this.peers = new Peers(identity, host, {
      scheduler: () => this.scheduler,
      counts: (cut) => this.layout !== null || cut === this.#home,
      tell: () => this.cuts.news(),
      hear: (news, peer) => this.cuts.hear(news, peer),
      isMeeting: (cut) => cut === this.cuts.rendezvous,
    });
    this.cuts = new Cuts(identity, host, {
      read: (index, start, end) => this.#serve(index, start, end),
      admits: (id) => !host.bans.has(id),
      onWire: (cut, wire) => this.peers.meet(cut, wire),
      onReady: (cut) => this.#onReady(cut),
      onFalse: (cut, why) => this.#drop(cut, why),
    });
  }

  /** @param {string[]} infohashes of cuts that are known already */
  async start(infohashes) {
    await this.cuts.meet((id) => !this.host.bans.has(id) && !this.peers.speaksWith(id));
    if (this.#left) return;
    for (const one of infohashes) this.cuts.join(one);
    this.host.post({ type: "join", identity: this.identity });
  }

  /** @param {ToPage} message of the worker about this model */
  receive(message) {
    if (message.type === "model") void this.#onModel(message);
    else if (message.type === "want") this.#want(message);
    else if (message.type === "done") this.#judge?.done(message);
    else if (message.type === "blame") this.#onBlame(message);
    else if (message.type === "have") this.#onHave(message.blocks);
    else if (message.type === "lost") this.#lose(message.blocks);
  }

  get own() {
    return this.#own;
  }

  leave() {
    this.#left = true;
    this.host.post({ type: "leave", identity: this.identity });
    this.cuts.close();
    this.peers.close();
  }

  /** Once a second. */
  tick() {
    this.peers.tick();
    this.cuts.tend(this.#isStarving());
    if (!this.layout) this.#chooseHome();
    const { geometry, layout, scheduler } = this;
    this.#seen.tell(layout && scheduler, geometry?.blocks ?? 0, this.peers.size);
  }

  #isStarving() {
    if (!this.layout) return this.peers.size === 0;
    const { scheduler } = this;
    if (!scheduler?.missing) return false;
    const copies = scheduler.count();
    return !Object.values(scheduler.wanted).some((set) => [...set].some((item) => copies[item]));
  }

  /** @param {Want} message */
  #want({ blocks, urgency }) {
    const count = this.geometry?.blocks ?? 0;
    const fresh = blocks.filter((block) => block < count && !this.have.has(block));
    this.scheduler?.want(fresh, urgency);
  }

  /** @param {CutSwarm} cut @param {string} why */
  #drop(cut, why) {
    this.cuts.refuse(cut, why);
    if (cut === this.#own) this.#own = null;
    if (cut === this.#home) this.#home = this.scheduler = null;
  }

  /** @param {CutSwarm} cut */
  #onReady(cut) {
    this.scheduler?.changed(); // what its peers said before is understood now
    if (this.layout) void this.#sync(cut);
    else this.#chooseHome();
  }

  /**
   * Whose manifest is fetched: of a cut whose peers have it, rather. Peers of another cut have all of
   * its blocks, and not that.
   */
  #chooseHome() {
    const ready = this.cuts.list().filter(({ pieces, layout }) => pieces && layout);
    const [best] = ready.sort((a, b) => this.peers.givers(b) - this.peers.givers(a));
    if (!best?.layout || best === this.#home) return;
    if (this.#home && (this.peers.givers(this.#home) || !this.peers.givers(best))) return;
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
      keep: (block, peer, forOthers) => {
        if (peer) this.origins.set(block, peer);
        if (forOthers) this.forOthers.add(block);
        this.#gain([block]);
      },
      want: (items, urgency) => scheduler.want(items, urgency),
      refuse: (cut, why) => this.#drop(cut, why),
    });
    const scheduler = new Scheduler(geometry.items, this.wasted, {
      may: (item, { cut }) => judge.arrivals.asks(item, cut),
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
    const same = this.layout && isSame(this.layout, layout);
    this.layout = layout;
    if (!same) {
      const before = this.scheduler?.wanted;
      this.#home = this.#own = null; // another cut is another torrent
      this.#plan(layout);
      for (const urgency of /** @type {const} */ (["idle", "soon", "now"])) {
        const blocks = [...(before?.[urgency] ?? [])];
        this.#want({ type: "want", identity: this.identity, blocks, urgency });
      }
    }
    this.#gain(blocksIn(have).filter((block) => block < (this.geometry?.blocks ?? 0)));
    if (layout.tokenizer && !layout.tokenizer.stored) this.#fetchFile("tokenizer.json");
    for (const cut of this.cuts.list()) await this.#sync(cut);
    const kept = this.#own ? null : await recall(`torrent ${this.identity}`);
    if (kept instanceof Uint8Array) this.cuts.join(hex(await sha1(new Uint8Array(kept))), kept);
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
    const whole = geometry && layout && this.have.size === geometry.blocks;
    if (!whole || layout.tokenizer?.stored === false || this.#own || this.#making) return;
    this.#making = true;
    try {
      const read = (/** @type {number} */ piece) =>
        /** @type {ServedPieces} */ (this.#served).read(piece);
      const goesOn = () => !this.#left && !this.#own && this.geometry === geometry;
      const info = await hashed(this.identity, layout, read, goesOn);
      if (info) this.cuts.join(hex(await sha1(info)), info);
    } catch {
      // A block was found damaged on the way: once it is here again, this begins again.
    } finally {
      this.#making = false;
      if (this.geometry !== geometry) void this.#make();
    }
  }

  /** @param {Blame} message */
  #onBlame({ block, file }) {
    if (block !== null) return void this.#judge?.blame(block);
    if (!file) return;
    this.#judge?.blameFile(file);
    if (this.layout) this.#fetchFile(file);
  }

  /** @param {number[]} blocks that did not come from peers */
  #onHave(blocks) {
    for (const block of blocks) this.others.add(block);
    this.#gain(blocks);
  }

  /** @param {number[]} blocks */
  #gain(blocks) {
    const pure = this.geometry?.pure ?? 0;
    for (const block of blocks) this.have.add(block);
    this.scheduler?.want(blocks, null);
    for (const cut of this.cuts.list()) {
      cut.mark(blocks.filter((block) => block < pure));
      if (blocks.includes(pure)) void this.#sync(cut);
    }
    void this.#make();
  }

  /** @param {number[]} blocks */
  #lose(blocks) {
    for (const block of blocks) {
      this.have.delete(block);
      this.forOthers.delete(block);
      this.#served?.forget(block);
    }
    for (const cut of this.cuts.list()) cut.unmark(blocks);
  }

  /** @param {number} piece @param {number} start @param {number} end */
  async #serve(piece, start, end) {
    if (this.host.isSpent || !this.#served) throw new Error("nothing is given now");
    const bytes = await this.#served.kept(piece);
    return bytes.subarray(start, Math.min(end, bytes.length));
  }
}
