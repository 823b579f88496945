/** Starts the page: the worker boots while the person can already read, write and choose. */

import { attempt, open, settle } from "./actions.js";
import { client } from "./client.js";
import { startChat } from "./chat.js";
import { startContinue } from "./continue.js";
import { isEmpty, restore, titleOf } from "./conversations.js";
import { isFull } from "./database.js";
import { byId, el, icon } from "./dom.js";
import { stop } from "./engine.js";
import { startFocus } from "./focus.js";
import { startModels } from "./models.js";
import { startMemory } from "./memory.js";
import { messageOf } from "./names.js";
import { missingFeatures, showProblem, showRequirements } from "./notices.js";
import { keepForLater } from "./offline.js";
import { startPanel } from "./panel.js";
import { startProgress } from "./progress.js";
import { startRefit } from "./refit.js";
import { startSettings } from "./settings.js";
import { startConnection } from "./sharing/connection.js";
import { startLinks } from "./sharing/link.js";
import { startPeers } from "./sharing/panel.js";
import { closeDrawer, startSidebar } from "./sidebar.js";
import { set, state, watch } from "./store.js";
import { startTrouble } from "./trouble.js";

const UNSAVED_AGAIN_MS = 60_000; // an answer is saved often, and each time it may be refused

function startFrame() {
  const modelButton = byId("model-button", HTMLButtonElement);
  modelButton.append(icon("chevron"));
  modelButton.addEventListener("click", () => set({ view: "models" }));
  byId("settings-open", HTMLButtonElement).append(icon("settings"));
  watch(["model", "loading"], () => {
    const { model, loading } = state;
    const name = model?.title ?? (loading ? `Loading ${loading}…` : "Choose a model");
    byId("model-name", HTMLElement).textContent = name;
    byId("model-dot", HTMLElement).classList.toggle("on", !!model);
  });
  const headings = ["chat", "text"].map((name) => {
    const heading = el("h1", { class: "unseen" });
    byId(`${name}-view`, HTMLElement).prepend(heading);
    return heading;
  });
  watch(["view", "current", "conversations", "generation", "loading"], () => {
    const shown = state.current && state.view === "conversation" ? state.current.kind : "models";
    for (const name of ["models", "chat", "text"]) {
      byId(`${name}-view`, HTMLElement).hidden = name !== shown;
    }
    const { current, generation, loading } = state;
    const title = current ? titleOf(current) : "";
    for (const heading of headings) heading.textContent = title;
    headings[0].hidden = !current || isEmpty(current); // an empty chat has a greeting for heading
    const doing = generation ? "Answering… · " : loading ? `Loading ${loading}… · ` : "";
    document.title = `${doing}${shown === "models" ? "" : `${title} · `}Doppler`;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (document.querySelector("dialog[open], :popover-open") || closeDrawer()) return;
    if (state.generation) stop();
  });
}

async function startConversations() {
  const note = { title: "Conversations cannot be kept", actions: [] };
  let told = -Infinity;
  let dismiss = () => {};
  document.addEventListener("unsaved", (event) => {
    if (performance.now() - told < UNSAVED_AGAIN_MS) return;
    told = performance.now();
    const { detail } = /** @type {CustomEvent} */ (event);
    const why = isFull(detail)
      ? "Its storage for this page is full: delete a model, or free some disk."
      : messageOf(`This browser refused to store them: ${detail?.message}`);
    dismiss = showProblem({ ...note, text: `${why} Export what you want to keep.` });
  });
  document.addEventListener("saved", () => {
    told = -Infinity;
    dismiss();
  });
  try {
    await restore();
  } catch {
    const text =
      "This browser offers no place for them here (a private window, perhaps). They last until the page is closed; export what you want to keep.";
    told = performance.now();
    showProblem({ ...note, text });
    return;
  }
  if (state.conversations.length && !state.current) open(state.conversations[0]);
}

showRequirements(missingFeatures());
startFrame();
startFocus();
startSidebar();
startPanel();
startMemory();
startPeers();
startConnection();
startProgress();
startRefit();
startModels();
startChat();
startContinue();
startSettings();
startTrouble();
startLinks();
startConversations();
attempt(settle);
client.ready.then(keepForLater).catch(() => {}); // a server that is gone, or an engine that tells itself
