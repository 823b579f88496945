/**
 * The one worker, and `window.doppler`: the page's own buttons, tests and a developer's console all
 * go through `call`, so whatever is loaded by one is seen by the others. Events of the client:
 * "start", "event", "end" and "fail", each with the call; the page shows progress from them. Of the
 * worker itself: "ended", and "silent" and "answers" as app/heartbeat.js tells them.
 */

import * as Comlink from "../vendor/comlink.js";
import { workerURL } from "../runtime/trusted.js";
import { saveAs } from "./dom.js";
import { Heartbeat } from "./heartbeat.js";
import { keepPage, scriptsRun } from "./offline.js";
import { noteBoot, noteCall, timeline } from "./timeline.js";

/** @import {Call, DeviceReport, DopplerEvent, DopplerWorker} from "./types.js" */
/** @import {Method, Methods, OnEvent} from "./types.js" */
/** @typedef {"start" | "event" | "end" | "fail"} OfCalls */
/** @typedef {"ended" | "silent" | "answers"} OfWorker */
/** @typedef {{call: Call, event?: DopplerEvent, result?: any, error?: Error}} Detail */
/** @typedef {{error?: Error, silence?: number}} WorkerDetail `silence` in milliseconds */

/** @param {string} name @param {string} message */
const errorOf = (name, message) => Object.assign(new Error(message), { name });

/** @param {Call} call */
const endsAnswer = ({ method, args }) => method === "cancel" && args.what !== "transfers";

class Client extends EventTarget {
  /** @type {Worker | null} */
  #worker = null;
  /** @type {Heartbeat | null} */
  #heartbeat = null;
  /** How many stops were asked for: runtime/stops.js reads it. */
  #stops = globalThis.crossOriginIsolated ? new Int32Array(new SharedArrayBuffer(4)) : null;
  /** @type {(error: Error) => void} */
  #abandon = () => {};
  /** @type {Promise<never>} rejects every call of a worker that is gone */
  #gone = this.#untilGone();
  #booted = this.#boot();
  /** The device report, once Python runs. */
  ready = this.#report();

  /** Give up the worker, with all that it held on the GPU, and start another. */
  restart() {
    this.#heartbeat?.stop();
    this.#worker?.terminate();
    this.#abandon(errorOf("Restarted", "The engine was restarted."));
    this.#gone = this.#untilGone();
    this.#booted = this.#boot();
    this.ready = this.#report();
    return this.ready;
  }

  /** @returns {Promise<never>} */
  #untilGone() {
    const gone = new Promise((_, reject) => (this.#abandon = reject));
    gone.catch(() => {}); // each call that it cuts off tells
    return /** @type {Promise<never>} */ (gone);
  }

  /** @returns {Promise<DeviceReport>} */
  #report() {
    const report = this.#booted.then(() => this.call("device", {}));
    report.catch(() => {}); // whoever awaits it tells
    return report;
  }

