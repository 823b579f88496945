/** Models of one's own: a .gguf (or all parts of one) that is opened or dropped, or its address. */

import { choose } from "./actions.js";
import { button, el } from "./dom.js";

/** @param {string} file its name, without its ending and the number of a part */
const modelName = (file) => file.replace(/(-\d{5}-of-\d{5})?\.gguf$/i, "");

/** @param {FileList} list */
function openFiles(list) {
  const files = [...list];
  if (files.length === 0) return;
  const [{ name }] = files;
  const about = { title: name, group: /** @type {const} */ ("catalogue"), stored: null };
  choose({ ...about, source: { kind: "file", files, name: modelName(name) } });
}

/** @param {HTMLInputElement} input */
function openAddress(input) {
  const name = decodeURIComponent(new URL(input.value).pathname.split("/").pop() ?? "model");
  const source = /** @type {const} */ ({ kind: "address", url: input.value });
  choose({ title: name, stored: null, source: { ...source, name: modelName(name) } }).then(
    (worked) => worked && (input.value = ""),
  );
}

export function ownModel() {
  const input = el("input", {
    type: "file",
    accept: ".gguf",
    multiple: true,
    hidden: true,
    "data-testid": "open-file",
  });
  input.addEventListener("change", () => {
    if (input.files) openFiles(input.files);
    input.value = "";
  });
  const address = el("input", {
    type: "url",
    required: true,
    placeholder: "https://…/model.gguf",
    "aria-label": "Address of a GGUF file",
    "data-testid": "open-address",
  });
  const form = el(
    "form",
    {},
    address,
    el("button", { class: "button", type: "submit" }, "Open address"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    openAddress(address);
  });
  const open = button("Open a file…", () => input.click());
  const hint = el(
    "span",
    { class: "quiet" },
    "A .gguf of a Gemma 3, Llama or Qwen model, or all its parts at once; or drop it here.",
  );
  const own = el(
    "div",
    { class: "own" },
    el("div", { class: "file-row" }, open, input, hint),
    form,
  );
  for (const type of ["dragover", "dragleave", "drop"]) {
    own.addEventListener(type, (event) => {
      event.preventDefault();
      own.classList.toggle("over", type === "dragover");
      const files = type === "drop" && /** @type {DragEvent} */ (event).dataTransfer?.files;
      if (files) openFiles(files);
    });
  }
  return el("section", { class: "group" }, el("h2", {}, "Your own"), own);
}
