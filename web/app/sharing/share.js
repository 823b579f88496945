/** @file Sharing a stored model: off until a person says so here, its link, and the end of it. */

import { button, el } from "../dom.js";
import { bytes } from "../format.js";
import { announce } from "../notices.js";
import { state } from "../store.js";
import { capFields, givenToday } from "./caps.js";
import { addresses, card, showCard, terms, warn, warnings } from "./card.js";
import { share, torrentsOf, trackersOf } from "./connection.js";
import { linkTo } from "./address.js";
import { isOpen } from "./licences.js";
import { qrCode } from "./qr.js";
import { obstacles } from "./trackers.js";

/** @import {StoredModel} from "../types.js" */

const WHAT =
  "Others then get it from this browser, while this page is open: the model, and nothing of what you write. You can stop it any time.";
const SEEN =
  "Your network address, and that you have this model. So do the tracker, and whoever asks it who shares this model.";
const AGAIN_MS = 500;
const LOOPBACK = ["127.0.0.1", "localhost", "[::1]"];

/** What this page does for others beside giving; nobody who shares may be surprised by it. */
function keptForOthers() {
  const { copies } = state.sharing;
  if (!copies) return "Nothing: “Copies to keep” is 0 in the settings.";
  const { storage_budget: budget } = state.settings;
  const room = budget === null ? "all of the model" : `${bytes(budget)} of the model`;
  return `Where not all of the model is stored here, this page also fetches parts that fewer than ${copies} have, and keeps them, until ${room} is here. The settings say how many copies, and how much.`;
}

/** @param {string} id */
export const isShared = (id) => state.sharing.models.includes(id);

/** @param {StoredModel} model */
const licenceOf = ({ license }) => (license ? `${license}` : "Not stated");

/** @param {StoredModel} model */
function mayField({ license }) {
  const why = license
    ? `The licence “${license}” may set conditions for passing it on.`
    : "Its files do not say what its licence is.";
  const input = el("input", { type: "checkbox", id: "share-may", "data-testid": "share-may" });
  const label = el("label", { for: "share-may" }, `I may pass this model on. ${why}`);
  return { input, element: el("div", { class: "may" }, input, label) };
}

/** @param {StoredModel} model */
function showQuestion(model) {
  const trackers = trackersOf(model.id);
  const may = isOpen(model.license) ? null : mayField(model);
  const place = warnings();
  const begin = () => {
    share(model.id, true);
    announce(`${model.title} is shared.`);
    showShared(model);
  };
  const go = button("Share", begin, { class: "button primary", "data-testid": "share-begin" });
  const update = () => (go.disabled = may !== null && !may.input.checked);
  may?.input.addEventListener("change", update);
  update();
  const told = terms([
    ["Peers see", SEEN],
    ["Tracker", addresses(trackers)],
    ["Kept for others", keptForOthers()],
    ["Licence", licenceOf(model)],
  ]);
  const caps = el(
    "fieldset",
    {},
    el("legend", {}, "At most, of all models you share"),
    capFields(),
  );
  const content = [el("p", {}, WHAT), told, may?.element ?? null, caps, place];
  showCard(`Share ${model.title}?`, content, [button("Cancel", () => card.close()), go]);
  obstacles(model.id, trackers).then((found) => warn(place, found));
}

/** The link, to be copied. */
function linkField() {
  const props = { type: "text", readonly: true, "data-testid": "share-link" };
  const input = el("input", { ...props, "aria-label": "Link to this model", dir: "ltr" });
  input.addEventListener("focus", () => input.select());
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(input.value);
      copy.textContent = "Copied";
      announce("Copied");
    } catch {
      input.focus(); // selected, to be copied by hand
    }
  });
  copy.setAttribute("aria-label", "Copy the link");
  return { input, element: el("div", { class: "share-link" }, input, copy) };
}

/** @param {StoredModel} model */
function showShared(model) {
  const trackers = trackersOf(model.id);
  const { input, element } = linkField();
  const code = el("div", { class: "share-code" });
  const place = warnings();
  const stop = () => {
    share(model.id, false);
    announce(`${model.title} is shared no more.`);
    card.close();
  };
  const local = LOOPBACK.includes(location.hostname);
  const text =
    "Whoever opens this link is asked first, then gets the model from you and the others that share it.";
  const here = "This page's address is that of this machine: the link works on it alone.";
  const caps = el(
    "fieldset",
    {},
    el("legend", {}, "At most, of all models you share"),
    capFields(),
    el("p", { class: "quiet" }, `Given today: ${bytes(givenToday())}.`),
  );
  const content = [
    el("p", {}, text),
    !model.complete && terms([["Kept for others", keptForOthers()]]),
    element,
    local && el("p", { class: "quiet" }, here),
    code,
    caps,
    place,
  ];
  const end = button("Stop sharing", stop, { class: "button danger", "data-testid": "share-stop" });
  showCard(`${model.title} is shared`, content, [end, button("Close", () => card.close())]);
  /** The torrent is known a while after sharing began: once all blocks were hashed. */
  const showLink = () => {
    const link = linkTo(model.id, { trackers, torrents: torrentsOf(model.id) });
    if (link === input.value) return;
    input.value = link;
    if (document.activeElement === input) input.select();
    qrCode(link, `QR code of the link to ${model.title}`).then(
      (drawn) => link === input.value && code.replaceChildren(drawn),
      () => {}, // offline, at the first time: the link is there
    );
  };
  showLink();
  const again = setInterval(
    () => (input.isConnected ? showLink() : clearInterval(again)),
    AGAIN_MS,
  );
  obstacles(model.id, trackers).then((found) => warn(place, found));
}

/** @param {StoredModel} model its question, or its link where it is shared */
export function askShare(model) {
  if (isShared(model.id)) showShared(model);
  else showQuestion(model);
}
