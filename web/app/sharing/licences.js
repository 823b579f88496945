/** @file Which licences let everybody pass a model on, without conditions that have to be accepted. */

/** As SPDX and model cards write them, in small letters. */
const OPEN = new Set([
  "apache-2.0",
  "mit",
  "isc",
  "bsd-2-clause",
  "bsd-3-clause",
  "unlicense",
  "cc0-1.0",
  "cc-by-4.0",
  "cc-by-sa-4.0",
]);

/**
 * A name alone is known of it, which whoever made the model's manifest wrote.
 * @param {string | null} licence
 * @returns {boolean} false also where none is stated
 */
export const isOpen = (licence) => OPEN.has((licence ?? "").trim().toLowerCase());
