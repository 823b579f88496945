/** Which experts a model uses, layer by layer, and which of them are on the GPU: drawn, and in words. */

import { el } from "./dom.js";

/** @import {LayerExperts} from "./types.js" */

const LEAST_CELL = 4; // pixels across
const MOST_HEIGHT = 12;
const GAP = 3; // pixels between layers
const BUSIEST = 3;

/** @param {LayerExperts} layer @returns {number[]} experts that were used, the busiest first */
function busiest({ uses }) {
  const used = [...uses.keys()].filter((expert) => uses[expert] > 0);
  return used.sort((a, b) => uses[b] - uses[a]).slice(0, BUSIEST);
}

/** @param {LayerExperts} layer "Layer 3: 12 of 128 experts on the GPU, busiest 5, 17, 90" */
export function sentence(layer) {
  const { uses, resident } = layer;
  const names = busiest(layer);
  const most = names.length ? `, busiest ${names.join(", ")}` : "";
  return `Layer ${layer.layer}: ${resident.length} of ${uses.length} experts on the GPU${most}`;
}

export class HeatMap {
  #canvas = el("canvas", { class: "heat", role: "img", "aria-label": "" });
  #hint = el("p", { class: "heat-hint", "aria-hidden": "true" });
  #list = el("ul", { class: "heat-words" });
  #words = el("details", {}, el("summary", {}, "In words"), this.#list);
  /** @type {LayerExperts[]} */
  #layers = [];
  element = el(
    "div",
    { "data-testid": "heat-map" },
    el(
      "div",
      { class: "heat-scroll", tabindex: 0, role: "group", "aria-label": "Experts by layer" },
      this.#canvas,
    ),
    this.#hint,
    this.#words,
  );

  constructor() {
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    const themes = new MutationObserver(() => this.#draw());
    themes.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerleave", () => this.#legend());
    this.#words.addEventListener("toggle", () => this.#fillList());
    this.#legend();
  }

  /** @param {LayerExperts[]} layers */
  show(layers) {
    this.#layers = layers;
    this.element.hidden = layers.length === 0;
    if (layers.length === 0) return;
    const there = layers.reduce((sum, { resident }) => sum + resident.length, 0);
    const all = layers.reduce((sum, { uses }) => sum + uses.length, 0);
    const label = `Experts of ${layers.length} layers: ${there} of ${all} are on the GPU. In words below.`;
    this.#canvas.setAttribute("aria-label", label);
    this.#fillList();
    this.#draw();
  }

  #legend() {
    this.#hint.textContent =
      "A band is a layer. Stronger colour: used more. Underlined: on the GPU now.";
  }

  #fillList() {
    if (!this.#words.open) return;
    this.#list.replaceChildren(...this.#layers.map((layer) => el("li", {}, sentence(layer))));
  }

  /** Where the cells are, in CSS pixels. */
  get #grid() {
    const width = this.#canvas.clientWidth;
    const experts = Math.max(...this.#layers.map(({ uses }) => uses.length));
    const rows = Math.ceil((experts * LEAST_CELL) / Math.max(width, LEAST_CELL));
    const across = Math.ceil(experts / rows);
    const cell = width / across;
    const height = Math.round(Math.min(Math.max(cell * 1.25, LEAST_CELL + 1), MOST_HEIGHT));
    return { width, rows, across, cell, height, layer: rows * height + GAP };
  }

  #draw() {
    if (this.#layers.length === 0 || !this.#canvas.clientWidth) return;
    const { width, across, cell, height, layer } = this.#grid;
    const canvas = this.#canvas;
    const tall = this.#layers.length * layer - GAP;
    const scale = devicePixelRatio;
    canvas.style.height = `${tall}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(tall * scale);
    const context = canvas.getContext("2d");
    if (!context) return;
    context.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const most = Math.max(1, ...this.#layers.flatMap(({ uses }) => uses));
    const gap = cell > 6 ? 1 : 0.5;
    this.#layers.forEach(({ uses, resident }, row) => {
      const there = new Set(resident);
      uses.forEach((count, expert) => {
        const x = (expert % across) * cell;
        const y = row * layer + Math.floor(expert / across) * height;
        const line = Math.max(1.5, height / 5);
        context.globalAlpha = 1;
        context.fillStyle = style.borderTopColor; // of one that was never used
        context.fillRect(x, y, cell - gap, height - line);
        context.globalAlpha = count ? 0.15 + (0.85 * Math.log1p(count)) / Math.log1p(most) : 0;
        context.fillStyle = style.color;
        context.fillRect(x, y, cell - gap, height - line);
        context.globalAlpha = 1;
        context.fillStyle = style.caretColor;
        if (there.has(expert)) context.fillRect(x, y + height - line, cell - gap, line - 0.5);
      });
    });
  }

  /** @param {PointerEvent} event says which expert it is on */
  #point({ offsetX, offsetY }) {
    const { across, cell, height, layer: tall, rows } = this.#grid;
    const layer = this.#layers[Math.floor(offsetY / tall)];
    const row = Math.min(Math.floor((offsetY % tall) / height), rows - 1);
    const expert = row * across + Math.min(Math.floor(offsetX / cell), across - 1);
    if (!layer || !(expert in layer.uses)) return this.#legend();
    const used = layer.uses[expert].toLocaleString("en");
    const where = layer.resident.includes(expert) ? "on the GPU" : "not on the GPU";
    this.#hint.textContent = `Layer ${layer.layer}, expert ${expert}: used ${used} times, ${where}.`;
  }
}
