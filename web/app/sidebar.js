/** The sidebar: conversations, colours; a drawer on phones. */

import { deleteConversation, importConversations, open, openNew } from "./actions.js";
import { change, save, titleOf } from "./conversations.js";
import { byId, el, icon, iconButton } from "./dom.js";
import { exportJson, exportMarkdown } from "./export.js";
import { search, wordsOf } from "./search.js";
import { recall, remember, state, watch } from "./store.js";
import { setTheme, theme } from "./theme.js";

/** @import {Conversation} from "./types.js" */

/** @import {Hit} from "./search.js" */

const FOLDED = "doppler.folded";
const MOST_HITS = 100;

const shell = byId("shell", HTMLElement);
const list = byId("conversations", HTMLUListElement);
const note = byId("no-conversations", HTMLElement);
const searchField = byId("search", HTMLInputElement);
const openButton = byId("sidebar-open", HTMLButtonElement);
const closeButton = byId("sidebar-close", HTMLButtonElement);
const narrow = matchMedia("(max-width: 800px)");

/** @param {boolean} visible */
function showSidebar(visible) {
  shell.classList.toggle("drawer", visible && narrow.matches);
  if (!narrow.matches) {
    shell.classList.toggle("folded", !visible);
    remember(FOLDED, visible ? null : true);
  }
  openButton.setAttribute("aria-expanded", String(visible));
  byId("page", HTMLElement).inert = visible && narrow.matches;
  (visible ? closeButton : openButton).focus();
}

/** @returns {boolean} whether there was a drawer to close */
export function closeDrawer() {
  if (!shell.classList.contains("drawer")) return false;
  showSidebar(false);
  return true;
}

/**
 * @param {Conversation} conversation
 * @param {HTMLElement} row
 */
function rename(conversation, row) {
  const value = titleOf(conversation);
  const props = { type: "text", value, maxlength: 200, dir: "auto", "aria-label": "Title" };
  const input = el("input", props);
  let kept = false;
  const keep = () => {
    if (kept) return;
    kept = true;
    const title = input.value.trim();
    if (title && title !== titleOf(conversation)) {
      change(conversation, "title", { title });
      save(conversation, false);
    }
    renderList();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") keep();
    if (event.key !== "Escape") return;
    event.stopPropagation();
    kept = true;
    renderList();
  });
  input.addEventListener("blur", keep);
  row.replaceChildren(input);
  input.focus();
  input.select();
}

/**
 * @param {Conversation} conversation
 * @param {HTMLElement} row
 */
function menuOf(conversation, row) {
  const menu = el("div", {
    class: "menu",
    popover: "auto",
    role: "group",
    "aria-label": "Conversation",
  });
  /** @type {[Parameters<typeof icon>[0], string, () => void][]} */
  const deeds = [
    ["edit", "Rename", () => rename(conversation, row)],
    ["export", "Export", () => exportJson([conversation], titleOf(conversation))],
    ["text", "Export as Markdown", () => exportMarkdown(conversation)],
    ["trash", "Delete", () => void deleteConversation(conversation)],
  ];
  menu.addEventListener("toggle", ({ newState }) => newState === "closed" && menu.remove());
  for (const [name, label, run] of deeds) {
    const onclick = () => {
      menu.hidePopover();
      run();
    };
    menu.append(el("button", { type: "button", onclick }, icon(name), label));
  }
  return menu;
}

