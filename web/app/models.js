/** The models view: what is stored, what the server offers, the catalogue, and one's own files. */

import { byId, button, el, icon, iconButton } from "./dom.js";
import { details } from "./details.js";
import { filesButton } from "./hand.js";
import { knownPeers, knownSource } from "./library.js";
import { bytes, parameters } from "./format.js";
import { askDelete, choose } from "./actions.js";
import { messageOf, named, nameOf } from "./names.js";
import { fetchText } from "../runtime/fetch.js";
import { toast } from "./notices.js";
import { ownModel } from "./own.js";
import { askShare, isShared } from "./sharing/share.js";
import { set, state, watch } from "./store.js";
import { fitsStorage } from "./stored_budget.js";

/** @import {Entry, Listed, OfferedModel, StoredModel} from "./types.js" */

const LONGEST_LIST = 8 << 20; // bytes of models.json or catalogue.json
const view = byId("models-view", HTMLElement);
const lists = el("div");
const disk = el("section", { class: "disk", "aria-label": "Storage", "data-testid": "storage" });
/** @type {{server: OfferedModel[], catalogue: OfferedModel[], about: Record<string, OfferedModel>}} */
const offers = { server: [], catalogue: [], about: {} };

/** @param {string} path @returns {Promise<OfferedModel[]>} empty where there is nothing, or no network */
async function listing(path) {
  try {
    const { status, text } = await fetchText(path, LONGEST_LIST);
    return status === 200 ? JSON.parse(text).models.map(named) : [];
  } catch (error) {
    if (error instanceof RangeError) toast(`${error.message}: its models are left out.`);
    return [];
  }
}

async function fetchOffers() {
  const [server, catalogue] = await Promise.all([
    listing("models.json"),
    listing("catalogue.json"),
  ]);
  offers.server = server;
  offers.about = Object.fromEntries(catalogue.map((offer) => [offer.name, offer]));
  // what the server is meant to ship appears as the server's, or not at all
  offers.catalogue = catalogue.filter(({ gguf }) => gguf);
  renderLists();
}

/** What a damaged model does not say. */
const UNKNOWN = { bytes: null, parameters: null, quantization: null, license: null, chat: null };

/** @param {Listed} stored @returns {Entry} */
function ofStored(stored) {
  const offer = offers.server.find(({ id, name }) => id === stored.id || name === stored.name);
  const listed = offers.catalogue.find(({ name }) => name === stored.name);
  const { id, url } = stored;
  const kept = url ? /** @type {const} */ ({ kind: "manifest", url, id }) : null;
  const offered = offer ? ofOffer(offer, "server") : listed && ofOffer(listed, "catalogue");
  const source = kept ?? knownPeers(id) ?? knownSource(stored.name) ?? offered?.source ?? null;
  const about = offers.about[stored.name]?.about ?? null;
  const title = stored.problem ? (offer?.title ?? stored.title) : stored.title;
  const shown = { title, about, approximate: false, group: /** @type {const} */ ("stored") };
  return { ...UNKNOWN, ...stored, ...shown, stored, source };
}

/**
 * @param {OfferedModel} offer
 * @param {"server" | "catalogue"} group
 * @returns {Entry}
 */
function ofOffer(offer, group) {
  const { name, url, gguf } = offer;
  const listed = offers.about[name];
  return {
    name,
    title: offer.title || nameOf(name),
    group,
    about: offer.about ?? listed?.about ?? null,
    bytes: offer.bytes ?? null,
    approximate: offer.approximate ?? false,
    parameters: offer.parameters ?? null,
    quantization: offer.quantization ?? /Q\d_\w+|BF16|F16|F32/.exec(gguf ?? "")?.[0] ?? null,
    license: offer.license ?? null,
    chat: offer.chat ?? (offer.kind ? offer.kind === "chat" : null),
    stored: null,
    source: gguf ? { kind: "address", url: gguf, name } : { kind: "manifest", url: url ?? "" },
  };
}

/** @returns {Entry[]} each model once: stored, else offered by the server, else in the catalogue */
function entries() {
  const all = state.models.map(ofStored);
  for (const group of /** @type {const} */ (["server", "catalogue"])) {
    for (const offer of offers[group]) {
      const known = all.some(
        ({ name, stored }) => name === offer.name || (stored && stored.id === offer.id),
      );
      if (!known) all.push(ofOffer(offer, group));
    }
  }
  return all;
}

/** @param {Entry} entry */
function factsOf({ bytes: size, approximate, quantization, parameters: count, license, ...entry }) {
  const { chat, stored } = entry;
  const idsOnly = stored?.problem === null && !stored.tokenizer;
  const kind = idsOnly ? "Token ids only" : chat ? "Chat" : "Continues text";
  const facts = [
    chat === null ? null : kind,
    size ? `${approximate ? "about " : ""}${bytes(size)}` : null,
    quantization,
    count ? `${parameters(count)} parameters` : null,
    license ? `${license} licence` : "licence not stated",
  ];
  return el("ul", { class: "facts-line" }, ...facts.map((fact) => fact && el("li", {}, fact)));
}

/** @param {Entry} entry @returns {number} bytes that it lacks, as far as they may be stored */
function lacking({ bytes: size, stored, source }) {
  const budget = source?.kind === "manifest" ? state.settings.storage_budget : null;
  return Math.min(size ?? 0, budget ?? Infinity) - (stored?.stored_bytes ?? 0);
}

