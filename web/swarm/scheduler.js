/**
 * @file Which item (see cut.js) is asked of which peer. Items are wanted now, soon or when idle; the rarest first
 * among the idle. One that is late at its peer is asked of a second one, all of it, and the first that
 * is whole counts. Peers that are silent, refuse or are overtaken rest; see bans.js for what follows.
 */

/** @import {Fetch, Outcome, Peer} from "./peer.js" */
/** @import {Urgency} from "./port.js" */

/** Milliseconds without a chunk: with an item that is wanted now, else, where nobody else has it. */
const SILENT_MS = { now: 1500, later: 5000, sole: 12_000 };
/** So often in a row silent, it may have gone without a word: it is looked for anew. */
const DEAF = 3;
/** A second sender is asked after so long, where it would take less than half of what is to come. */
const LATE_MS = { now: 750, later: 3000 };

/**
 * @typedef {object} Hooks
 * @property {(item: number, peer: Peer) => boolean} may whether that peer is to be asked for it
 * @property {(fetch: Fetch) => void} onWhole verifies it, and calls `settle`
 * @property {(peer: Peer, why: "silent" | "refused") => void} onBroken promise of a peer; silence of
 *     the only one that has an item is none, it may be busy and there is nobody to go to
 */

/** @typedef {{bad: number, overtaken: number, abandoned: number}} Wasted bytes, of no use, by reason */

export class Scheduler {
  /** @type {Record<Urgency, Set<number>>} */
  wanted = { now: new Set(), soon: new Set(), idle: new Set() };
  /** @type {Set<Peer>} */
  peers = new Set();
  /** Peers that have an item, by item; see `count`. */
  copies;
  /** @type {Map<number, Fetch[]>} on their way */
  #flights = new Map();
  /** @type {Map<number, Fetch>} being verified */
  #checking = new Map();
  #counted = false;

  /** @param {number} items @param {Wasted} wasted counted up @param {Hooks} hooks */
  constructor(items, wasted, hooks) {
    this.copies = new Uint16Array(items);
    this.wasted = wasted;
    this.hooks = hooks;
  }

  /** @param {Iterable<number>} items @param {Urgency | null} urgency */
  want(items, urgency) {
    for (const item of items) {
      if (!(item >= 0 && item < this.copies.length)) continue;
      for (const set of Object.values(this.wanted)) set.delete(item);
      if (urgency) this.wanted[urgency].add(item);
      else this.#land(item, null);
    }
    this.fillAll();
  }

  /** @param {number} item */
  wants(item) {
    return Object.values(this.wanted).some((set) => set.has(item));
  }

  /** Items that are wanted and not here. */
  get missing() {
    return Object.values(this.wanted).reduce((sum, { size }) => sum + size, 0);
  }

  /** @param {Peer} peer */
  add(peer) {
    this.peers.add(peer);
    peer.onEnd = (fetch, outcome) => this.#ended(fetch, outcome);
    peer.onChunk = () => this.#fill(peer);
    this.changed();
  }

  /** @param {Peer} peer it is gone: what it sent of an item is dropped, another sends all of it */
  remove(peer) {
    this.peers.delete(peer);
    for (const fetch of [...peer.fetches]) this.#abandon(fetch);
    this.changed();
  }

  /** Peers have other items than before, or may be asked again. */
  changed() {
    this.#counted = false;
    this.fillAll();
  }

  /** @param {Peer} peer @param {number[]} items that it says it has now */
  gained(peer, items) {
    for (const item of items.filter((item) => item < this.copies.length)) {
      peer.refused.delete(item);
      const twins = [...this.peers].filter((one) => one !== peer && one.id === peer.id);
      if (this.#counted && !twins.some((twin) => twin.has(item))) this.copies[item] += 1;
    }
    this.#fill(peer);
  }

  /**
   * @param {number} item that was being verified
   * @param {boolean} good
   */
  settle(item, good) {
    const fetch = this.#checking.get(item);
    this.#checking.delete(item);
    if (fetch) fetch.peer.checking -= 1;
    if (good) for (const set of Object.values(this.wanted)) set.delete(item);
    else if (fetch) this.wasted.bad += fetch.length;
    if (good && fetch) {
      fetch.peer.conduct.good += 1;
      fetch.peer.conduct.broken = 0;
      fetch.peer.setbacks = 0;
      fetch.peer.sent += 1;
    }
    this.fillAll();
    return fetch;
  }

  /** Counts copies, each peer once, though it be connected for several cuts. */
  count() {
    if (this.#counted) return this.copies;
    this.#counted = true;
    /** @type {Map<string, Peer[]>} */
    const byId = new Map();
    for (const peer of this.peers) byId.set(peer.id, [...(byId.get(peer.id) ?? []), peer]);
    this.copies.fill(0);
    for (const [, [first, ...others]] of byId) {
      for (let item = 0; item < this.copies.length; item++) {
        const there = first.has(item) || others.some((peer) => peer.has(item));
        if (there) this.copies[item] += 1;
      }
    }
    return this.copies;
  }

  fillAll() {
    if (!this.missing) return;
    const open = [...this.peers].filter((peer) => peer.open);
    for (const peer of open.sort((a, b) => b.speed - a.speed)) this.#fill(peer);
  }

  /** What is to be done four times a second: peers that are silent, and items that are late. */
  watch() {
    const now = performance.now();
    for (const peer of this.peers) {
      const [fetch] = peer.fetches;
      if (!fetch) continue;
      const isSole = this.#isSole(fetch);
      if (now - Math.max(fetch.began, peer.lastHeard) <= this.#patience(fetch, isSole)) continue;
      this.#leave(peer);
      if (!isSole) this.hooks.onBroken(peer, "silent");
      else if (peer.setbacks >= DEAF) peer.wire.destroy();
    }
    this.fillAll();
  }

  /** @param {Fetch} fetch whether nobody else can be asked for it */
  #isSole({ item, peer }) {
    return ![...this.peers].some((one) => one.id !== peer.id && one.open && one.has(item));
  }

  /** @param {Fetch} fetch @param {boolean} isSole */
  #patience({ item }, isSole) {
    if (isSole) return SILENT_MS.sole;
    return this.wanted.now.has(item) ? SILENT_MS.now : SILENT_MS.later;
  }

  /** @param {Peer} peer alone for a while */
  #leave(peer) {
    for (const fetch of [...peer.fetches]) this.#abandon(fetch);
    peer.rest();
  }

