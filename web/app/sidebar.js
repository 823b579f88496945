/** The sidebar: conversations, colours; a drawer on phones. */

import { deleteConversation, open, openNew } from "./actions.js";
import { change, save, titleOf } from "./conversations.js";
import { byId, el, icon, iconButton } from "./dom.js";
import { exportJson } from "./export.js";
import { recall, remember, state, watch } from "./store.js";
import { setTheme, theme } from "./theme.js";

/** @import {Conversation} from "./types.js" */

const FOLDED = "doppler.folded";

const shell = byId("shell", HTMLElement);
const list = byId("conversations", HTMLUListElement);
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
    ["trash", "Delete", () => void deleteConversation(conversation)],
  ];
  for (const [name, label, run] of deeds) {
    const onclick = () => {
      menu.hidePopover();
      run();
    };
    menu.append(el("button", { type: "button", onclick }, icon(name), label));
  }
  return menu;
}

/** @param {Conversation} conversation */
function rowOf(conversation) {
  const current = conversation.id === state.current?.id;
  const title = titleOf(conversation);
  const row = el("li", {
    class: `conversation${current ? " current" : ""}`,
    id: `conversation-${conversation.id}`,
    "data-testid": "conversation",
  });
  const onclick = () => {
    open(conversation);
    closeDrawer();
  };
  const props = { class: "open", type: "button", "aria-current": current ? "true" : null, onclick };
  const menu = menuOf(conversation, row);
  const more = iconButton("more", `More for ${title}`, () => {
    const { right, bottom } = more.getBoundingClientRect();
    menu.showPopover();
    menu.style.left = `${Math.max(8, right - menu.offsetWidth)}px`;
    menu.style.top = `${Math.min(bottom, innerHeight - menu.offsetHeight - 8)}px`;
    menu.querySelector("button")?.focus();
  });
  row.append(
    el("button", props, icon(conversation.kind), el("span", { class: "clip", dir: "auto" }, title)),
    more,
    menu,
  );
  return row;
}

function renderList() {
  const focused = document.activeElement?.closest("li")?.id;
  list.replaceChildren(...state.conversations.map(rowOf));
  if (focused) document.getElementById(focused)?.querySelector("button")?.focus();
  byId("no-conversations", HTMLElement).hidden = state.conversations.length > 0;
  byId("export-all", HTMLElement).hidden = state.conversations.length === 0;
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
  startTheme();
  watch(["conversations", "current"], () => {
    // a title that is being written, or a menu that is open, is not to be taken away
    if (!list.querySelector("input, :popover-open")) renderList();
  });
}
