/** The card that says what a file, folder or address is, before anything of it is stored. */

import { askDelete, choose } from "./actions.js";
import { client } from "./client.js";
import { byId, button, el } from "./dom.js";
import { failure } from "./engine.js";
import { ModelChoice } from "./choice.js";
import { inspect } from "./library.js";
import { bytes } from "./format.js";
import { nameOf } from "./names.js";
import { problemOf, toast } from "./notices.js";
import { state } from "./store.js";

/** @import {Failure, Inspection, Offer, Source} from "./types.js" */

const ADVICE = "Choose another model, or another file of this one.";

const dialog = byId("offer", HTMLDialogElement);

/**
 * @param {string} title
 * @param {(Node | null)[]} content
 * @param {HTMLElement[]} buttons
 */
function show(title, content, buttons) {
  const head = el("h2", { id: "offer-title", tabindex: -1, dir: "auto" }, nameOf(title));
  const body = el("div", { class: "offer-body" }, head, ...content);
  dialog.replaceChildren(body, el("div", { class: "dialog-actions" }, ...buttons));
  if (!dialog.open) dialog.showModal();
  head.focus(); // so that what has come is read out, and Tab goes on from here
}

/** @param {string} title */
function showReading(title) {
  const bar = el("progress", { "aria-label": "Reading" });
  const text = el("p", { class: "quiet" }, "Reading what this is. Nothing is stored yet.");
  show(title, [text, bar], [button("Cancel", () => dialog.close())]);
}

/**
 * @param {string} title
 * @param {Failure} problem
 * @param {() => void} again
 */
function showProblem(title, problem, again) {
  const { title: what, text: told } = problemOf(problem, []);
  const text = problem.name === "UnsupportedError" ? `${told} ${ADVICE}` : told;
  const retry = ["SourceError", "StorageError", "InternalError"].includes(problem.name);
  const notice = el("div", { class: "notice error", role: "alert" });
  notice.append(el("div", {}, el("strong", {}, what), el("span", {}, text)));
  const close = button("Close", () => dialog.close());
  show(title, [notice], retry ? [close, button("Try again", again)] : [close]);
}

/**
 * Buttons that delete stored models, the largest first.
 * @param {number} lacking bytes
 * @param {() => void} again what was deleted makes room
 */
function deletions(lacking, again) {
  const stored = state.models.filter(({ stored_bytes: size }) => size > 0);
  stored.sort((a, b) => b.stored_bytes - a.stored_bytes);
  if (stored.length === 0) return el("p", {}, "Free some disk space, and try again.");
  const remove = async (/** @type {typeof stored[0]} */ model) => {
    if (await askDelete(model)) again();
  };
  const buttons = stored.map((model) => {
    const label = `Delete ${model.title ?? model.id.slice(0, 8)} (${bytes(model.stored_bytes)})`;
    return button(label, () => remove(model));
  });
  const text = `${bytes(lacking)} more are needed. Models that could go:`;
  return el("div", {}, el("p", {}, text), el("div", { class: "remedies" }, ...buttons));
}

/**
 * @param {Inspection} inspection
 * @param {Source} source
 * @param {() => void} again
 * @param {() => void} onImported
 */
function showChoice(inspection, source, again, onImported) {
  const take = () => {
    const { context, choice } = facts;
    const { quant, name, title } = choice;
    dialog.close();
    const chosen = { title, stored: null, source: { ...source, name, quant } };
    choose(chosen, context).then((worked) => worked && onImported());
  };
  const go = button("Import", take, { class: "button primary", "data-testid": "import" });
  const update = () => (go.disabled = !facts.fits);
  const facts = new ModelChoice(inspection, (lacking) => deletions(lacking, again));
  facts.onChange = update;
  update();
  const cancel = button("Cancel", () => dialog.close());
  show(inspection.choices[0].title, [facts.element], [cancel, go]);
}

/**
 * The models of a repository, each with a button that shows it.
 * @param {string} title
 * @param {Offer[]} models
 * @param {() => void} onImported
 */
function showModels(title, models, onImported) {
  const rows = models.map(({ title: name, url, bytes: size, parts }) => {
    const given = async () => /** @type {Source} */ ({ kind: "address", url });
    const choice = button(name, () => offer(name, given, onImported), { class: "button" });
    const note = parts > 1 ? `${bytes(size)} in ${parts} parts` : bytes(size);
    return el("li", {}, choice, el("span", { class: "quiet" }, note));
  });
  const text = el("p", { class: "quiet" }, "It holds several models. Which one?");
  const list = el("ul", { class: "offered", "data-testid": "offered" }, ...rows);
  show(title, [text, list], [button("Cancel", () => dialog.close())]);
}

/** @type {{reading: boolean} | null} what the card is about; null while it is closed */
let current = null;

dialog.addEventListener("close", () => {
  if (current?.reading) client.call("cancel", { what: "transfers" }).catch(() => {});
  current = null;
  dialog.replaceChildren();
});

/**
 * Show what is given, and import it if the person says so.
 * @param {string} title to be shown until its own is known
 * @param {() => Promise<Source>} given
 * @param {() => void} [onImported] called once it is stored and loaded
 */
export async function offer(title, given, onImported = () => {}) {
  if (state.loading) {
    toast(`First ${state.loading} has to be there, or be cancelled.`);
    return;
  }
  const mine = { reading: true };
  current = mine;
  const again = () => offer(title, given, onImported);
  showReading(title);
  try {
    const source = await given();
    const answer = await inspect(source);
    if (current !== mine) return;
    if (answer.problem) showProblem(title, answer.problem, again);
    else if (answer.models.length > 0) showModels(title, answer.models, onImported);
    else showChoice(answer, source, again, onImported);
  } catch (error) {
    if (current === mine) showProblem(title, failure(error), again);
  } finally {
    mine.reading = false;
  }
}
