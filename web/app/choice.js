/** What can be chosen of a model before it is stored or loaded, and whether that fits here. */

import { BudgetSlider } from "./budgets.js";
import { button, el } from "./dom.js";
import { sentence, table, tokens } from "./facts.js";
import { ASKED_AFTER_MS, foresee, isBounded, isPaged, lacksRoom, wordsOf } from "./foresight.js";
import { bytes } from "./format.js";
import { messageOf } from "./names.js";
import { set, state } from "./store.js";

/** @import {Choice, Inspection, Quant} from "./types.js" */

/** @type {Record<Quant, [string, string]>} */
const QUANTS = {
  none: ["As it is", "nothing is lost"],
  q8_0: ["Q8_0", "hardly to be told from the original"],
  q4_0: ["Q4_0", "smallest and quickest, but worse, small models most of all"],
};
const NOT_KNOWN = "How much memory the GPU has in all, no browser tells: where it is short,";
const WHOLE_ONLY = "loading fails with a message, and a shorter context takes less.";
const IN_PARTS = "parts of this model come when they are used. A budget shows how fast that is.";
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
  #budgets = {
    gpu_budget: new BudgetSlider("gpu_budget", () => this.#pick({})),
    host_budget: new BudgetSlider("host_budget", () => this.#pick({})),
  };
  #asked = 0; // timer of what is asked about the budgets
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
      this.#budgets.gpu_budget.element,
      this.#budgets.host_budget.element,
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
    const fit = this.#fit;
    return needed <= free && !!fit?.memory && !(isBounded(fit) && lacksRoom(fit));
  }

  /** The settings have changed elsewhere. */
  update() {
    this.#render();
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
    const verdicts = problems.length ? problems : [this.#budgetVerdict() ?? this.#fine()];
    this.#verdict.replaceChildren(...verdicts);
    this.#renderBudgets();
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
    const fit = this.#fit;
    const then = isBounded(fit) && fit.least < fit.whole ? IN_PARTS : WHOLE_ONLY;
    const text = ` No part of it is above what this GPU takes at once (${most}). ${NOT_KNOWN} ${then}`;
    return el("p", { class: "quiet" }, el("strong", {}, "It should fit."), text);
  }

  /** Sliders of the budgets, where the model can do with less than all of it takes. */
  #renderBudgets() {
    const { gpu_budget, host_budget } = this.#budgets;
    const fit = this.#fit;
    const { needs } = this.choice;
    gpu_budget.element.hidden = !isBounded(fit) || fit.least === fit.whole;
    host_budget.element.hidden = gpu_budget.element.hidden || !isPaged(fit) || lacksRoom(fit);
    if (!isBounded(fit) || !needs) return;
    gpu_budget.show(fit.least, fit.whole);
    const experts = needs.experts * needs.units.reduce((sum, unit) => sum + unit, 0);
    host_budget.show(0, experts || fit.whole);
  }

  /** How it runs within a budget that does not hold all of it; null where there is none such. */
  #budgetVerdict() {
    clearTimeout(this.#asked);
    const fit = this.#fit;
    const budget = state.settings.gpu_budget;
    if (!isPaged(fit) || budget === null || lacksRoom(fit)) return null;
    const verdict = el("strong", {}, "Does not fit as a whole: it runs by bringing parts.");
    const whole = `All of it takes ${bytes(fit.whole)} of GPU memory, and your budget is ${bytes(budget)}.`;
    const why = el("span", {}, ` ${whole}`);
    this.#asked = setTimeout(async () => {
      try {
        const words = wordsOf(await foresee(this.choice, fit));
        verdict.textContent = `Does not fit: ${words.verdict}.`;
        why.textContent = ` ${whole} ${words.detail}`;
      } catch {
        // an engine that has ended tells itself
      }
    }, ASKED_AFTER_MS);
    return el("p", { class: "quiet", "data-testid": "foresight" }, verdict, why);
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
    if (isBounded(this.#fit) && lacksRoom(this.#fit)) return this.#budgetProblem(this.#fit);
    const problem = this.#fit?.problem;
    if (!problem) return null;
    const text = `This GPU does not take it at a context of ${tokens(this.context)}.`;
    const why = el("p", { class: "quiet" }, messageOf(problem));
    const remedy = this.#shorter() ?? this.#smaller();
    return el("div", { class: "short" }, el("p", {}, text), why, remedy);
  }

  /** @param {import("./foresight.js").Bounded} fit */
  #budgetProblem({ least }) {
    const budget = bytes(state.settings.gpu_budget ?? 0);
    const text = `Does not fit a budget of ${budget} of GPU memory: at a context of ${tokens(this.context)} it needs at least ${bytes(least)}.`;
    const free = button("Set no budget", () => {
      set({ settings: { ...state.settings, gpu_budget: null } });
      this.#pick({});
    });
    return el("div", { class: "short" }, el("p", {}, text), free);
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
