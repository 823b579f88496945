/** Numbers as people read them. Sizes are decimal, as file managers and shops count them. */

/**
 * @param {number} count
 * @param {string[]} units each 1000 times the one before
 */
function scaled(count, units) {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  return `${value.toFixed(digits).replace(/\.0+$/, "")} ${units[unit]}`.trim();
}

/** @param {number} count */
export const bytes = (count) => scaled(count, ["B", "kB", "MB", "GB", "TB"]);

/** @param {number} count of parameters: "270 M" */
export const parameters = (count) => scaled(count, ["", "k", "M", "B"]);

/** @param {number} milliseconds */
export function duration(milliseconds) {
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${Math.floor(milliseconds / 60_000)} min ${Math.round((milliseconds % 60_000) / 1000)} s`;
}

/** @param {number} value tokens per second */
export const speed = (value) => `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} tok/s`;

/**
 * @param {number} count
 * @param {string} noun
 */
export const plural = (count, noun) =>
  `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
