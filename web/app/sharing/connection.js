/**
 * @file The one connection to peers: made when the first model is shared or taken, made anew when the
 * engine's worker or the addresses are others, ended with the last model. Nothing of web/swarm is
 * loaded before.
 */

import { client } from "../client.js";
import { toast } from "../notices.js";
import { set, state, watch } from "../store.js";
import { Meter } from "./caps.js";
import { askToKeep, keeps } from "./keeping.js";
import { iceServers, trackersOfSettings } from "./trackers.js";

/** @import {Swarm} from "../../swarm/swarm.js" */
/** @import {Linked} from "../types.js" */

/** @typedef {{swarm: Swarm, meter: Meter, port: MessagePort, made: string, joined: Set<string>}} Connection */

const COUNT_MS = 1000;
const AGAIN_MS = 5000; // after WebTorrent gave up
const LONELY_MS = 20_000; // without a peer, until a person who waits is told

/** @type {Connection | null} */
let connection = null;
/** @type {Set<string>} models that are got from peers, and not given for that */
const taken = new Set();
let isStale = false; // the worker that had the other end is gone
let working = Promise.resolve();

/** @param {string} id @returns {Linked | undefined} what a link said of it */
export const linked = (id) => state.sharing.links[id];

/** @param {string} id @returns {string[]} those that a link named, else those of the settings */
export function trackersOf(id) {
  const named = linked(id)?.trackers ?? [];
  return named.length ? named : trackersOfSettings();
}

/** What a connection is made with, as text to be compared. */
const addresses = () => JSON.stringify([trackersOfSettings(), iceServers()]);

/** @returns {Promise<Connection>} */
async function begin() {
  const { Swarm } = await import("../../swarm/swarm.js");
  const { port1, port2 } = new MessageChannel();
  await client.connectPeers(port2);
  isStale = false;
  const swarm = new Swarm(port1, { trackers: trackersOfSettings(), iceServers: iceServers() });
  swarm.addEventListener("happening", (event) => {
    const { what } = /** @type {CustomEvent} */ (event).detail;
    if (what !== "client failed") return;
    isStale = true;
    setTimeout(change, AGAIN_MS);
  });
  return { swarm, meter: new Meter(swarm), port: port1, made: addresses(), joined: new Set() };
}

async function end() {
  const old = connection;
  connection = null;
  if (!old) return;
  old.meter.hold();
  await old.swarm.close();
  old.port.close();
}

/** Brings the connection to what is wanted of it now. */
async function settle() {
  askToKeep(state.sharing.models, change);
  const wanted = new Set([...state.sharing.models, ...taken]);
  if (isStale || (connection && connection.made !== addresses()) || !wanted.size) await end();
  if (!wanted.size) return;
  connection ??= await begin();
  const { swarm, joined } = connection;
  for (const id of joined) if (!wanted.has(id)) swarm.leave(id);
  const { models, copies } = state.sharing;
  for (const id of wanted) {
    const shares = models.includes(id);
    swarm.give(id, shares);
    const room = state.settings.storage_budget;
    swarm.keep(id, { least: shares && keeps(id) ? copies : 0, room });
    await swarm.join(id, linked(id)?.torrents, trackersOf(id));
  }
  connection.joined = wanted;
}

/** @returns {Promise<void>} once it is so; one change at a time */
function settled() {
  working = working.catch(() => {}).then(settle);
  return working;
}

/** As `settled`, where nobody waits. */
function change() {
  settled().catch((error) => {
    if (error?.name !== "Restarted") toast(`Sharing could not begin: ${error?.message ?? error}`);
  });
}

/** What there is to show, and who can be let in again; null while nothing is shared or taken. */
export const shown = () => connection && connection.swarm;

/** @param {string} id */
const factsOf = (id) =>
  shown()
    ?.facts()
    .models.find(({ identity }) => identity === id);

/** @param {string} id @returns {string[]} the torrent of the model as it is stored here, once it is known */
export function torrentsOf(id) {
  const own = factsOf(id)?.own;
  return own ? [own] : [];
}

/**
 * Have a model from peers while `work` is done; others are given nothing of it for that.
 * @template T
 * @param {string} id
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function taking(id, work) {
  taken.add(id);
  const lonely = setTimeout(() => {
    if (!factsOf(id)?.peers.length)
      toast("Nobody who has this model is there yet. This page goes on waiting.");
  }, LONELY_MS);
  try {
    await settled();
    return await work();
  } finally {
    clearTimeout(lonely);
    taken.delete(id);
    change();
  }
}

/** @param {string} id @param {boolean} shares whether others are given it from now on */
export function share(id, shares) {
  const others = state.sharing.models.filter((other) => other !== id);
  set({ sharing: { ...state.sharing, models: shares ? [...others, id] : others } });
}

/** @param {string} id @param {Linked} named what a link says of it */
export function link(id, named) {
  set({ sharing: { ...state.sharing, links: { ...state.sharing.links, [id]: named } } });
}

/** Shares what was shared at the last visit, and follows what is chosen from now on. */
export function startConnection() {
  client.on("start", ({ call }) => {
    if (call.method === "boot") isStale = true;
  });
  client.on("end", ({ call }) => {
    if (call.method === "boot" && (state.sharing.models.length || taken.size)) change();
    if (call.method === "delete") share(String(call.args.id), false);
  });
  let known = "";
  watch(["sharing", "settings"], () => {
    connection?.meter.hold(); // other caps hold at once
    const { models, copies } = state.sharing;
    const now = JSON.stringify([addresses(), models, copies, state.settings.storage_budget]);
    if (now === known) return;
    known = now;
    change();
  });
  setInterval(() => connection?.meter.hold(), COUNT_MS);
}
