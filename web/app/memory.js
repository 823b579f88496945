/**
 * @file The memory panel of the sidebar: what the loaded model takes of each tier, how its parts were
 * found and brought, and a map of its experts. The engine is asked only while the panel is open.
 */

import { client } from "./client.js";
import { byId, el } from "./dom.js";
import { percent } from "./foresight.js";
import { bytes, plural } from "./format.js";
import { HeatMap } from "./heatmap.js";
import { state, watch } from "./store.js";

/** @import {Paging, Residency, Tiers} from "./types.js" */

const AGAIN_MS = 1000; // while an answer is written, or host memory is filled after it
const TIERS = /** @type {const} */ ({
  host: "host memory",
  storage: "storage",
  remote: "the network",
});

const map = new HeatMap();
const bars = el("div", { class: "tiers" });
const words = el("div", { class: "paging-words" });
const panel = el(
  "details",
  { "data-testid": "memory-panel" },
  el("summary", {}, el("span", {}, "Memory"), el("b", {}, "by tier")),
  el("div", { class: "memory-body" }, bars, words, map.element),
);

/**
 * @param {string} name
 * @param {number} used
 * @param {number} most that it may be; the bar is full then
 * @param {string} text
 * @param {string} testid
 */
function bar(name, used, most, text, testid) {
  const share = most > 0 ? Math.min(1, used / most) : 0;
  const fill = el("span", { style: `width: ${(100 * share).toFixed(1)}%` });
  const head = el("div", { class: "row" }, el("span", {}, name), el("b", {}, text));
  const track = el("div", { class: "tier-bar", "aria-hidden": "true" }, fill);
  return el("div", { class: "tier", "data-testid": testid }, head, track);
}

/** @param {Residency} residency */
function barsOf({ memory, gpu_budget, host_budget, host_bytes, bytes: size, paging }) {
  const { total, peak } = memory;
  const most = `, ${bytes(peak)} at most so far`;
  const gpu = gpu_budget === null ? bytes(total) : `${bytes(total)} of ${bytes(gpu_budget)}`;
  const stored = state.storage?.quota ?? size;
  return [
    bar("GPU", total, gpu_budget ?? peak, gpu, "tier-gpu"),
    el("p", { class: "tier-note" }, `${gpu_budget === null ? "No budget" : "Budget kept"}${most}`),
    ...(paging
      ? [
          bar(
            "Host memory",
            host_bytes,
            host_budget,
            `${bytes(host_bytes)} of ${bytes(host_budget)}`,
            "tier-host",
          ),
        ]
      : []),
    bar("Storage", size, stored, bytes(size), "tier-storage"),
    el("p", { class: "tier-note" }, `All of the model, of ${bytes(stored)} for this page`),
  ];
}

/** @param {Tiers} tiers */
const sum = ({ host, storage, remote }) => host + storage + remote;

/** @param {number} value milliseconds */
const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

/**
 * @param {Paging} paging
 * @param {number} tokens that it is told of
 */
function figures({ hits, misses, bytes: moved, waited_ms, kv_brought }, tokens) {
  const uses = hits + misses;
  const parts = /** @type {(keyof Tiers)[]} */ (Object.keys(TIERS))
    .filter((tier) => moved[tier] > 0)
    .map((tier) => `${bytes(moved[tier] / tokens)} from ${TIERS[tier]}`);
  if (kv_brought > 0) parts.push(`${bytes(Math.round(kv_brought / tokens))} of keys and values`);
  const from = parts.join(", ");
  /** @type {[string, string, string][]} */
  const rows = [
    ["Brought a token", bytes(Math.round((sum(moved) + kv_brought) / tokens)), "brought"],
    ["Waited a token", milliseconds(sum(waited_ms) / tokens), "waited"],
  ];
  if (uses > 0) rows.unshift(["Experts found on the GPU", percent(hits / uses), "hits"]);
  const list = rows.flatMap(([name, value, id]) => [
    el("dt", {}, name),
    el("dd", { "data-testid": `paging-${id}` }, value),
  ]);
  const detail = el("p", { class: "tier-note", hidden: !from }, from);
  return [el("dl", {}, ...list), detail];
}

/** @param {Residency} residency @returns {HTMLElement[]} */
function wordsOf({ paging, last }) {
  if (!paging) return [el("p", {}, "All of the model is on the GPU.")];
  const { layers, kv_layers } = paging;
  const there = `${paging.slots.toLocaleString("en")} of ${paging.experts.toLocaleString("en")} experts have room on the GPU.`;
  /** @type {HTMLElement[]} */
  const parts = paging.experts > 0 ? [el("p", {}, there)] : [];
  if (layers > 0) parts.push(el("p", {}, `${plural(layers, "layer")} brought for every token.`));
  if (kv_layers > 0) {
    const where = `Keys and values of ${plural(kv_layers, "layer")} lie in host memory.`;
    parts.push(el("p", { "data-testid": "kv-layers" }, where));
  }
  if (last && last.written > 0) {
    const { read, written, reading, writing } = last;
    const brought = bytes(sum(reading.bytes) + reading.kv_brought);
    const prompt = `Reading its ${plural(read, "token")} brought ${brought} and waited ${milliseconds(sum(reading.waited_ms))}.`;
    parts.push(
      el("h3", {}, `Last answer, ${plural(written, "token")}`),
      ...figures(writing, written),
      ...(read > 0 ? [el("p", { class: "tier-note" }, prompt)] : []),
    );
  }
  const all = paging.hits + paging.misses;
  const found = all > 0 ? `${percent(paging.hits / all)} of experts found, ` : "";
  const text = `Since it was loaded: ${found}${bytes(sum(paging.bytes) + paging.kv_brought)} brought.`;
  return [...parts, el("p", { class: "tier-note", "data-testid": "since-load" }, text)];
}

/** @param {Residency} residency */
function show(residency) {
  bars.replaceChildren(...barsOf(residency));
  words.replaceChildren(...wordsOf(residency));
  map.show(residency.layers);
}

let timer = 0;
let asking = false;
let filled = 0; // bytes of host memory, as they were told last

async function refresh() {
  clearTimeout(timer);
  const { model } = state;
  panel.hidden = !model;
  if (!panel.open || !model || asking) return;
  asking = true;
  let isFilling = false;
  try {
    const residency = await client.call("residency", {});
    if (state.model) show(residency);
    isFilling = residency.host_bytes !== filled;
    filled = residency.host_bytes;
  } catch {
    // the model or the engine is gone: whoever needs it tells
  } finally {
    asking = false;
  }
  if (state.model !== model)
    refresh(); // another one since it was asked
  else if (state.generation || isFilling) timer = setTimeout(refresh, AGAIN_MS);
}

export function startMemory() {
  byId("memory", HTMLElement).append(panel);
  panel.addEventListener("toggle", refresh);
  watch(["model", "generation", "settings", "storage"], refresh);
}
