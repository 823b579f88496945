/** What can be chosen of a model before it is stored or loaded, and whether that fits here. */

import { button, el } from "./dom.js";
import { sentence, table, tokens } from "./facts.js";
import { bytes } from "./format.js";
import { messageOf } from "./names.js";

/** @import {Choice, Inspection, Quant} from "./types.js" */

/** @type {Record<Quant, [string, string]>} */
const QUANTS = {
  none: ["As it is", "nothing is lost"],
  q8_0: ["Q8_0", "hardly to be told from the original"],
  q4_0: ["Q4_0", "smallest and quickest, but worse, small models most of all"],
};
const NOT_KNOWN =
  "How much memory the GPU has in all, no browser tells: where it is short, loading fails with a message, and a shorter context takes less.";
const ROUNDED = "Q8_0 and Q4_0 are computed here while it is imported, which takes longer.";

export class ModelChoice {
  #inspection;
  #remedy;
  #sentence = el("p");
  #warnings = el("div", { class: "verdict", "data-testid": "warnings" });
  #verdict = el("div", { class: "verdict", role: "status", "data-testid": "verdict" });
  /** @type {HTMLElement | null} */
  #quants = null;
  #select = el("select", { id: `context-${crypto.randomUUID()}`, "data-testid": "context" });
  #facts = el("dl", { class: "facts-table", "data-testid": "facts" });
  /** @type {Choice} */
  choice;
  /** Tokens. */
  context;
  /** Called when something else has been chosen. */
  onChange = () => {};

  /**
   * @param {Inspection} inspection one without a problem
   * @param {(lacking: number) => Node | null} remedy what helps where storage lacks bytes
   */
  constructor(inspection, remedy = () => null) {
    this.#inspection = inspection;
    this.#remedy = remedy;
    this.choice = inspection.choices[0];
    this.context = this.choice.wanted_context;
    this.#select.addEventListener("change", () => this.#pick({ context: +this.#select.value }));
    if (inspection.choices.length > 1) this.#quants = this.#quantField();
    this.element = el(
      "div",
      { class: "model-facts" },
      this.#sentence,
      this.#warnings,
      this.#verdict,
      this.#quants,
      this.choice.fits.length > 0 && this.#contextField(),
      this.#facts,
    );
    this.#render();
  }

  /** What the chosen context takes; undefined where there is no GPU. */
  get #fit() {
    return this.choice.fits.find(({ context }) => context === this.context);
  }

  /** Whether it can be stored, and run. */
  get fits() {
    const { needed, free } = this.choice.storage;
    return needed <= free && !!this.#fit?.memory;
  }

  /** @param {{choice?: Choice, context?: number}} changes */
  #pick({ choice = this.choice, context = this.context }) {
    this.choice = choice;
    this.context = context;
    this.#render();
    this.onChange();
  }

  #quantField() {
    const name = `quant-${crypto.randomUUID()}`;
    const choices = this.#inspection.choices.toSorted((a, b) => b.bytes - a.bytes);
    const radios = choices.map((choice) => {
      const [label, worth] = QUANTS[choice.quant];
      const onchange = () => this.#pick({ choice });
      const input = el("input", { type: "radio", name, value: choice.quant, onchange });
      const own = choice.quant === "none" ? `${label} (${choice.quantization})` : label;
      const note = el("span", { class: "quiet" }, `${bytes(choice.bytes)}, ${worth}`);
      return el("label", {}, input, el("span", {}, own), note);
    });
    const legend = el("legend", {}, "Precision of the weights");
    const note = el("p", { class: "quiet" }, ROUNDED);
    return el("fieldset", { class: "quants" }, legend, ...radios, note);
  }

  #contextField() {
    const label = el("label", { for: this.#select.id }, "Context");
    const help = el(
      "span",
      { class: "quiet" },
      "How far back it can look, and the GPU memory then.",
    );
    return el("div", { class: "context-field" }, label, this.#select, help);
  }

  #render() {
    const { choice } = this;
    const problems = [this.#storageProblem(), this.#gpuProblem()].filter((one) => one !== null);
    this.#sentence.textContent = sentence(choice, this.#fit);
    const warnings = choice.warnings.map((one) =>
      el("p", { class: "quiet" }, el("strong", {}, "Note: "), messageOf(one)),
    );
    this.#warnings.replaceChildren(...warnings);
    this.#verdict.replaceChildren(...(problems.length ? problems : [this.#fine()]));
    this.#facts.replaceChildren(...table(choice, this.#fit));
    const options = choice.fits.map(({ context, memory }) => {
      const text = `${tokens(context)} · ${memory ? bytes(memory.total) : "does not fit"}`;
      return el("option", { value: context, selected: context === this.context }, text);
    });
    this.#select.replaceChildren(...options);
    for (const input of this.#quants?.querySelectorAll("input") ?? []) {
      input.checked = input.value === choice.quant;
    }
  }

  #fine() {
    const most = bytes(this.#inspection.gpu?.limits.maxBufferSize ?? 0);
    const text = ` No part of it is above what this GPU takes at once (${most}). ${NOT_KNOWN}`;
    return el("p", { class: "quiet" }, el("strong", {}, "It should fit."), text);
  }

  #storageProblem() {
    const { needed, free } = this.choice.storage;
    if (needed <= free) return null;
    const text = `There is no room to store it: it takes ${bytes(needed)}, and ${bytes(free)} are free for this page.`;
    const remedies = [this.#smaller(), this.#remedy(needed - free)];
    return el("div", { class: "short" }, el("p", {}, text), ...remedies);
  }

  #gpuProblem() {
    const { gpu } = this.#inspection;
    if (gpu?.problem)
      return el("p", { class: "short" }, `It cannot run here. ${messageOf(gpu.problem)}`);
    const problem = this.#fit?.problem;
    if (!problem) return null;
    const text = `This GPU does not take it at a context of ${tokens(this.context)}.`;
    const why = el("p", { class: "quiet" }, messageOf(problem));
    const remedy = this.#shorter() ?? this.#smaller();
    return el("div", { class: "short" }, el("p", {}, text), why, remedy);
  }

  /** A button for the longest context that fits. */
  #shorter() {
    const fit = this.choice.fits.findLast(
      ({ memory, context }) => memory && context < this.context,
    );
    return fit ? button(`Use ${tokens(fit.context)}`, () => this.#pick(fit)) : null;
  }

  /** A button for the next smaller quantisation. */
  #smaller() {
    const { bytes: now } = this.choice;
    const less = this.#inspection.choices.filter((choice) => choice.bytes < now);
    const [choice] = less.sort((a, b) => b.bytes - a.bytes);
    const label = choice && `Use ${QUANTS[choice.quant][0]}, which takes ${bytes(choice.bytes)}`;
    return choice ? button(label, () => this.#pick({ choice })) : null;
  }
}
