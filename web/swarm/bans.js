/**
 * @file How peers behaved, by peer id. Two bad pieces ban for a month, across visits; promises that
 * are not kept shut a peer out for a while, longer each time. An id is what a peer says it is: whoever changes it
 * begins anew, with two bad pieces more. That is what a ban is worth.
 */

import { recall, remember } from "./memory.js";

const KEY = "bans";
const BAD_PIECES = 2;
const BROKEN_PROMISES = 3;
const BAN_MS = 30 * 24 * 3600 * 1000;
/** The first time, and at most: an honest peer may have been busy, or its storage. */
const SHUN_MS = { least: 15_000, most: 10 * 60 * 1000 };
const MOST = 1000; // bans that are remembered, and peers whose conduct is known

/**
 * @typedef {{good: number, bad: number, broken: number, shunned: number}} Conduct pieces, promises of
 *     some, and how often it was shut out for them
 */
/** @typedef {{peer: string, why: string, until: number}} Ban until: as Date.now() has it */

export class Bans {
  /** @type {Map<string, Ban>} */
  #bans = new Map();
  /** @type {Map<string, Conduct>} */
  #conduct = new Map();

  /** Reads what was remembered; before that nobody is let in. */
  async load() {
    const kept = await recall(KEY);
    for (const ban of Array.isArray(kept) ? kept : []) this.#bans.set(ban.peer, ban);
  }

  /** @param {string} peer @returns {Conduct} */
  of(peer) {
    const known = this.#conduct.get(peer);
    if (known) return known;
    if (this.#conduct.size >= MOST) this.#conduct.delete(this.#conduct.keys().next().value ?? "");
    const conduct = { good: 0, bad: 0, broken: 0, shunned: 0 };
    this.#conduct.set(peer, conduct);
    return conduct;
  }

  /** @param {string} peer */
  has(peer) {
    const ban = this.#bans.get(peer);
    if (ban && ban.until < Date.now()) this.#bans.delete(peer);
    return this.#bans.has(peer);
  }

  /** @returns {Ban[]} those that hold */
  list() {
    return [...this.#bans.values()].filter(({ peer }) => this.has(peer));
  }

  /** @param {string} peer @returns {boolean} whether it is banned now */
  badPiece(peer) {
    const conduct = this.of(peer);
    conduct.bad += 1;
    if (conduct.bad >= BAD_PIECES) this.ban(peer, `${conduct.bad} bad pieces`);
    return this.has(peer);
  }

  /** @param {string} peer @returns {boolean} whether it is shut out now */
  brokenPromise(peer) {
    const conduct = this.of(peer);
    conduct.broken += 1;
    if (conduct.broken >= BROKEN_PROMISES) {
      conduct.broken = 0;
      const milliseconds = Math.min(SHUN_MS.least * 4 ** conduct.shunned, SHUN_MS.most);
      conduct.shunned += 1;
      this.ban(peer, "does not give what it says it has", milliseconds);
    }
    return this.has(peer);
  }

  /** @param {string} peer @param {string} why */
  ban(peer, why, milliseconds = BAN_MS) {
    this.#bans.delete(peer);
    this.#bans.set(peer, { peer, why, until: Date.now() + milliseconds });
    while (this.#bans.size > MOST) this.#bans.delete(this.#bans.keys().next().value ?? "");
    if (milliseconds === BAN_MS) this.#keep();
  }

  /** @param {string} peer */
  pardon(peer) {
    this.#bans.delete(peer);
    this.#conduct.delete(peer);
    this.#keep();
  }

  #keep() {
    const lasting = this.list().filter(({ until }) => until > Date.now() + SHUN_MS.most);
    void remember(KEY, lasting);
  }
}
