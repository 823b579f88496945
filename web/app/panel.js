/** The engine panel of the sidebar: the GPU, what is held on it, how long the load took. */

import { byId, el } from "./dom.js";
import { bytes, duration } from "./format.js";
import { state, watch } from "./store.js";
import { timeline } from "./timeline.js";

/** @import {DeviceReport, LoadedModel} from "./types.js" */

const panel = byId("engine", HTMLElement);

/** @type {Record<string, string>} */
const MEMORY = {
  weights: "Weights",
  kv: "Context (keys, values)",
  activations: "Working memory",
  staging: "Transfers",
};
/** @type {Record<string, string>} */
const STAGES = {
  page: "Page",
  worker: "Worker",
  python: "Python",
  device: "GPU device",
  tokenizer: "Tokenizer",
  memory: "Room on the GPU",
  weights: "Weights, verified",
  compile: "Kernels",
  "first token": "First token",
};
const ON_CPU = /swiftshader|llvmpipe|lavapipe/i;

/**
 * @param {string} label
 * @param {string} value
 * @param {Record<string, unknown>} [props] of the value
 */
function row(label, value, props = {}) {
  return el("div", { class: "row" }, el("span", {}, label), el("b", props, value));
}

/**
 * A row that opens to its parts; it stays open when the panel is drawn anew.
 * @param {string} label
 * @param {string} total
 * @param {[string, string][]} parts
 * @param {string} testid
 */
function sum(label, total, parts, testid) {
  const open = panel.querySelector(`details:has([data-testid="${testid}"])`)?.hasAttribute("open");
  const value = el("b", { "data-testid": testid }, total);
  const terms = parts.flatMap(([name, part]) => [el("dt", {}, name), el("dd", {}, part)]);
  const summary = el("summary", {}, el("span", {}, label), value);
  return el("details", { open: open ?? false }, summary, el("dl", {}, ...terms));
}

/** @param {LoadedModel} model */
function memoryOf({ memory }) {
  const { total, ...kinds } = memory;
  const all = total ?? Object.values(kinds).reduce((a, b) => a + b, 0);
  const parts = Object.entries(kinds).map(
    ([kind, size]) => /** @type {[string, string]} */ ([MEMORY[kind] ?? kind, bytes(size)]),
  );
  return sum("GPU memory", bytes(all), parts, "gpu-memory");
}

/** @param {LoadedModel} model when its stages, and those before them, began and ended */
function timesOf({ timeline: stages }) {
  const took =
    Math.max(...stages.map(({ end }) => end)) - Math.min(...stages.map(({ start }) => start));
  const seconds = (/** @type {number} */ time) => (time / 1000).toFixed(2);
  const parts = timeline().map(
    ({ stage, start, end }) =>
      /** @type {[string, string]} */ ([
        STAGES[stage] ?? stage,
        `${seconds(start)} – ${seconds(end)} s`,
      ]),
  );
  return sum("Loaded in", duration(took), parts, "load-time");
}

/** @param {DeviceReport | null} device */
function adapterRow(device) {
  if (!device) return row("GPU", "starting…");
  if (!device.ok) return row("GPU", "not usable");
  const { vendor, architecture, description } = device.adapter;
  const name = description || [vendor, architecture].filter(Boolean).join(" ") || "ready";
  if (!ON_CPU.test(name)) return row("GPU", name, { class: "clip", title: name });
  const why = `The browser gave no GPU but ${name}, which computes on the processor: a few tokens a second.`;
  return row("GPU", "none: CPU only, slow", { class: "clip", title: why });
}

function render() {
  const { device, model, storage } = state;
  const bits = model?.kv === "q8" ? ", in 8 bits" : "";
  const context = model && row("Context", `${model.context.toLocaleString("en")} tokens${bits}`);
  const used =
    storage && row("Storage used", bytes(storage.used), { "data-testid": "storage-used" });
  panel.replaceChildren(
    adapterRow(device),
    ...(model && context ? [context, memoryOf(model), timesOf(model)] : []),
    ...(used ? [used] : []),
  );
}

export function startPanel() {
  watch(["device", "storage", "model"], render);
}
