/** What a stored model is, and whether it fits at a context that can be chosen here. */

import { attempt } from "./actions.js";
import { button, el } from "./dom.js";
import { useModel } from "./engine.js";
import { chooseContext, inspect } from "./library.js";
import { messageOf } from "./names.js";
import { ModelChoice } from "./choice.js";
import { state, watch } from "./store.js";

/** @import {StoredModel} from "./types.js" */

/**
 * Of models whose details are open: kept, since the list is drawn anew again and again.
 * @type {Map<string, HTMLElement>}
 */
const open = new Map();

/** @type {Map<string, ModelChoice>} by the same ids */
const shown = new Map();

watch(["device"], () => open.clear()); // another device may take less
watch(["settings"], () => shown.forEach((facts) => facts.update())); // budgets are for all models

/** @param {StoredModel} stored @param {HTMLElement} place */
async function fill(stored, place) {
  place.replaceChildren(el("p", { class: "quiet" }, "Reading…"));
  await attempt(async () => {
    const inspection = await inspect(stored.id);
    if (inspection.problem) {
      place.replaceChildren(el("p", { class: "short" }, messageOf(inspection.problem.message)));
      return;
    }
    const facts = new ModelChoice(inspection);
    const reload = button("Load it again with this context", () =>
      attempt(() => useModel(stored.title, stored.id, null)),
    );
    let chosen = facts.context;
    facts.onChange = () => {
      if (facts.context !== chosen) chooseContext(stored.id, (chosen = facts.context));
      const { model } = state;
      const isSame = model?.context === facts.context;
      reload.hidden = model?.id !== stored.id || isSame || !facts.fits;
    };
    reload.hidden = true;
    place.replaceChildren(facts.element, reload);
    shown.set(stored.id, facts);
  });
}

/** @param {StoredModel} stored */
export function details(stored) {
  const element = el("details", { open: open.has(stored.id), "data-testid": "details" });
  const place = open.get(stored.id) ?? el("div");
  element.append(el("summary", {}, "What this model is"), place);
  element.addEventListener("toggle", () => {
    if (element.open === open.has(stored.id)) return;
    if (!element.open) {
      open.delete(stored.id);
      shown.delete(stored.id);
      return;
    }
    open.set(stored.id, place);
    fill(stored, place);
  });
  return element;
}
