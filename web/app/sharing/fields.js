/** @file The part of the settings that is about sharing: where peers meet. */

import { el } from "../dom.js";
import { set, state, watch } from "../store.js";
import { badServers, badTrackers } from "./trackers.js";

const MOST_COPIES = 64;

/**
 * @param {"trackers" | "ice_servers"} key
 * @param {string} label
 * @param {string} text
 * @param {(text: string | null) => string[]} wrong lines that are left out
 */
function linesField(key, label, text, wrong) {
  const id = `set-${key}`;
  const help = el("span", { class: "help", id: `${id}-help` }, text);
  const note = el("span", { class: "help", role: "status", "data-testid": `${id}-note` });
  const described = { "aria-describedby": help.id, "data-testid": id };
  const input = el("textarea", { class: "field", id, rows: 2, dir: "ltr", ...described });
  input.setAttribute("spellcheck", "false");
  input.addEventListener("change", () => {
    set({ settings: { ...state.settings, [key]: input.value.trim() || null } });
  });
  watch(["settings"], () => {
    if (document.activeElement !== input) input.value = state.settings[key] ?? "";
    const bad = wrong(state.settings[key]);
    note.textContent = bad.length ? `Left out, since it is none: ${bad.join(", ")}` : "";
  });
  return el("div", { class: "field-row" }, el("label", { for: id }, label), input, help, note);
}

function copiesField() {
  const id = "set-copies";
  const text =
    "Where not all of a model that you share is stored here, parts that fewer peers have are fetched and kept for others, up to the room for its weights. 0: never.";
  const help = el("span", { class: "help", id: `${id}-help` }, text);
  const limits = { min: 0, max: MOST_COPIES, step: 1, required: true };
  const described = { "aria-describedby": help.id, "data-testid": id };
  const input = el("input", { type: "number", id, ...limits, ...described });
  input.addEventListener("change", () => {
    if (input.validity.valid) set({ sharing: { ...state.sharing, copies: input.valueAsNumber } });
  });
  watch(["sharing"], () => {
    if (document.activeElement !== input) input.value = String(state.sharing.copies);
  });
  const label = el("label", { for: id }, "Copies to keep");
  return el("div", { class: "field-row" }, label, input, help);
}

export const sharingFields = () =>
  el(
    "fieldset",
    { class: "memory-fields" },
    el("legend", {}, "Sharing"),
    linesField(
      "trackers",
      "Trackers",
      "Where peers find each other: ws:// or wss:// addresses, one a line. Empty: this page's own server. Others have to be named to doppler serve, too.",
      badTrackers,
    ),
    linesField(
      "ice_servers",
      "ICE servers",
      "What peers behind routers need to reach each other: stun: or turn: addresses, one a line, with user name and password after a space. They see your network address; a turn: server carries all bytes. Empty: none, so that peers of one network reach each other alone.",
      badServers,
    ),
    copiesField(),
  );
