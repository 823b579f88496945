/** @file Where peers meet: the trackers and ICE servers of the settings, else this page's own server. */

import { fetchText } from "../../runtime/fetch.js";
import { state } from "../store.js";

/** @typedef {{path: string, all: boolean, models: string[], others: string[]}} Served of models.json */

const LONGEST_LIST = 8 << 20; // bytes
const ICE = /^(stun|stuns|turn|turns):\S+$/;

/** @param {string | null} text @returns {string[]} its lines, without what is empty */
const linesOf = (text) => (text ?? "").split("\n").flatMap((line) => line.trim() || []);

/** @param {string} path @returns {string} its address on this page's server */
const socketOf = (path) => new URL(path, location.href.replace(/^http/, "ws")).href;

/** @param {string} text @returns {boolean} whether it is the address of a tracker: a WebSocket's */
export function isTracker(text) {
  const url = URL.parse(text);
  return url !== null && ["ws:", "wss:"].includes(url.protocol);
}

/** @returns {string[]} addresses */
export function trackersOfSettings() {
  const named = linesOf(state.settings.trackers).filter(isTracker);
  return named.length ? named : [socketOf("/tracker")];
}

/** @returns {RTCIceServer[]} */
export const iceServers = () =>
  linesOf(state.settings.ice_servers).flatMap((line) => {
    const [urls, username, credential] = line.split(/\s+/);
    if (!ICE.test(urls)) return [];
    return username === undefined ? { urls } : { urls, username, credential: credential ?? "" };
  });

/** @param {string | null} text @returns {string[]} lines that are no address of a tracker */
export const badTrackers = (text) => linesOf(text).filter((line) => !isTracker(line));

/** @param {string | null} text @returns {string[]} lines that are no ICE server */
export const badServers = (text) => linesOf(text).filter((line) => !ICE.test(line.split(/\s/)[0]));

/** @returns {Promise<Served | null>} what this page's server says; null where it has no tracker or is gone */
async function served() {
  try {
    const { status, text } = await fetchText("models.json", LONGEST_LIST);
    return (status === 200 && JSON.parse(text).tracker) || null;
  } catch {
    return null;
  }
}

/**
 * @param {string} model its identity
 * @param {string[]} trackers addresses
 * @returns {Promise<string[]>} what stands in the way of meeting peers there, for people
 */
export async function obstacles(model, trackers) {
  const known = await served();
  return trackers.flatMap((tracker) => {
    const { origin } = new URL(tracker);
    if (origin === new URL(socketOf("/")).origin) {
      if (!known) return "This page's server has no tracker, or is gone: peers cannot meet there.";
      if (known.all || known.models.includes(model)) return [];
      return "The tracker of this page's server carries only the models of its own folder, and this is none of them: doppler serve --allow all carries others.";
    }
    if (known?.others.some((other) => new URL(other).origin === origin)) return [];
    return `This page's server does not let it connect to ${tracker}: doppler serve --tracker ${tracker} would.`;
  });
}