  async #boot() {
    const call = { method: "boot", args: {} };
    const keeping = keepPage();
    if (!navigator.serviceWorker?.controller) await keeping; // its files would not be kept
    const worker = new Worker(workerURL("../worker.js"), { type: "module" });
    const remote = /** @type {DopplerWorker} */ (/** @type {unknown} */ (Comlink.wrap(worker)));
    this.#worker = worker;
    this.#heartbeat = this.#listenTo(worker, remote);
    const unloadable = new Promise((_, reject) => {
      worker.addEventListener("error", (event) => {
        const why = event.message || "worker.js or a part of it could not be fetched.";
        reject(errorOf("InternalError", why));
      });
    });
    unloadable.catch(() => {}); // matters until the boot is done
    this.#stops?.fill(0);
    const memory = /** @type {SharedArrayBuffer | undefined} */ (this.#stops?.buffer) ?? null;
    const boot = () => Promise.race([remote.boot(this.#listener(call), memory), unloadable]);
    await scriptsRun(); // whoever watches is there then
    noteBoot(await this.#observe(call, boot));
    return remote;
  }

  /**
   * @param {Worker} worker
   * @param {DopplerWorker} remote
   */
  #listenTo(worker, remote) {
    let reason = "Python or the browser ended it, perhaps for want of memory";
    worker.addEventListener("message", ({ data }) => (reason = data?.ended ?? reason));
    return new Heartbeat((lock) => remote.live(lock), {
      onEnd: () => {
        const error = errorOf("EngineError", reason);
        this.#abandon(error);
        this.#tell("ended", { error });
      },
      onSilence: (silence) => this.#tell("silent", { silence }),
      onAnswer: () => this.#tell("answers", {}),
    });
  }

  /**
   * Call a method of doppler.api in the worker.
   * @template {Method} M
   * @param {M} method
   * @param {Methods[M]["args"]} args
   * @param {((event: Methods[M]["events"]) => void) | null} [onEvent]
   * @param {File[] | null} [files]
   * @returns {Promise<Methods[M]["result"]>}
   */
  async call(method, args, onEvent = null, files = null) {
    const remote = await this.#booted;
    const call = { method, args: /** @type {Record<string, unknown>} */ (args) };
    if (this.#stops && endsAnswer(call)) Atomics.add(this.#stops, 0, 1);
    let failed = false; // events of a worker that was ended may still be on their way
    const listener = this.#listener(call, (event) => failed || onEvent?.(event));
    try {
      return await this.#observe(call, () => remote.call(method, args, listener, files));
    } catch (error) {
      failed = true;
      throw error;
    }
  }

  /** @param {MessagePort} port to the page's transport, which the worker is given for as long as it lives */
  async connectPeers(port) {
    const gone = this.#gone;
    const remote = await Promise.race([this.#booted, gone]);
    await Promise.race([remote.connectPeers(Comlink.transfer(port, [port])), gone]);
  }

  /**
   * @param {Call} call
   * @param {((event: any) => void) | null} [onEvent] who hears the events of its method
   */
  #listener(call, onEvent) {
    return Comlink.proxy((/** @type {DopplerEvent} */ event) => {
      onEvent?.(event);
      this.#tell("event", { call, event });
    });
  }

  /**
   * @template T
   * @param {Call} call
   * @param {() => Promise<T>} run
   * @returns {Promise<T>}
   */
  async #observe(call, run) {
    this.#tell("start", { call });
    const began = performance.now();
    try {
      const result = await Promise.race([run(), this.#gone]);
      noteCall(call.method, began, result);
      this.#tell("end", { call, result });
      return result;
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      this.#tell("fail", { call, error });
      throw error;
    }
  }

  /**
   * @param {OfCalls | OfWorker} type
   * @param {Detail | WorkerDetail} detail
   */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /**
   * @template {OfCalls | OfWorker} T
   * @param {T} type
   * @param {(detail: T extends OfCalls ? Detail : WorkerDetail) => void} run
   */
  on(type, run) {
    this.addEventListener(type, (event) => run(/** @type {CustomEvent} */ (event).detail));
  }
}

export const client = new Client();

/**
 * Logits of every prompt position, offered as the download "logits.f32" (float32, rows × vocab).
 * @param {Methods["logits"]["args"]} args
 */
async function saveLogits(args) {
  const { prompt_ids, rows, vocab, file } = await client.call("logits", args);
  let folder = await navigator.storage.getDirectory();
  for (const name of ["doppler", "tmp"]) folder = await folder.getDirectoryHandle(name);
  const handle = await folder.getFileHandle(file);
  saveAs(await handle.getFile(), "logits.f32");
  return { prompt_ids, rows, vocab };
}

window.doppler = {
  get ready() {
    return client.ready;
  },
  get timeline() {
    return timeline();
  },
  call: (method, args = {}, onEvent = null, files = null) =>
    client.call(/** @type {Method} */ (method), args, onEvent, files),
  saveLogits,
};
