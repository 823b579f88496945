/** @file The card on which sharing is asked for, and what is said in it more than once. */

import { byId, el } from "../dom.js";
import { nameOf } from "../names.js";

export const card = byId("share", HTMLDialogElement);

/**
 * @param {string} title
 * @param {(Node | string | null | false)[]} content
 * @param {HTMLElement[]} buttons
 */
export function showCard(title, content, buttons) {
  const head = el("h2", { id: "share-title", tabindex: -1, dir: "auto" }, nameOf(title, 120));
  const body = el("div", { class: "offer-body" }, head, ...content);
  card.replaceChildren(body, el("div", { class: "dialog-actions" }, ...buttons));
  if (!card.open) card.showModal();
  head.focus(); // so that it is read out, and Tab goes on from here
}

card.addEventListener("close", () => card.replaceChildren());

/**
 * @param {[string, string | Node][]} terms
 */
export const terms = (terms) =>
  el(
    "dl",
    { class: "share-terms" },
    ...terms.flatMap(([name, told]) => [el("dt", {}, name), el("dd", {}, told)]),
  );

/** @param {string[]} trackers */
export const addresses = (trackers) =>
  el("span", {}, ...trackers.map((tracker) => el("code", { dir: "ltr" }, tracker)));

/** A place for what stands in the way, which is found out after the card is shown. */
export const warnings = () =>
  el("div", { class: "verdict", role: "status", "data-testid": "share-warnings" });

/** @param {HTMLElement} place @param {string[]} found */
export const warn = (place, found) =>
  place.replaceChildren(...found.map((text) => el("p", { class: "short" }, text)));
