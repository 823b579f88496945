/** Models of one's own: a .gguf that is opened or dropped, or its address. */

import { choose } from "./actions.js";
import { button, el } from "./dom.js";

/** @param {File} file */
function openFile(file) {
  const name = file.name.replace(/\.gguf$/i, "");
  const about = { title: file.name, group: /** @type {const} */ ("catalogue"), stored: null };
  choose({ ...about, source: { kind: "file", file, name } });
}

/** @param {HTMLInputElement} input */
function openAddress(input) {
  const name = decodeURIComponent(new URL(input.value).pathname.split("/").pop() ?? "model");
  const source = /** @type {const} */ ({ kind: "address", url: input.value });
  const stem = name.replace(/\.gguf$/i, "");
  choose({ title: name, stored: null, source: { ...source, name: stem } }).then(
    (worked) => worked && (input.value = ""),
  );
}

export function ownModel() {
  const input = el("input", {
    type: "file",
    accept: ".gguf",
    hidden: true,
    "data-testid": "open-file",
  });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.value = "";
    if (file) openFile(file);
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
    "A .gguf of a Gemma 3 or Llama model; or drop it here.",
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
      const file = type === "drop" && /** @type {DragEvent} */ (event).dataTransfer?.files[0];
      if (file) openFile(file);
    });
  }
  return el("section", { class: "group" }, el("h2", {}, "Your own"), own);
}