/** @param {Entry} entry */
function warningOf(entry) {
  const wrong = entry.stored?.problem ?? entry.stored?.note;
  if (wrong) return messageOf(wrong);
  const free = state.storage ? state.storage.quota - state.storage.used : Infinity;
  if (lacking(entry) <= free) return null;
  return `Needs ${bytes(lacking(entry))}; this browser has ${bytes(Math.max(0, free))} left for it.`;
}

/** @param {Entry} entry */
function badgesOf({ stored }) {
  if (!stored) return [];
  const shared = isShared(stored.id) && el("span", { class: "badge on" }, "Shared");
  return [storedBadge(stored), shared];
}

/** @param {Listed} stored */
function storedBadge(stored) {
  if (stored.id === state.model?.id) return el("span", { class: "badge on" }, "Loaded");
  if (stored.complete) return el("span", { class: "badge" }, "Stored");
  return el("span", { class: "badge" }, `${bytes(stored.stored_bytes)} stored`);
}

/** @param {Entry} entry */
function loadButton(entry) {
  const { stored, title } = entry;
  const loaded = stored !== null && stored.id === state.model?.id;
  const label = !stored
    ? "Get"
    : stored.problem
      ? "Get again"
      : loaded
        ? "Use"
        : stored.complete
          ? "Load"
          : fitsStorage(entry.bytes)
            ? "Resume"
            : "Load";
  const usable = stored?.complete || entry.source;
  return el(
    "button",
    {
      class: loaded || entry.group === "catalogue" ? "button" : "button primary",
      type: "button",
      "data-testid": "load",
      "aria-label": `${label} ${title}`,
      disabled: !usable || state.loading !== null,
      onclick: () => choose(entry),
    },
    label,
  );
}

/** @param {StoredModel} stored */
const shareButton = (stored) =>
  button("Share", () => askShare(stored), {
    "data-testid": "share-model",
    "aria-label": `Share ${stored.title}`,
    "aria-haspopup": "dialog",
  });

/** @param {Entry} entry */
function row(entry) {
  const warning = warningOf(entry);
  const { stored } = entry;
  const remove = () => stored && askDelete(stored);
  const props = { class: "model", "data-testid": "model", "data-name": entry.name };
  return el(
    "li",
    props,
    el(
      "div",
      {},
      el("h3", {}, el("bdi", {}, entry.title), ...badgesOf(entry)),
      stored?.problem ? null : factsOf(entry),
      entry.about ? el("p", { class: "quiet" }, entry.about) : null,
      warning && el("p", { class: "short" }, warning),
    ),
    el(
      "div",
      { class: "actions" },
      stored && iconButton("trash", `Delete ${entry.title}`, remove, { class: "icon-button" }),
      stored?.problem === null && shareButton(stored),
      stored?.problem === null && !stored.complete && filesButton(stored),
      loadButton(entry),
    ),
    stored?.problem === null && details(stored),
  );
}

const GROUPS = /** @type {const} */ ([
  ["stored", "On this device", "ready without a network"],
  ["server", "From this server", ""],
  ["catalogue", "From the web", "fetched once, then kept on this device"],
]);

function renderLists() {
  const all = entries();
  const groups = GROUPS.map(([key, title, note]) => {
    const rows = all.filter(({ group }) => group === key);
    rows.sort((a, b) => Number(b.chat) - Number(a.chat)); // most people come to chat
    if (rows.length === 0) return null;
    return el(
      "section",
      { class: "group" },
      el("h2", {}, title, note ? el("span", {}, note) : null),
      el("ul", { class: "model-list", "data-testid": `models-${key}` }, ...rows.map(row)),
    );
  });
  lists.replaceChildren(...groups.filter((group) => group !== null));
}

function renderDisk() {
  if (!state.storage) return;
  const { quota, used } = state.storage;
  const meter = el("progress", {
    max: 1,
    value: quota ? used / quota : 0,
    "aria-label": "Storage used",
  });
  const text = `${bytes(used)} of models stored`;
  const left = `${bytes(Math.max(0, quota - used))} free for this page`;
  disk.replaceChildren(
    el("div", { class: "row" }, el("span", {}, text), el("span", {}, left)),
    meter,
  );
}

function hello() {
  const back = button("Back to the conversation", () => set({ view: "conversation" }));
  watch(["current"], () => (back.hidden = !state.current));
  const title = el("h1", { id: "models-title" }, "A language model, in this page");
  const text =
    "Choose a model. It is fetched once, kept on this device and runs on your own GPU: what you write stays here, and it works offline.";
  const kinds =
    "A chat model answers you. A base model, which “continues text”, only goes on with what you begin.";
  back.prepend(icon("chat"));
  back.classList.add("back");
  return el("div", { class: "hello" }, title, el("p", {}, text), el("p", {}, kinds), back);
}

export function startModels() {
  view.append(hello(), lists, ownModel(), disk);
  watch(["models", "model", "loading", "storage", "sharing"], renderLists);
  let budget = state.settings.storage_budget;
  watch(["settings"], () => {
    if (budget === state.settings.storage_budget) return;
    budget = state.settings.storage_budget;
    renderLists();
  });
  watch(["storage"], renderDisk);
  fetchOffers();
  addEventListener("online", fetchOffers);
}