  /** @param {Peer} peer asks it for as much as is good */
  #fill(peer) {
    const now = performance.now();
    while (peer.open && peer.hasRoom) {
      let fetch = [...peer.fetches].find(({ hasMore }) => hasMore);
      if (!fetch) {
        const free = peer.busy < peer.slots && now >= peer.restsUntil;
        const item = free ? this.#pick(peer, now) : null;
        if (item === null) return;
        fetch = peer.begin(item);
        this.#flights.set(item, [...(this.#flights.get(item) ?? []), fetch]);
      }
      fetch.ask();
    }
  }

  /** @param {Peer} peer @param {number} now @returns {number | null} */
  #pick(peer, now) {
    const free = (/** @type {number} */ item) =>
      peer.has(item) &&
      this.hooks.may(item, peer) &&
      !this.#flights.has(item) &&
      !this.#checking.has(item) &&
      !peer.isAsked(item);
    for (const set of [this.wanted.now, this.wanted.soon]) {
      for (const item of set) if (free(item)) return item;
      const late = this.#late(peer, set, now);
      if (late !== null) return late;
    }
    return this.#rarest(free) ?? this.#late(peer, this.wanted.idle, now);
  }

  /** @param {(item: number) => boolean} free @returns {number | null} one of the rarest, by lot */
  #rarest(free) {
    const copies = this.count();
    let [best, fewest, ties] = [/** @type {number | null} */ (null), Infinity, 0];
    for (const item of this.wanted.idle) {
      if (copies[item] > fewest || !free(item)) continue;
      ties = copies[item] < fewest ? 1 : ties + 1;
      if (Math.random() * ties < 1) best = item;
      fewest = copies[item];
    }
    return best;
  }

  /**
   * @param {Peer} peer
   * @param {Set<number>} set
   * @param {number} now
   * @returns {number | null} an item that another peer is late with
   */
  #late(peer, set, now) {
    for (const [item, [fetch, second]] of this.#flights) {
      if (second || !set.has(item) || fetch.peer.id === peer.id || !peer.has(item)) continue;
      if (peer.isAsked(item) || !this.hooks.may(item, peer)) continue;
      const age = now - fetch.began;
      const rest = ((fetch.length - fetch.got) * age) / Math.max(fetch.got, 1);
      const here = (1000 * fetch.length) / peer.speed;
      const urgent = set === this.wanted.now;
      if (age > (urgent ? LATE_MS.now : LATE_MS.later) && rest > 2 * here + 250) return item;
    }
    return null;
  }

  /** @param {Fetch} fetch @param {Outcome} outcome */
  #ended(fetch, outcome) {
    const { peer, item } = fetch;
    if (outcome === "whole") {
      this.#land(item, fetch);
      this.#checking.set(item, fetch);
      peer.checking += 1;
      this.hooks.onWhole(fetch);
      this.#fill(peer);
      return;
    }
    this.#abandon(fetch);
    if (outcome === "refused") {
      peer.refused.add(item);
      this.#leave(peer);
      this.hooks.onBroken(peer, "refused");
    }
    this.changed();
  }

  /** @param {Fetch} fetch will not be whole */
  #abandon(fetch) {
    fetch.stop();
    this.wasted.abandoned += fetch.got;
    this.#forget(fetch);
  }

  /** @param {Fetch} fetch */
  #forget(fetch) {
    const others = this.#flights.get(fetch.item)?.filter((one) => one !== fetch) ?? [];
    if (others.length) this.#flights.set(fetch.item, others);
    else this.#flights.delete(fetch.item);
  }

  /** @param {number} item @param {Fetch | null} first that is whole: the others were overtaken */
  #land(item, first) {
    for (const fetch of this.#flights.get(item) ?? []) {
      if (fetch === first) continue;
      fetch.stop();
      this.wasted.overtaken += fetch.got;
      if (first) fetch.peer.rest();
    }
    this.#flights.delete(item);
  }
}
