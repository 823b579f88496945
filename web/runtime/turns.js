/** @file Turns: locks of which one call in all tabs of the page has each at a time. */

class Turn {
  #abort = new AbortController();
  #release = () => {};

  /** @param {string} name */
  constructor(name) {
    this.name = `doppler ${name}`;
  }

  /** @returns {Promise<boolean>} whether it could be had at once */
  takeNow() {
    return this.#request({ ifAvailable: true });
  }

  /** Waits until it can be had: whoever had it gave it back, or their tab is gone. */
  take() {
    return this.#request({ signal: this.#abort.signal });
  }

  /**
   * @param {LockOptions} options
   * @returns {Promise<boolean>}
   */
  #request(options) {
    /** @type {Promise<boolean>} */
    const answer = new Promise((resolve, reject) => {
      const hold = (/** @type {Lock | null} */ lock) => {
        resolve(lock !== null);
        return lock && new Promise((release) => (this.#release = () => release(undefined)));
      };
      navigator.locks.request(this.name, options, hold).catch(reject);
    });
    answer.catch(() => {}); // who was cancelled no longer listens
    return answer;
  }

  /** Gives it back, or no longer waits for it. */
  leave() {
    this.#abort.abort();
    this.#release();
  }
}

/** @param {string} name */
export const turn = (name) => new Turn(name);
