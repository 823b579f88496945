/**
 * @file A model by link: `#model=<identity>&tracker=<address>`, the latter as often as need be. Whoever
 * opens one is asked, gets the model from peers alone, and is in a chat with it.
 */

import { choose } from "../actions.js";
import { button, el } from "../dom.js";
import { toast } from "../notices.js";
import { set, state } from "../store.js";
import { addresses, card, showCard, terms, warn, warnings } from "./card.js";
import { link } from "./connection.js";
import { isTracker, obstacles, trackersOfSettings } from "./trackers.js";

const IDENTITY = /^[0-9a-f]{64}$/;
const MOST_TRACKERS = 4;
const WHAT =
  "It comes from peers: browsers and programs of people who share it. Each part is checked against the model's identity before it is used, so it is exactly what the link names, or nothing.";
const SEEN =
  "Your network address, and that you want this model. You give nothing of it to others, unless you share it later.";

/**
 * @param {string} id
 * @param {string[]} trackers
 * @returns {string} what opens this page and asks for the model
 */
export function linkTo(id, trackers) {
  const named = trackers.map((tracker) => ["tracker", tracker]);
  const url = new URL(location.pathname, location.href);
  url.hash = new URLSearchParams([["model", id], ...named]).toString();
  return url.href;
}

/** @returns {{id: string, trackers: string[]} | null} what this page's address names. Throws a RangeError. */
function linkHere() {
  const named = new URLSearchParams(location.hash.slice(1));
  const id = named.get("model");
  if (id === null) return null;
  const trackers = named.getAll("tracker");
  if (!IDENTITY.test(id)) throw new RangeError("it does not name a model by its identity");
  if (trackers.length > MOST_TRACKERS) throw new RangeError("it names too many trackers");
  const other = trackers.find((tracker) => !isTracker(tracker));
  if (other !== undefined) throw new RangeError("a tracker in it is no ws:// or wss:// address");
  return { id, trackers };
}

/** @param {string} id @param {string[]} trackers */
function ask(id, trackers) {
  const stored = state.models.find((model) => model.id === id && model.complete) ?? null;
  const title = stored?.title ?? `Model ${id.slice(0, 8)}`;
  const get = async () => {
    card.close();
    if (state.loading) return toast(`First ${state.loading} has to be there, or be cancelled.`);
    if (!stored && trackers.length) link(id, trackers);
    set({ view: "models" });
    await choose({ title, stored, source: { kind: "peers", id } });
  };
  const meeting = trackers.length ? trackers : trackersOfSettings();
  const label = stored ? "Load it" : "Get it";
  const go = button(label, get, { class: "button primary", "data-testid": "link-get" });
  const cancel = button("Cancel", () => card.close());
  const code = el("code", { dir: "ltr", "data-testid": "link-identity" }, id);
  if (stored) {
    const here = el("p", {}, "This link names a model that is stored here already.");
    showCard(`Load ${title}?`, [here, terms([["Identity", code]])], [cancel, go]);
    return;
  }
  const place = warnings();
  const told = terms([
    ["Identity", code],
    ["Tracker", addresses(meeting)],
    ["They see", SEEN],
  ]);
  showCard("Get a model from peers?", [el("p", {}, WHAT), told, place], [cancel, go]);
  obstacles(id, meeting).then((found) => warn(place, found));
}

function look() {
  try {
    const found = linkHere();
    if (found) ask(found.id, found.trackers);
    else return;
  } catch (error) {
    toast(`This link is damaged: ${/** @type {Error} */ (error).message}.`);
  }
  history.replaceState(null, "", location.pathname + location.search); // asked once
}

export function startLinks() {
  addEventListener("hashchange", look);
  look();
}