/** @param {Conversation} conversation @param {Hit | null} hit where it was searched for */
function rowOf(conversation, hit) {
  const current = conversation.id === state.current?.id;
  const title = titleOf(conversation);
  const row = el("li", {
    class: `conversation${current ? " current" : ""}`,
    id: `conversation-${conversation.id}`,
    "data-testid": "conversation",
  });
  const onclick = () => {
    open(conversation, hit && { message: hit.message, words: wordsOf(searchField.value) });
    closeDrawer();
  };
  const line = hit?.pieces.map(({ text, marked }) => (marked ? el("mark", {}, text) : text));
  const props = { class: "open", type: "button", "aria-current": current ? "true" : null, onclick };
  const more = iconButton("more", `More for ${title}`, () => {
    const menu = menuOf(conversation, row);
    row.append(menu);
    const { right, bottom } = more.getBoundingClientRect();
    menu.showPopover();
    menu.style.left = `${Math.max(8, right - menu.offsetWidth)}px`;
    menu.style.top = `${Math.min(bottom, innerHeight - menu.offsetHeight - 8)}px`;
    menu.querySelector("button")?.focus();
  });
  row.append(
    el(
      "button",
      props,
      icon(conversation.kind),
      el(
        "span",
        { class: "clip", dir: "auto" },
        title,
        line?.length ? el("span", { class: "excerpt", "data-testid": "excerpt" }, ...line) : null,
      ),
    ),
    more,
  );
  return row;
}

function renderList() {
  const focused = document.activeElement?.closest("li")?.id;
  const none = state.conversations.length === 0;
  const words = wordsOf(searchField.value);
  const hits = words.length > 0 ? search(state.conversations, words) : null;
  const rows =
    hits?.slice(0, MOST_HITS).map((hit) => rowOf(hit.conversation, hit)) ??
    state.conversations.map((conversation) => rowOf(conversation, null));
  list.replaceChildren(...rows);
  if (focused) document.getElementById(focused)?.querySelector("button")?.focus();
  const told = none ? "Your conversations are kept here, on this device only." : "Nothing found.";
  note.textContent = told;
  note.hidden = rows.length > 0;
  // Both keep their place: what stands around them must not move when conversations arrive.
  searchField.disabled = none;
  byId("export-all", HTMLButtonElement).disabled = none;
}

function startTheme() {
  const buttons = [
    .../** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("#theme button")),
  ];
  const render = () => {
    for (const choice of buttons) {
      choice.setAttribute("aria-pressed", String(choice.dataset.themeChoice === theme()));
    }
  };
  for (const choice of buttons) {
    const name = /** @type {"auto" | "light" | "dark"} */ (choice.dataset.themeChoice);
    choice.append(icon(name));
    choice.title = choice.getAttribute("aria-label") ?? "";
    choice.addEventListener("click", () => {
      setTheme(name);
      render();
    });
  }
  render();
  addEventListener("storage", render); // another tab may have chosen
}

function startImport() {
  const props = { type: "file", accept: ".json", hidden: true, "data-testid": "import-file" };
  const input = el("input", props);
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file) importConversations(file).finally(() => (input.value = ""));
  });
  const control = byId("import", HTMLButtonElement);
  control.after(input);
  control.addEventListener("click", () => input.click());
}

export function startSidebar() {
  openButton.append(icon("sidebar"));
  closeButton.append(icon("sidebar"));
  openButton.addEventListener("click", () => showSidebar(true));
  closeButton.addEventListener("click", () => showSidebar(false));
  byId("scrim", HTMLElement).addEventListener("click", () => showSidebar(false));
  narrow.addEventListener("change", () => {
    shell.classList.remove("drawer");
    byId("page", HTMLElement).inert = false;
  });
  shell.classList.toggle("folded", recall(FOLDED) === true);
  for (const kind of /** @type {const} */ (["chat", "text"])) {
    const control = byId(`new-${kind}`, HTMLButtonElement);
    control.prepend(icon(kind));
    control.addEventListener("click", () => {
      closeDrawer();
      openNew(kind);
    });
  }
  byId("export-all", HTMLButtonElement).addEventListener("click", () =>
    exportJson(state.conversations, "doppler-conversations"),
  );
  startImport();
  searchField.addEventListener("input", renderList);
  searchField.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !searchField.value) return;
    event.stopPropagation();
    event.preventDefault();
    searchField.value = "";
    renderList();
  });
  startTheme();
  watch(["conversations", "current"], () => {
    // a title that is being written, or a menu that is open, is not to be taken away
    if (!list.querySelector("input, :popover-open")) renderList();
  });
}
