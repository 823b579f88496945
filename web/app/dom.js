/** Small helpers to make elements. Text always goes in as text, never as HTML. */

/** @param {string} text @returns {string} the HTML that shows it */
export const escape = (text) =>
  text.replace(/[&<>"]/g, (mark) => `&#${/** @type {number} */ (mark.codePointAt(0))};`);

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [props] `onclick` and the like are listeners, the rest attributes
 * @param {...(Node | string | null | false)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else if (typeof value === "boolean" && !name.startsWith("aria-")) {
      element.toggleAttribute(name, value);
    } else if (value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} #${id}`);
  return element;
}

/** Paths on a grid of 24, drawn with a stroke. */
const PATHS = {
  add: "M12 5v14M5 12h14",
  after: "m10 7 5 5-5 5",
  auto: "M4 5h16v11H4zM9 20h6M12 16v4",
  before: "m14 7-5 5 5 5",
  check: "m5 12.5 4.5 4.5L19 7.5",
  chevron: "m7 10 5 5 5-5",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  down: "M12 5v14m-6-6 6 6 6-6",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  export: "M12 15V4m-4 4 4-4 4 4M5 14v6h14v-6",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  text: "M5 6h14M5 12h14M5 18h8",
  light:
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.4 1.4m11.2 11.2L19 19M5 19l1.4-1.4M17.6 6.4 19 5",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  again: "M20 11a8 8 0 1 0-2.3 6M20 4v7h-7",
  send: "M12 19V5m-6 6 6-6 6 6",
  settings:
    "M4 8h9m5 0h2M4 16h2m5 0h9M15.5 5.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM8.5 13.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z",
  sidebar: "M4 5h16v14H4zM10 5v14",
  stop: "M7 7h10v10H7z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  undo: "M4 9h10a5.5 5.5 0 0 1 0 11H8M4 9l5-5M4 9l5 5",
};

/** @param {keyof typeof PATHS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const attributes = {
    class: "icon",
    viewBox: "0 0 24 24",
    fill: name === "stop" ? "currentColor" : "none",
    stroke: "currentColor",
    "stroke-width": name === "more" ? "2.6" : "1.7",
    "stroke-linecap": "round",
    "stroke-linejoin": "round",
    "aria-hidden": "true",
  };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows only an icon; its label is its accessible name and its tooltip.
 * @param {keyof typeof PATHS} name
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, unknown>} [props]
 */
export function iconButton(name, label, onclick, props = {}) {
  const base = { class: "icon-button small", type: "button", "aria-label": label, title: label };
  return el("button", { ...base, onclick, ...props }, icon(name));
}

/**
 * @param {string} label
 * @param {() => void} onclick
 * @param {Record<string, unknown>} [props]
 */
export function button(label, onclick, props = {}) {
  return el("button", { class: "button", type: "button", onclick, ...props }, label);
}

/**
 * Offer bytes to the person as a download.
 * @param {Blob} blob
 * @param {string} name
 */
export function saveAs(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
