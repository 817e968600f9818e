// @ts-check
// What is wrong with what stands in the box, before anything is sent.
import { finding, LENGTH, normalise } from "./vin.js";

/** @typedef {{words: string, kind: "" | "good" | "bad", echo: Node[]}} Hint */

const NAMED = 3;

/**
 * A hint about the VINs in the box.
 * @param {string[]} vins As they were written.
 * @returns {Hint}
 */
export function describe(vins) {
  if (!vins.length) return { words: "", kind: "", echo: [] };
  return vins.length === 1 ? describeOne(normalise(vins[0])) : describeMany(vins.map(normalise));
}

/** @param {string} vin @returns {Hint} */
function describeOne(vin) {
  const found = finding(vin);
  const echo = marked(vin, found?.positions ?? []);
  if (!found) return { words: "A VIN, and its check digit is right.", kind: "good", echo };
  // One who is still typing is not wrong yet.
  if (!found.positions.length && vin.length < LENGTH) return { words: `${vin.length} of ${LENGTH} characters`, kind: "", echo };
  return { words: found.words, kind: "bad", echo };
}

/** @param {string[]} vins @returns {Hint} */
function describeMany(vins) {
  const wrong = vins.flatMap((vin, index) => {
    const found = finding(vin);
    return found ? [{ line: index + 1, ...found }] : [];
  });
  const repeated = vins.length - new Set(vins).size;
  const count = `${vins.length.toLocaleString("en-US")} VINs`;
  const twice = repeated ? `, ${repeated.toLocaleString("en-US")} of them listed before` : "";
  if (!wrong.length) return { words: `${count}${twice}; every check digit is right.`, kind: "good", echo: [] };
  const named = wrong.slice(0, NAMED).map(({ line, words }) => `No. ${line}: ${words}`);
  const more = wrong.length > NAMED ? ` And ${(wrong.length - NAMED).toLocaleString("en-US")} more.` : "";
  const some = wrong.length === 1 ? "1 of them looks wrong" : `${wrong.length.toLocaleString("en-US")} of them look wrong`;
  return { words: `${count}${twice}; ${some}. ${named.join(" ")}${more}`, kind: "bad", echo: [] };
}

/** A VIN with what is wrong in it marked, and dots for what is to come. @param {string} vin @param {number[]} positions @returns {Node[]} */
function marked(vin, positions) {
  const characters = [...vin].slice(0, 2 * LENGTH);
  const shown = characters.map((character, index) => {
    if (!positions.includes(index + 1) && index < LENGTH) return document.createTextNode(character);
    const mark = document.createElement("mark");
    mark.textContent = character;
    return mark;
  });
  const due = document.createElement("span");
  due.className = "due";
  due.textContent = "·".repeat(Math.max(0, LENGTH - characters.length));
  return [...shown, due];
}
