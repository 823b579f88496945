/** Models of one's own: files or a folder that are picked or dropped on the page, or an address. */

import { offerConversations } from "./actions.js";
import { button, el } from "./dom.js";
import { isExport } from "./export.js";
import { ofDropped, ofPicked } from "./folder.js";
import { offer } from "./offer.js";

/** @import {Source} from "./types.js" */

/**
 * A model, or conversations that were exported.
 * @param {{title: string, source: () => Promise<Source>, loose: File[]}} given
 */
async function take({ title, source, loose }) {
  const exported = await Promise.all(loose.map(isExport));
  for (const file of loose.filter((_, index) => exported[index])) await offerConversations(file);
  const others = loose.filter((_, index) => !exported[index]);
  if (others.length === loose.length) offer(title, source);
  else if (others.length > 0) take(ofFiles(others));
}

/** @param {HTMLInputElement} input */
function openAddress(input) {
  const url = input.value.trim();
  const names = url.split(/[?#]/)[0].split("/").filter(Boolean);
  offer(
    names.pop() ?? url,
    async () => ({ kind: "address", url }),
    () => (input.value = ""),
  );
}

/**
 * An input that is not seen, and the button that opens it.
 * @param {string} label
 * @param {string} testid
 * @param {Record<string, unknown>} props
 * @param {(files: File[]) => {title: string, source: () => Promise<Source>, loose: File[]}} given
 */
function picker(label, testid, props, given) {
  const input = el("input", { type: "file", hidden: true, "data-testid": testid, ...props });
  input.addEventListener("change", () => {
    const files = [...(input.files ?? [])];
    input.value = "";
    if (files.length === 0) return;
    take(given(files));
  });
  return [button(label, () => input.click()), input];
}

/** @param {File[]} files */
const ofFiles = (files) => ({
  title: files[0].name,
  source: async () => /** @type {Source} */ ({ kind: "files", files, folder: null }),
  loose: files,
});

/** @param {HTMLElement} own is shown to be where files may fall, which is anywhere on the page */
function acceptDrops(own) {
  for (const type of /** @type {const} */ (["dragover", "dragleave", "drop"])) {
    document.addEventListener(type, (event) => {
      const { dataTransfer } = event;
      if (!dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      own.classList.toggle("over", type === "dragover");
      const given = type === "drop" && ofDropped(dataTransfer);
      if (given) take(given);
    });
  }
}

export function ownModel() {
  const accept = ".gguf,.safetensors,.json,.jinja,.bin";
  const hint = el(
    "p",
    { class: "quiet" },
    "A .gguf file, all parts of a split one, or the folder of a Hugging Face checkpoint (config.json and .safetensors) of a Gemma 3, Llama, Qwen, Mixtral or GPT-OSS model, or that of a converted model (manifest.json and shards); or drop it anywhere on this page. What it is and what it takes is shown before anything is stored.",
  );
  const address = el("input", {
    inputmode: "url",
    autocapitalize: "off",
    autocomplete: "off",
    spellcheck: false,
    required: true,
    placeholder: "https://…/model.gguf, …/folder/ or ORG/NAME",
    "aria-label": "Address of a GGUF file or of a model's folder",
    "data-testid": "open-address",
  });
  const submit = el("button", { class: "button", type: "submit" }, "Open address");
  const form = el("form", {}, address, submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    openAddress(address);
  });
  const pickers = [
    ...picker("Open a file…", "open-file", { accept, multiple: true }, ofFiles),
    ...picker("Open a folder…", "open-folder", { webkitdirectory: true }, ofPicked),
  ];
  const own = el("div", { class: "own" }, el("div", { class: "file-row" }, ...pickers), hint, form);
  acceptDrops(own);
  return el("section", { class: "group" }, el("h2", {}, "Your own"), own);
}
