/** What is being started, fetched or loaded, stage by stage, told from the client's events. */

import { client } from "./client.js";
import { button, el, byId, icon } from "./dom.js";
import { failure, wasCancelled } from "./engine.js";
import { bytes, duration } from "./format.js";
import { announce, toast } from "./notices.js";
import { state } from "./store.js";

/** @type {Record<string, string>} */
const TITLES = {
  boot: "Starting Python",
  waiting: "Waiting: the same model is being stored already",
  download: "Downloading",
  import: "Importing",
  verify: "Verifying and uploading to the GPU",
  compile: "Compiling kernels",
  tokenizer: "Reading the tokenizer",
};
const STAGES_OF_BYTES = ["download", "import", "verify"];
const DOWNLOADS = ["download", "download_from_peers"];
const TRANSFERS = [...DOWNLOADS, "import_url", "import_file", "give_files"];
/** @type {Record<string, string>} stage that each method begins with */
const FIRST = {
  boot: "boot",
  download: "download",
  download_from_peers: "download",
  import_url: "import",
  import_file: "import",
  give_files: "import",
  load: "tokenizer",
};
const CLOSE_AFTER_MS = 900;

const panel = byId("loading", HTMLElement);

class Stage {
  bar = el("progress", { max: 1 });
  figures = el("span", { class: "figures" });
  mark = el("span", { class: "mark" });
  startedAt = performance.now();

  /** @param {string} name */
  constructor(name) {
    this.name = name;
    this.bar.setAttribute("aria-label", TITLES[name] ?? name);
    const title = el("span", {}, TITLES[name] ?? name);
    const props = { class: "stage", "data-testid": `stage-${name}` };
    this.element = el("li", props, this.mark, title, this.figures, this.bar);
  }

  /** @param {{done: number, total: number, rate?: number}} event */
  update({ done, total, rate }) {
    if (total > 0) this.bar.value = Math.min(1, done / total);
    if (STAGES_OF_BYTES.includes(this.name)) {
      const speed = rate ? ` · ${bytes(rate)}/s` : "";
      this.figures.textContent = `${bytes(done)} of ${bytes(total)}${speed}`;
    } else if (total > 1) {
      this.figures.textContent = `${done} of ${total}`;
    }
  }

  finish() {
    this.element.classList.add("done");
    this.mark.replaceChildren(icon("check"));
    this.figures.textContent = duration(performance.now() - this.startedAt);
  }
}

/** @type {Map<string, Stage>} */
const stages = new Map();
/** @type {Stage | undefined} */
let running;
let closing = 0;
let transfers = 0; // that run: files may be given while a download waits for peers
const title = el("h2");
const list = el("ol");
const cancelButton = button("Cancel", cancel, { "data-testid": "cancel-transfer", hidden: true });
panel.append(el("div", { class: "loading-head" }, title, cancelButton), list);

/** The transfer then fails with a RequestError that is told calmly. */
function cancel() {
  cancelButton.disabled = true;
  title.textContent = "Cancelling…";
  client.call("cancel", { what: "transfers" }).catch(() => {}); // an engine that is gone has no transfer either
}

/** @param {string} name */
function enter(name) {
  const known = stages.get(name);
  if (known && known === running) return known;
  running?.finish();
  running = new Stage(name);
  stages.get(name)?.element.remove();
  stages.set(name, running);
  list.append(running.element);
  announce(TITLES[name] ?? name);
  return running;
}

function close() {
  panel.hidden = true;
  list.replaceChildren();
  stages.clear();
  running = undefined;
}

export function startProgress() {
  client.on("start", ({ call }) => {
    if (!(call.method in FIRST)) return;
    clearTimeout(closing);
    if (panel.hidden) close();
    panel.hidden = false;
    transfers += Number(TRANSFERS.includes(call.method));
    cancelButton.hidden = transfers === 0;
    cancelButton.disabled = false;
    const booting = call.method === "boot" && !state.loading;
    title.textContent = booting ? "Getting ready" : `Loading ${state.loading ?? "a model"}`;
    enter(FIRST[call.method]);
  });
  client.on("event", ({ event }) => {
    if (event?.type !== "boot" && event?.type !== "progress") return;
    enter(event.type === "boot" ? "boot" : event.stage).update(event);
  });
  client.on("end", ({ call }) => {
    if (!(call.method in FIRST)) return;
    running?.finish();
    running = undefined;
    transfers -= Number(TRANSFERS.includes(call.method));
    cancelButton.hidden = transfers === 0;
    if (transfers > 0) return;
    if (call.method === "load") announce("The model is ready.");
    closing = setTimeout(close, state.loading && call.method !== "load" ? 60_000 : CLOSE_AFTER_MS);
  });
  client.on("fail", ({ call, error }) => {
    if (!(call.method in FIRST)) return;
    transfers -= Number(TRANSFERS.includes(call.method));
    if (transfers === 0) close();
    if (wasCancelled(failure(error))) {
      const kept = DOWNLOADS.includes(call.method)
        ? "What has arrived is kept; Resume goes on."
        : "";
      toast(`Cancelled. ${kept}`.trim());
    }
  });
}
