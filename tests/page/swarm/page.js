// A page of the swarm's tests: the real transport, and block_store.js as its worker.

import { Swarm } from "/swarm/swarm.js";

const policy = trustedTypes.createPolicy("doppler", { createScriptURL: (url) => url });
const worker = new Worker(policy.createScriptURL("/harness/block_store.js"), { type: "module" });
const waiting = new Map();
let numbers = 0;

worker.onmessage = ({ data: { number, value, error } }) => {
  const { resolve, reject } = waiting.get(number);
  waiting.delete(number);
  if (error) reject(new Error(error));
  else resolve(value);
};

/** Asks the store for something, as block_store.js has it. */
export function store(command, args = {}, transfer = []) {
  const number = ++numbers;
  worker.postMessage({ ...args, command, number }, transfer);
  return new Promise((resolve, reject) => waiting.set(number, { resolve, reject }));
}

const { port1, port2 } = new MessageChannel();
await store("port", { port: port2 }, [port2]);
export const swarm = new Swarm(port1);
export const happenings = [];
swarm.addEventListener("happening", ({ detail }) =>
  happenings.push({ at: performance.now(), ...detail }),
);
