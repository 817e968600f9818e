// @ts-check
// The rules of a VIN (ISO 3779, 49 CFR 565), so that a mistake is seen before anything is sent.
// The server has the last word: what passes here is asked there.

export const LENGTH = 17;

/** The digit that a letter barred from VINs was most likely read for. @type {Readonly<Record<string, string>>} */
export const LIKELY_DIGIT = { I: "1", O: "0", Q: "0" };

/** Values of the characters for the check digit (49 CFR 565.15(c), table III). @type {Readonly<Record<string, number>>} */
const VALUES = {
  0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 8, 9: 9,
  A: 1, B: 2, C: 3, D: 4, E: 5, F: 6, G: 7, H: 8,
  J: 1, K: 2, L: 3, M: 4, N: 5, P: 7, R: 9,
  S: 2, T: 3, U: 4, V: 5, W: 6, X: 7, Y: 8, Z: 9,
};

/** Weights of the positions; position 9 has none (table IV). */
const WEIGHTS = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];

// White space as Python's str.split() knows it, and hyphens wherever they stand.
const LEFT_OUT = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\-‐‑‒–—−\u00ad]/g;
const QUOTES = "\"'`´‘’‚“”„«»‹›";

/**
 * A text in upper case (ASCII only), without white space, hyphens and the quotes around it.
 * @param {string} text
 * @returns {string}
 */
export function normalise(text) {
  const bare = text.replace(LEFT_OUT, "");
  let start = 0;
  let end = bare.length;
  while (start < end && QUOTES.includes(bare[start])) start += 1;
  while (end > start && QUOTES.includes(bare[end - 1])) end -= 1;
  return bare.slice(start, end).replace(/[a-z]/g, (letter) => letter.toUpperCase());
}

/**
 * The check digit that is due for 17 characters of a VIN; position 9 itself does not count.
 * @param {string} vin
 * @returns {string}
 */
export function checkDigit(vin) {
  const sum = WEIGHTS.reduce((total, weight, index) => total + weight * (VALUES[vin[index]] ?? 0), 0) % 11;
  return sum === 10 ? "X" : String(sum);
}

/**
 * @typedef {object} Finding
 * @property {string} words What is wrong and where, or what is still to come.
 * @property {number[]} positions The positions that it is about, from 1.
 * @property {boolean} fatal Whether no VIN can be so; a failing check digit alone may be right outside North America.
 */

/**
 * What is wrong with a normalised VIN, or null when nothing is.
 * @param {string} vin
 * @returns {Finding | null}
 */
export function finding(vin) {
  const characters = [...vin];
  const wrong = characters.flatMap((character, index) => (character in VALUES ? [] : [index + 1]));
  if (wrong.length) {
    const [position] = wrong;
    const character = characters[position - 1];
    const likely = LIKELY_DIGIT[character];
    const reason = likely
      ? `Position ${position} holds the letter ${character}, which no VIN uses: likely the digit ${likely}.`
      : `Position ${position} holds ${character}, which no VIN uses.`;
    const more = wrong.length > 1 ? ` So it is with ${wrong.length - 1} more.` : "";
    return { words: reason + more, positions: wrong, fatal: true };
  }
  if (characters.length !== LENGTH) {
    const words = `A VIN has ${LENGTH} characters, and this has ${characters.length.toLocaleString("en-US")}.`;
    return { words, positions: [], fatal: true };
  }
  const due = checkDigit(vin);
  if (vin[8] === due) return null;
  return {
    words: `Position 9, the check digit, is ${vin[8]} where ${due} is due: one of the characters is likely wrong.`,
    positions: [9],
    fatal: false,
  };
}
