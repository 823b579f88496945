/** @file A QR code, so that a phone can open a link without typing it. */

const SVG = "http://www.w3.org/2000/svg";
const QUIET_ZONE = 4; // modules of white around it, which readers need

/**
 * @param {string} text
 * @param {string} label
 * @returns {Promise<SVGSVGElement>} black on white in any theme
 */
export async function qrCode(text, label) {
  const { encode } = await import("../../vendor/uqr.js");
  const { data, size } = encode(text, { border: QUIET_ZONE });
  const dark = data.flatMap((row, y) => row.flatMap((on, x) => (on ? `M${x} ${y}h1v1h-1z` : [])));
  const svg = document.createElementNS(SVG, "svg");
  const attributes = { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label };
  for (const [name, value] of Object.entries({ ...attributes, class: "qr" })) {
    svg.setAttribute(name, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", dark.join(""));
  svg.append(path);
  return svg;
}
