/** Light or dark: like the system, unless the person chose. Runs before the first paint. */

const KEY = "doppler.theme";

/** @returns {string} "auto", "light" or "dark" */
export function theme() {
  try {
    return localStorage.getItem(KEY) ?? "auto";
  } catch {
    return "auto"; // storage is blocked: follow the system
  }
}

/** @param {string} choice */
export function setTheme(choice) {
  try {
    localStorage.setItem(KEY, choice);
  } catch {
    // storage is blocked: the choice lasts as long as the page
  }
  document.documentElement.dataset.theme = choice;
}

const follow = () => void (document.documentElement.dataset.theme = theme());
follow();
// Another tab's choice is this one's too. A key of null: all was cleared.
addEventListener("storage", ({ key }) => {
  if (key === KEY || key === null) follow();
});
