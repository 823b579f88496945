/** @file The connections of one model's swarm: let in, bounded, listened to, and told what is here. */

import { Gossip } from "./gossip.js";
import { guard } from "./guard.js";
import { Peer } from "./peer.js";

/** @import {CutNews} from "./gossip.js" */
/** @import {CutSwarm} from "./cut_swarm.js" */
/** @import {Identity} from "./port.js" */
/** @import {Scheduler} from "./scheduler.js" */
/** @import {Wire} from "./webtorrent.js" */
/** @import {Host} from "./swarm.js" */

/**
 * @typedef {object} Ends of the model's swarm
 * @property {() => Scheduler | null} scheduler
 * @property {(cut: CutSwarm) => boolean} counts whether pieces are asked of a cut's peers now
 * @property {() => CutNews[]} tell
 * @property {(news: CutNews[], peer: string) => void} hear
 * @property {(cut: CutSwarm) => boolean} isMeeting whether it is the rendezvous
 */

/** @typedef {{wire: Wire, gossip: Gossip, peer: Peer | null}} Link peer: null at the rendezvous */

export class Peers {
  /** @type {Map<Wire, Link>} */
  #links = new Map();

  /** @param {Identity} identity @param {Host} host @param {Ends} ends */
  constructor(identity, host, ends) {
    this.identity = identity;
    this.host = host;
    this.ends = ends;
  }

  /** @param {CutSwarm} cut @param {Wire} wire after the peer's handshake, before ours */
  meet(cut, wire) {
    const { host, identity, ends } = this;
    const id = wire.peerId;
    if (host.bans.has(id)) return void wire.destroy();
    const expects = guard(wire, (why) => host.ban(id, why, identity));
    const unchoke = wire.unchoke;
    wire.unchoke = () => {
      if (!host.isSpent) unchoke.call(wire);
    };
    wire.on("upload", (bytes) => host.sent(bytes));
    const gossip = new Gossip(wire, identity, {
      tell: ends.tell,
      hear: (news) => ends.hear(news, id),
    });
    const peer = ends.isMeeting(cut) ? null : new Peer(wire, cut, host.bans.of(id), expects);
    this.#links.set(wire, { wire, gossip, peer });
    wire.once("close", () => this.#gone(wire));
    if (peer) this.#listen(peer);
  }

  /** @param {Peer} peer */
  #listen(peer) {
    const { wire } = peer;
    const scheduler = () => (this.ends.counts(peer.cut) ? this.ends.scheduler() : null);
    const changed = () => scheduler()?.changed();
    for (const event of /** @type {const} */ (["bitfield", "have-all", "have-none"])) {
      wire.on(event, changed);
    }
    wire.on("have", (piece) => {
      scheduler()?.gained(peer, peer.cut.geometry?.itemsIn(piece) ?? []);
    });
    wire.on("unchoke", () => scheduler()?.fillAll());
    wire.lt_donthave.on("donthave", changed);
    scheduler()?.add(peer);
    this.host.happening("peer came", { identity: this.identity, peer: peer.id });
  }

  /** @param {Wire} wire */
  #gone(wire) {
    const peer = this.#links.get(wire)?.peer;
    this.#links.delete(wire);
    if (!peer) return;
    this.ends.scheduler()?.remove(peer);
    this.host.happening("peer went", { identity: this.identity, peer: peer.id });
  }

  /** @returns {Peer[]} of cuts */
  list() {
    return [...this.#links.values()].flatMap(({ peer }) => peer ?? []);
  }

  /** @returns {Set<string>} ids of the peers of cuts */
  ids() {
    return new Set(this.list().map(({ id }) => id));
  }

  get size() {
    return this.ids().size;
  }

  /** @param {CutSwarm} cut @returns {number} its peers that have the end of it: manifest.json's */
  givers(cut) {
    const last = cut.pieces - 1;
    const has = (/** @type {Peer} */ { wire }) => last >= 0 && wire.peerPieces.get(last);
    return this.list().filter((peer) => peer.cut === cut && has(peer)).length;
  }

  /** @param {string} id whether it is connected in a cut, and says there what is new */
  speaksWith(id) {
    return [...this.#links.values()].some(({ peer, gossip }) => peer?.id === id && gossip.speaks);
  }

  /** Leaves the scheduler; `schedule` enters the next one. */
  rest() {
    for (const peer of this.list()) this.ends.scheduler()?.remove(peer);
  }

  schedule() {
    for (const peer of this.list()) {
      if (this.ends.counts(peer.cut)) this.ends.scheduler()?.add(peer);
    }
  }

  /** Once a second: says what is new, and leaves the rendezvous with those who are met elsewhere. */
  tick() {
    for (const { wire, gossip, peer } of [...this.#links.values()]) {
      gossip.say();
      if (!peer && this.speaksWith(wire.peerId)) wire.destroy();
    }
  }

  /** @param {string} id */
  refuse(id) {
    for (const { wire } of [...this.#links.values()]) if (wire.peerId === id) wire.destroy();
  }

  /** Nothing is given any more, or something again. */
  choke() {
    for (const { wire } of this.#links.values()) {
      if (this.host.isSpent) wire.choke();
      else if (wire.peerInterested) wire.unchoke();
    }
  }

  close() {
    for (const { wire } of [...this.#links.values()]) wire.destroy();
  }
}
