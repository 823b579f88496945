/** What the person must know: what is missing, what failed and what can be done about it. */

import { byId, button, el, iconButton } from "./dom.js";
import { messageOf, nameOf } from "./names.js";

/** @import {Failure, Problem} from "./types.js" */

const requirements = byId("requirements", HTMLElement);
const banner = byId("banner", HTMLElement);
const toasts = byId("toast", HTMLElement);
const announcer = byId("announcer", HTMLElement);
const dialog = byId("confirm", HTMLDialogElement);
const TOAST_MS = 6000;

/** @param {string} text for screen readers only */
export function announce(text) {
  announcer.textContent = text;
}

/** Titles for the errors of py/doppler/errors.py, whose messages say what to do; others get advice. */
/** @type {Record<string, [string, string]>} */
const KINDS = {
  FormatError: ["This file cannot be read", ""],
  UnsupportedError: ["This model is of a kind that Doppler does not know", ""],
  CorruptError: ["Damaged data was found and refused", ""],
  SourceError: ["The model could not be fetched", ""],
  StorageError: ["The browser's storage refused", ""],
  DeviceError: ["The GPU cannot go on", ""],
  ContextError: ["It does not fit the model's context", ""],
  RequestError: ["That cannot be done", ""],
  EngineError: ["The engine has stopped", "Restart it to go on; your conversations are safe."],
  InternalError: [
    "Something went wrong inside Doppler",
    "Your conversations are safe. Restarting the engine often helps.",
  ],
};

/**
 * @param {Failure} failure
 * @param {Problem["actions"]} actions
 * @returns {Problem}
 */
export function problemOf({ name, message }, actions) {
  const [title, advice] = KINDS[Object.hasOwn(KINDS, name) ? name : "InternalError"];
  const last = message.trim().split("\n").at(-1) ?? ""; // of a traceback: what happened
  return { title, text: [messageOf(last), advice].filter(Boolean).join(" "), actions };
}

/**
 * @param {Problem} problem
 * @param {(() => void) | null} onClose
 */
export function notice({ title, text, actions }, onClose) {
  const controls = actions.map(({ label, run }) =>
    button(label, () => {
      onClose?.();
      run();
    }),
  );
  return el(
    "div",
    { class: "notice error" },
    el("div", {}, el("strong", {}, title), el("span", { dir: "auto" }, text)),
    el(
      "div",
      { class: "actions" },
      ...controls,
      onClose && iconButton("close", "Dismiss", onClose),
    ),
  );
}

/**
 * @param {Problem} problem shown above the content until dismissed
 * @returns {() => void} dismisses it, and no later one
 */
export function showProblem(problem) {
  const shown = notice(problem, clearProblem);
  banner.replaceChildren(shown);
  return () => shown.parentNode === banner && clearProblem();
}

export function clearProblem() {
  banner.replaceChildren();
}

/** @param {{title: string, text: string}[]} missing what this browser lacks */
export function showRequirements(missing) {
  requirements.replaceChildren(
    ...missing.map(({ title, text }) =>
      el("div", { class: "notice" }, el("div", {}, el("strong", {}, title), el("span", {}, text))),
    ),
  );
}

/** What can be told of this browser before anything is started. */
export function missingFeatures() {
  const missing = [];
  if (!isSecureContext) {
    missing.push({
      title: "This address is not secure",
      text: "Browsers offer the GPU and storage only to https addresses and to localhost. Open the page under one of those.",
    });
  }
  if (!("gpu" in navigator)) {
    missing.push({
      title: "This browser has no WebGPU",
      text: "Doppler computes on the GPU through WebGPU. Use a current Chrome, Edge or Chromium, and see that hardware acceleration is switched on in its settings.",
    });
  }
  if (typeof navigator.storage?.getDirectory !== "function") {
    missing.push({
      title: "This browser offers no private file storage (OPFS)",
      text: "Models are kept there. Leave private browsing, or use a current Chrome, Edge or Chromium.",
    });
  }
  return missing;
}

let hiding = 0;

/**
 * @param {string} text
 * @param {{label: string, run: () => void}} [action]
 */
export function toast(text, action) {
  clearTimeout(hiding);
  const act = () => {
    toasts.replaceChildren();
    action?.run();
  };
  toasts.replaceChildren(
    el(
      "div",
      {},
      el("span", { class: "clip", dir: "auto" }, nameOf(text, 200)),
      !!action && button(action.label, act, { class: "text-button" }),
    ),
  );
  hiding = setTimeout(() => toasts.replaceChildren(), TOAST_MS);
}

/**
 * @param {string} title
 * @param {string} text
 * @param {string} label of the button that goes ahead
 * @param {"danger" | "primary"} [look] of that button
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, label, look = "danger") {
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "confirm-title", dir: "auto" }, nameOf(title, 120)),
    el("p", { class: "quiet" }, text),
    el(
      "div",
      { class: "dialog-actions" },
      el("button", { class: "button", value: "", autofocus: true }, "Cancel"),
      el("button", { class: `button ${look}`, value: "yes" }, label),
    ),
  );
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
