/**
 * @file Whether the worker lives and answers. It holds a lock as long as it lives, so its end is known
 * at once, whatever it died of; and it is asked now and then, so that one that hangs is noticed. To be
 * silent for some seconds is no fault: it compiles, hashes and waits for other workers.
 */

export const PATIENCE_MS = 30_000;
const BEATS = 6; // questions in that time

/**
 * @typedef {object} Told
 * @property {() => void} onEnd the worker is gone
 * @property {(milliseconds: number) => void} onSilence told again after each stretch of patience
 * @property {() => void} onAnswer after silence
 */

export class Heartbeat {
  #told;
  #ask;
  #ended = new AbortController();
  #interval = 0;
  #missed = 0;
  #asked = false;

  /**
   * Begins with the first answer: until then the worker's own start tells how it goes.
   * @param {(lock: string) => Promise<unknown>} ask the worker, which takes the lock and keeps it
   * @param {Told} told
   * @param {number} [patience] milliseconds
   */
  constructor(ask, told, patience = PATIENCE_MS) {
    const lock = `doppler-engine-${crypto.randomUUID()}`;
    this.#told = told;
    this.#ask = () => ask(lock);
    this.#ask().then(
      () => this.#begin(lock, patience / BEATS),
      () => {},
    );
  }

  /** The worker is given up. */
  stop() {
    clearInterval(this.#interval);
    this.#ended.abort();
  }

  /**
   * @param {string} lock
   * @param {number} milliseconds between two questions
   */
  #begin(lock, milliseconds) {
    const { signal } = this.#ended;
    if (signal.aborted) return;
    this.#interval = setInterval(() => this.#beat(milliseconds), milliseconds);
    const end = () => {
      this.stop();
      this.#told.onEnd();
    };
    navigator.locks?.request(lock, { signal }, end).catch(() => {}); // aborted: nobody asks any more
  }

  /** Counts questions, not time: a computer that slept has heard nothing, and that is no silence. */
  #beat(/** @type {number} */ milliseconds) {
    if (this.#asked) {
      this.#missed += 1;
      if (this.#missed % BEATS === 0) this.#told.onSilence(this.#missed * milliseconds);
      return;
    }
    this.#asked = true;
    this.#ask().then(
      () => {
        const silent = this.#missed >= BEATS;
        this.#asked = false;
        this.#missed = 0;
        if (silent && !this.#ended.signal.aborted) this.#told.onAnswer();
      },
      () => {},
    );
  }
}
