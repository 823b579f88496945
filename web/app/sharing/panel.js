/** @file The peers panel of the sidebar: who is there, what came from whom, what is rare or gone. */

import { button, byId, el } from "../dom.js";
import { refresh } from "../engine.js";
import { bytes, plural } from "../format.js";
import { toast } from "../notices.js";
import { state, watch } from "../store.js";
import { shown } from "./connection.js";

/** @import {Swarm} from "../../swarm/swarm.js" */
/** @typedef {ReturnType<Swarm["facts"]>} Facts */
/** @typedef {Facts["models"][0]} ModelFacts */

const AGAIN_MS = 1000;
const MOST_PEERS = 12;
const MOST_SHARDS = 4;

const body = el("div", {
  class: "memory-body",
  tabindex: 0,
  role: "group",
  "aria-label": "Each peer",
});
const total = el("b", { "data-testid": "peers-count" });
const panel = el(
  "details",
  { "data-testid": "peers-panel", hidden: true },
  el("summary", {}, el("span", {}, "Peers"), total),
  body,
);

/** @param {string} peer its id: what tells it from others is at the end */
const short = (peer) => peer.slice(-8);

/** @param {string} text @param {string} testid */
const note = (text, testid) => el("p", { class: "tier-note", "data-testid": testid }, text);

/** @param {string} identity */
const titleOf = (identity) =>
  state.models.find(({ id }) => id === identity)?.title ?? `Model ${identity.slice(0, 8)}`;

/** Where the blocks came from that are here. @param {ModelFacts} model */
function originsOf({ have, blocks, origins, others, for_others: kept }) {
  const fromPeers = Object.keys(origins).length;
  const before = Math.max(0, have - fromPeers - others);
  const parts = [
    before > 0 && `${before} stored before`,
    others > 0 && `${others} over HTTP or from a file`,
    fromPeers > 0 && `${fromPeers} from peers`,
  ].filter(Boolean);
  const from = parts.length ? `: ${parts.join(", ")}` : "";
  const why = kept > 0 ? ` Kept for others: ${plural(kept, "block")} that few have.` : "";
  return note(`${have} of ${plural(blocks, "block")} here${from}.${why}`, "peers-origins");
}

/** @param {ModelFacts} model @returns {string} empty where each block exists somewhere */
function goneOf({ nowhere, lost_shards: lost }) {
  if (!nowhere.length) return "";
  const more = lost.length > MOST_SHARDS ? ` and ${lost.length - MOST_SHARDS} more` : "";
  const where = `${lost.slice(0, MOST_SHARDS).join(", ")}${more}`;
  return `Nobody who is there has ${plural(nowhere.length, "block")} of ${where}: the rest comes when one who does returns.`;
}

/** @type {Map<string, string>} which shards of a model were told to be gone */
const told = new Map();

/** Whoever waits for a model is told what it waits for, wherever they look. @param {ModelFacts} model */
function tellGone(model) {
  const { identity, wanted, lost_shards: lost } = model;
  const gone = wanted ? lost.join() : "";
  if (gone && gone !== told.get(identity)) toast(goneOf(model));
  told.set(identity, gone);
}

/** @param {ModelFacts} model */
function rarity(model) {
  const { peers, copies, rarest } = model;
  const gone = goneOf(model);
  if (gone) return el("p", { class: "short", "data-testid": "peers-nowhere" }, gone);
  if (!copies.length || !peers.length) return null;
  const text = `The rarest: ${plural(rarest.blocks, "block")} with ${rarest.copies === 1 ? "one copy" : `${rarest.copies} copies`}, yours counted.`;
  return note(text, "peers-rarest");
}

/**
 * @param {ModelFacts["peers"][0]} peer
 * @param {ModelFacts} model
 */
function peerRow({ id, has, down, up, bad }, { blocks, origins }) {
  const came = Object.values(origins).filter((peer) => peer === id).length;
  const told = [
    `has ${has} of ${blocks}`,
    `↓ ${bytes(down)}/s`,
    `↑ ${bytes(up)}/s`,
    came > 0 && `${came} came from it`,
    bad > 0 && `${bad} bad`,
  ].filter(Boolean);
  return el(
    "li",
    { "data-testid": "peer" },
    el("code", { title: id }, short(id)),
    " ",
    told.join(" · "),
  );
}

/** @param {ModelFacts} model */
function modelPart(model) {
  const { identity, peers } = model;
  const gives = state.sharing.models.includes(identity) ? "shared" : "only fetched";
  const rows = peers.slice(0, MOST_PEERS).map((peer) => peerRow(peer, model));
  const more = peers.length - rows.length;
  return el(
    "section",
    { class: "peers-of", "data-testid": "peers-model" },
    el("h3", {}, el("bdi", {}, titleOf(identity)), ` (${gives})`),
    originsOf(model),
    rarity(model),
    peers.length ? el("ul", {}, ...rows) : note("Nobody else is there.", "peers-nobody"),
    more > 0 && note(`And ${more} more.`, "peers-more"),
  );
}

/** @param {Swarm} swarm @param {Facts["bans"]} bans */
function bansPart(swarm, bans) {
  if (!bans.length) return [];
  const rows = bans.map(({ peer, why, until }) =>
    el(
      "li",
      {},
      el("code", { title: peer }, short(peer)),
      ` ${why}, until ${new Date(until).toLocaleString()} `,
      button("Let in", () => swarm.pardon(peer), {
        class: "text-button",
        "aria-label": `Let ${short(peer)} in again`,
      }),
    ),
  );
  return [el("section", { class: "peers-of" }, el("h3", {}, "Shut out"), el("ul", {}, ...rows))];
}

const kept = { listed: 0, before: 0 }; // blocks for others, when models were listed and a look ago

/** What comes by itself is counted where models are listed, once no more comes. @param {Facts} facts */
function listKept({ models }) {
  const now = models.reduce((sum, { for_others: count }) => sum + count, 0);
  if (now === kept.before && now !== kept.listed) {
    kept.listed = now;
    refresh().catch(() => {}); // only a list grows old
  }
  kept.before = now;
}

function render() {
  const swarm = shown();
  panel.hidden = swarm === null;
  if (!swarm) return;
  const facts = swarm.facts();
  facts.models.forEach(tellGone);
  listKept(facts);
  const ids = new Set(facts.models.flatMap(({ peers }) => peers.map(({ id }) => id)));
  total.textContent = ids.size ? String(ids.size) : "none";
  if (!panel.open || body.querySelector("button:focus")) return;
  const given = note(`Given to others: ${bytes(facts.given)} since the start.`, "peers-given");
  body.replaceChildren(...facts.models.map(modelPart), given, ...bansPart(swarm, facts.bans));
}

export function startPeers() {
  byId("peers", HTMLElement).append(panel);
  panel.addEventListener("toggle", render);
  watch(["models", "sharing"], render);
  setInterval(render, AGAIN_MS);
}
