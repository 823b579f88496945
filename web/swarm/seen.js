/** @file Tells the worker how many peers hold each block: what they do not hold, HTTP may bring. */

/** @import {Identity, Seen as Message} from "./port.js" */
/** @import {Scheduler} from "./scheduler.js" */
/** @import {Host} from "./swarm.js" */

export class Seen {
  #told = "";

  /** @param {Identity} identity @param {Host} host */
  constructor(identity, host) {
    this.identity = identity;
    this.host = host;
  }

  /**
   * Once a second: what has changed.
   * @param {Scheduler | null} scheduler null while the layout is not known
   * @param {number} blocks
   * @param {number} peers
   */
  tell(scheduler, blocks, peers) {
    const counts = scheduler?.count().subarray(0, blocks) ?? [];
    const copies = Uint8Array.from(counts, (count) => Math.min(count, 255));
    const text = `${peers} ${copies}`;
    if (text === this.#told) return;
    this.#told = text;
    /** @type {Message} */
    const seen = { type: "seen", identity: this.identity, peers, copies: copies.buffer };
    this.host.post(seen, [seen.copies]);
  }
}
