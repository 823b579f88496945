/** @file How much others are given: a rate, and a volume of each day that is counted across visits. */

import { el } from "../dom.js";
import { recall, remember, set, state } from "../store.js";

/** @import {Swarm} from "../../swarm/swarm.js" */

const GIVEN_KEY = "doppler.given";
const MB = 1e6;

const today = () => new Date().toDateString();

/** @returns {number} bytes that all tabs of this browser gave today */
export function givenToday() {
  const kept = recall(GIVEN_KEY);
  return kept?.day === today() ? kept.bytes : 0;
}

/** What one tab's transport gave; it is held to what is left of the day. */
export class Meter {
  #counted = 0;
  /** @type {number | null | undefined} what it was told last */
  #rate;
  /** @type {number | null | undefined} */
  #most;

  /** @param {Swarm} swarm */
  constructor(swarm) {
    this.swarm = swarm;
    this.hold();
  }

  /** Adds what was given since, and says how much more may be. */
  hold() {
    const { given } = this.swarm;
    const { rate, volume } = state.sharing;
    const bytes = givenToday() + given - this.#counted;
    this.#counted = given;
    remember(GIVEN_KEY, { day: today(), bytes });
    const most = volume && given + Math.max(0, volume - bytes);
    if (rate === this.#rate && most === this.#most) return;
    this.swarm.limit({ rate, volume: most });
    this.#rate = rate;
    this.#most = most;
  }
}

/**
 * @param {"rate" | "volume"} key
 * @param {string} label
 */
function field(key, label) {
  const id = `cap-${key}`;
  const help = el("span", { class: "help", id: `${id}-help` }, "Empty: no limit");
  const limits = { min: 0.1, step: "any", "aria-describedby": help.id, "data-testid": id };
  const input = el("input", { type: "number", id, ...limits });
  const shown = state.sharing[key];
  input.value = shown === null ? "" : String(shown / MB);
  input.addEventListener("input", () => {
    if (!input.validity.valid) return;
    const value = input.value ? input.valueAsNumber * MB : null;
    set({ sharing: { ...state.sharing, [key]: value } });
  });
  return el("div", { class: "field-row" }, el("label", { for: id }, label), input, help);
}

/** Both caps, which hold for all models that are shared. */
export const capFields = () =>
  el("div", { class: "caps" }, field("rate", "MB a second"), field("volume", "MB a day"));
