/**
 * What comlink exposes of worker.js. `call` runs the methods of messages.d.ts; what is here besides
 * is the worker's own, and Python knows nothing of it.
 */

import type { Methods, Stage } from "./messages.js";

export interface DopplerWorker {
  /** Loads Python and Doppler; a second call waits for the first. */
  boot(
    onEvent?: ((event: BootEvent) => void) | null,
    stops?: SharedArrayBuffer | null,
  ): Promise<Stage[]>;
  /**
   * Where it is rejected, the Error's name is a class of py/doppler/errors.py ("CorruptError") or
   * "InternalError", and its message is for people.
   */
  call<M extends Method>(
    method: M,
    args: Methods[M]["args"],
    onEvent?: ((event: Methods[M]["events"]) => void) | null,
    files?: File[] | null,
  ): Promise<Methods[M]["result"]>;
  /** Gives the worker its end of the port to the page's transport (swarm/port.d.ts). Transfer it. */
  connectPeers(port: MessagePort): Promise<void>;
  /** Answers when nothing else is being done; the lock is held until the worker ends. */
  live(lock: string): Promise<void>;
  /** Runs Python in the worker: for the console. */
  run(code: string): Promise<any>;
}

export type Method = keyof Methods;
export type DopplerEvent = Methods[Method]["events"] | BootEvent;
export type OnEvent = (event: DopplerEvent) => void;

/** How far the start of Python is. */
export interface BootEvent {
  type: "boot";
  stage: "python" | "image" | "ready";
  done: number;
  total: number;
}
