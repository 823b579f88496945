/** @file What the page does so that it opens again with the server gone, and keeps its models. */

import { workerURL } from "../runtime/trusted.js";

const PATIENCE_MS = 3000; // a page that was reloaded with shift held is never controlled

/**
 * Registers sw.js and resolves once it answers for this page (at a second visit it does from the
 * beginning): a worker that is started then has all its files kept. Resolves just the same where service workers are missing or refused.
 * @returns {Promise<boolean>} whether the page will open offline
 */
export async function keepPage() {
  if (!("serviceWorker" in navigator)) return false;
  try {
    await navigator.serviceWorker.register(workerURL("../sw.js"));
    const controller = await controlling();
    await scriptsRun();
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    controller?.postMessage({ keep: [location.href.split(/[?#]/)[0], ...loaded] });
    return Boolean(controller);
  } catch {
    return false; // private windows refuse; the page works all the same
  }
}

/** @returns {Promise<unknown>} once the page's own scripts are there and have run */
export function scriptsRun() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));
}

/** @returns {Promise<ServiceWorker | null>} */
async function controlling() {
  const container = navigator.serviceWorker;
  if (!container.controller) {
    await new Promise((resolve) => {
      container.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, PATIENCE_MS);
    });
  }
  return container.controller;
}

/**
 * Asks the browser not to evict models; call it when a person gets one (some browsers ask them).
 * @returns {Promise<boolean>}
 */
export async function keepModels() {
  return (await navigator.storage?.persist?.()) ?? false;
}

/**
 * Fetches what this visit may not need, so that sw.js has it when the server is gone: what draws
 * formulas and colours code.
 */
export async function keepForLater() {
  const styles = new URL("../vendor/katex/katex.css", import.meta.url);
  const text = await (await fetch(styles)).text();
  const fonts = text.match(/fonts\/[\w-]+\.woff2/g) ?? [];
  const parts = ["katex.js", "../highlight.js", ...new Set(fonts)];
  for (const url of parts.map((part) => new URL(part, styles))) {
    if (!(await globalThis.caches?.match(url))) await fetch(url);
  }
}
