/**
 * @file A model by link: whoever opens one is asked, gets the model from peers alone, and is in a chat
 * with it.
 */

import { choose } from "../actions.js";
import { button, el } from "../dom.js";
import { toast } from "../notices.js";
import { set, state } from "../store.js";
import { addresses, card, showCard, terms, warn, warnings } from "./card.js";
import { link } from "./connection.js";
import { linkHere } from "./address.js";
import { askShare, isShared } from "./share.js";
import { obstacles, trackersOfSettings } from "./trackers.js";

/** @import {Linked} from "../types.js" */

const WHAT =
  "It comes from peers: browsers and programs of people who share it. Each part is checked against the model's identity before it is used, so it is exactly what the link names, or nothing.";
const SEEN =
  "Your network address, and that you want this model. You give nothing of it to others, unless you share it later.";

/** @param {string} id of a model that has come: who has one can pass it on */
function thank(id) {
  const model = state.models.find((listed) => listed.id === id);
  if (model?.problem !== null || isShared(id)) return;
  toast(`${model.title} is here. Pass it on?`, { label: "Share", run: () => askShare(model) });
}

/** @param {string} id @param {Linked} named */
function ask(id, named) {
  const { trackers, torrents } = named;
  const stored = state.models.find((model) => model.id === id && model.complete) ?? null;
  const title = stored?.title ?? `Model ${id.slice(0, 8)}`;
  const get = async () => {
    card.close();
    if (state.loading) return toast(`First ${state.loading} has to be there, or be cancelled.`);
    if (!stored && trackers.length + torrents.length) link(id, named);
    set({ view: "models" });
    const worked = await choose({ title, stored, source: { kind: "peers", id } });
    if (worked && !stored) thank(id);
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
    if (found) ask(found.id, found.named);
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
