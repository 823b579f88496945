/**
 * @file Calls from one worker to another that return their result at once, as Python wants them:
 * the caller sleeps until the answer lies in the memory that both share. Needs a page that is
 * cross-origin isolated.
 */

const LARGEST = 256 << 20; // bytes of a message: only what is used takes memory
const HEAD = 8; // state and length, before the message
const PATIENCE_MS = 60_000;
const [IDLE, ASKED, ANSWERED] = [0, 1, 2];

/** One message at a time, there and back, as JSON; the answer has the number of its question. */
export class Mailbox {
  #question = 0;
  /** Milliseconds until a question is given up. */
  patience = PATIENCE_MS;

  /** @param {SharedArrayBuffer} memory */
  constructor(memory = new SharedArrayBuffer(1 << 16, { maxByteLength: LARGEST })) {
    this.memory = memory;
    this.head = new Int32Array(memory, 0, 2);
  }

  /**
   * @param {string} method
   * @param {unknown[]} args
   * @returns {any}
   */
  ask(method, args) {
    // A question that was given up is answered late: until then its message is not to be touched.
    this.#await(`${method} cannot be asked: an earlier question`);
    const number = ++this.#question;
    this.#write({ number, method, args });
    this.#turn(ASKED);
    this.#await(method);
    const { question, value, error } = this.#read();
    this.#turn(IDLE);
    if (error) throw new Error(error);
    if (question !== number) throw new Error(`${method} was answered for another question`);
    return value;
  }

  /** @param {string} what is waited for, if anything is */
  #await(what) {
    if (Atomics.wait(this.head, 0, ASKED, this.patience) !== "timed-out") return;
    throw new Error(
      `${what} was not answered within ${this.patience / 1000} s; load the model again`,
    );
  }

  /**
   * Answers for ever.
   * @param {Record<string, (...args: any[]) => unknown>} methods
   * @returns {never}
   */
  serve(methods) {
    for (;;) {
      const state = Atomics.load(this.head, 0);
      if (state === ASKED) {
        const { number, method, args } = this.#read();
        const given = answer(methods[method], args);
        try {
          this.#write({ question: number, ...given });
        } catch (error) {
          this.#write({ question: number, error: `${method}: its answer is too long: ${error}` });
        }
        this.#turn(ANSWERED);
      } else {
        Atomics.wait(this.head, 0, state);
      }
    }
  }

  /** @param {number} state */
  #turn(state) {
    Atomics.store(this.head, 0, state);
    Atomics.notify(this.head, 0);
  }

  /** @param {unknown} message */
  #write(message) {
    const bytes = new TextEncoder().encode(JSON.stringify(message));
    const needed = HEAD + bytes.length;
    if (needed > this.memory.byteLength) this.memory.grow(needed);
    new Uint8Array(this.memory, HEAD).set(bytes);
    this.head[1] = bytes.length;
  }

  #read() {
    // A copy: decoders refuse shared memory.
    const bytes = new Uint8Array(this.memory, HEAD, this.head[1]).slice();
    return JSON.parse(new TextDecoder().decode(bytes));
  }
}

/**
 * @param {(...args: any[]) => unknown} method
 * @param {unknown[]} args
 */
function answer(method, args) {
  try {
    return { value: method(...args) };
  } catch (error) {
    return { error: String(error) };
  }
}
