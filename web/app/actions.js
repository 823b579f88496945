/** What a person does and what follows if it fails: a message, what can be done, a usable page. */

import { client } from "./client.js";
import { create, remove, titleOf } from "./conversations.js";
import { endWriting, failure, forget, LAST_MODEL } from "./engine.js";
import { refresh, useModel, wasCancelled } from "./engine.js";
import { deleteModel } from "./library.js";
import { importFile } from "./export.js";
import { bytes, plural } from "./format.js";
import { messageOf } from "./names.js";
import {
  clearProblem,
  confirmed,
  problemOf,
  showProblem,
  showRequirements,
  missingFeatures,
  toast,
} from "./notices.js";
import { recall, set, state } from "./store.js";

/** @import {Conversation, Entry, Failure, Listed, Message, Problem} from "./types.js" */

/**
 * Run something; when it fails, say so with the actions that help.
 * @param {() => Promise<unknown>} run
 * @returns {Promise<boolean>} whether it worked
 */
export async function attempt(run) {
  clearProblem();
  try {
    await run();
    return true;
  } catch (error) {
    const what = failure(error);
    if (what.name !== "Restarted" && !wasCancelled(what)) {
      const actions = remedies(what, () => attempt(run));
      showProblem(problemOf(what, actions));
    }
    return false;
  }
}

/**
 * @param {Failure} failure
 * @param {() => void} again
 * @returns {Problem["actions"]}
 */
export function remedies({ name }, again) {
  const retry = { label: "Try again", run: again };
  const models = { label: "Models", run: () => set({ view: "models" }) };
  const restart = { label: "Restart the engine", run: () => void restartEngine() };
  const reload = { label: "Load the model again", run: reloadModel };
  switch (name) {
    case "FormatError":
    case "UnsupportedError":
    case "ContextError":
      return [];
    case "StorageError":
      return state.models.length ? [retry, models] : [retry];
    case "DeviceError":
      return recall(LAST_MODEL) ? [reload, restart] : [retry, restart];
    case "InternalError":
    case "EngineError":
      return [restart];
    default:
      return [retry];
  }
}

/** Whether the engine that ended had a model, or was about to have one. */
let lost = false;

/** Load the model that was used last, in a fresh engine if this one took it along. */
export function reloadModel() {
  const last = recall(LAST_MODEL);
  if (lost) return void restartEngine();
  if (last) attempt(() => useModel(last.title, last.id, null));
  else set({ view: "models" });
}

/** The engine has ended, and what it held is gone. */
export function noteEnd() {
  lost ||= state.model !== null || state.loading !== null;
  set({ model: null });
}

/** A new worker; and the model that was loaded, if one was. */
export function restartEngine() {
  const last = (state.model || lost) && recall(LAST_MODEL);
  lost = false;
  return attempt(async () => {
    await Promise.all([client.restart(), settle()]);
    if (last) await useModel(last.title, last.id, null);
  });
}

/**
 * Have a stored model loaded, also after its engine ended or its GPU was lost.
 * @param {string} id
 * @param {string} title
 * @returns {Promise<boolean>} whether it is
 */
export async function haveLoaded(id, title) {
  if (lost) await restartEngine();
  const worked = await attempt(async () => {
    await client.call("device", {}); // a lost one takes the model along
    if (state.model?.id !== id) await useModel(title, id, null);
  });
  return worked && state.model?.id === id; // it is not while another one is on its way
}

/** Once the engine is up: what it can do, and what it has stored. */
export async function settle() {
  const device = await client.ready;
  set({ device });
  const problem = device.ok ? null : (device.problem ?? "No usable GPU adapter was found.");
  const missing = missingFeatures();
  if (problem && "gpu" in navigator) {
    missing.push({ title: "The GPU cannot be used", text: messageOf(problem) });
  }
  showRequirements(missing);
  await refresh();
}

/**
 * Delete a stored model, if the person confirms it.
 * @param {Listed} stored
 * @returns {Promise<boolean>} whether it is gone
 */
export async function askDelete({ id, title, stored_bytes: size }) {
  const text = `This frees ${bytes(size)}. To use it again it has to be fetched again.`;
  if (!(await confirmed(`Delete ${title ?? id.slice(0, 8)}?`, text, "Delete"))) return false;
  return attempt(() => deleteModel(id));
}

/**
 * @param {Pick<Entry, "title" | "stored" | "source">} entry fetched if need be, loaded, and shown
 * @param {number | null} [context] tokens, where they were chosen for it
 * @returns {Promise<boolean>}
 */
export async function choose({ title, stored, source }, context = null) {
  if (state.loading) return false;
  const id = stored?.complete ? stored.id : null;
  const loaded = id !== null && id === state.model?.id;
  return attempt(async () => {
    if (!loaded) await useModel(title, id, source, context);
    showFitting(); // also where it worked only when tried again
  });
}

/** The current conversation if the model can go on with it, else a new one of the model's kind. */
function showFitting() {
  const kind = state.model?.chat === false ? "text" : "chat";
  if (state.current?.kind === kind) set({ view: "conversation" });
  else openNew(kind);
}

/** @param {Conversation["kind"]} kind */
export function openNew(kind) {
  open(create(kind));
}

/**
 * @param {Conversation} conversation
 * @param {{message: Message | null, words: string[]} | null} [found] what was searched for, to be shown
 */
export function open(conversation, found = null) {
  set({ current: conversation, view: "conversation" });
  document.dispatchEvent(new CustomEvent("opened", { detail: found }));
}

/** @param {Conversation} conversation Undo brings it back as it was: open, if it was */
export async function deleteConversation(conversation) {
  await endWriting(conversation);
  const wasOpen = state.current === conversation;
  const restore = await remove(conversation);
  forget(conversation);
  const undo = async () => {
    const kept = restore();
    if (wasOpen) open(conversation); // at once: later the person may be elsewhere
    await kept;
  };
  toast(`Deleted “${titleOf(conversation)}”`, { label: "Undo", run: undo });
}

/** @param {File} file of conversations that was given where a model may be meant too */
export async function offerConversations(file) {
  const text = "It holds conversations that Doppler exported. What is here already stays.";
  const sure = await confirmed(`Import ${file.name}?`, text, "Import", "primary");
  if (sure) await importConversations(file);
}

/** @param {File} file of conversations; those of a single one are opened */
export function importConversations(file) {
  return attempt(async () => {
    const { all, fresh } = await importFile(file);
    const known = all.length - fresh;
    const here = known > 0 ? `, ${known} of them here already` : "";
    toast(`Imported ${plural(all.length, "conversation")}${here}`);
    if (all.length === 1) open(all[0]);
  });
}
