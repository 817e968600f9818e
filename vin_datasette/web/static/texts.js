// @ts-check
// The VINs in a text of any shape: a column or a row of a spreadsheet, a CSV file, a list.
import { LENGTH, normalise } from "./vin.js";

/** VINs that the page takes at once; `vin-datasette fetch` takes any number. */
export const MOST_VINS = 50_000;

/** Characters of a text that the page takes: a spreadsheet has more to a row than its VIN. */
export const MOST_CHARACTERS = 16 * 1024 * 1024;

/** A text that holds no list of VINs; the message says why. */
export class NoVins extends Error {}

const ROWS_LOOKED_AT = 200;
const DELIMITERS = ["\t", ";", ",", "|"];
const HEADING = /^vins?$|^vin[\s_-]?(number|no|code)\.?$|^vehicle identification number$/i;

/**
 * The VINs of a text, as they are written, in their order.
 *
 * A table's column is found by its heading or by what it holds. Raises `NoVins`.
 * @param {string} text
 * @returns {string[]}
 */
export function vinsIn(text) {
  if (text.length > MOST_CHARACTERS) throw new NoVins(`This is larger than ${MOST_CHARACTERS / 1024 / 1024} MB. ${ELSEWHERE}`);
  if (/[\0\ufffd]/.test(text)) throw new NoVins("This is no text in UTF-8. A spreadsheet has to be saved as CSV first.");
  const rows = rowsOf(text.replace(/^\ufeff/, ""));
  const [first] = rows;
  if (!first) return [];
  const vins = rows.length === 1 ? first.flatMap(words) : column(rows);
  if (vins.length > 1 && !vins.some(resembles)) {
    throw new NoVins(`None of the ${vins.length.toLocaleString("en-US")} lines has anything like a VIN, ${LENGTH} letters and digits.`);
  }
  if (vins.length > MOST_VINS) {
    throw new NoVins(`${vins.length.toLocaleString("en-US")} VINs are more than this page takes, ${MOST_VINS.toLocaleString("en-US")}. ${ELSEWHERE}`);
  }
  return vins;
}

const ELSEWHERE = "The command vin-datasette fetch takes files of any size.";

/**
 * The rows of a text that have anything in them, and their cells (RFC 4180, with any delimiter).
 * @param {string} text
 * @returns {string[][]}
 */
function rowsOf(text) {
  const head = text.slice(0, 10_000).split(/\r\n|\n|\r/, ROWS_LOOKED_AT);
  const delimiter = DELIMITERS.find((each) => head.some((line) => line.includes(each)));
  if (!delimiter) return text.split(/\r\n|\n|\r/).filter((line) => line.trim()).map((line) => [line]);
  const cell = new RegExp(`"([^"]*(?:""[^"]*)*)"(?=[${delimiter}\\r\\n]|$)|[^${delimiter}\\r\\n]*`, "y");
  /** @type {string[][]} */
  const rows = [];
  /** @type {string[]} */
  let row = [];
  for (let at = 0; at <= text.length; ) {
    cell.lastIndex = at;
    const found = cell.exec(text);
    const [whole, quoted] = found ?? ["", undefined];
    row.push((quoted === undefined ? whole : quoted.replaceAll('""', '"')).trim());
    at += whole.length;
    if (text[at] !== delimiter) {
      if (row.some(Boolean)) rows.push(row);
      row = [];
      if (text[at] === "\r" && text[at + 1] === "\n") at += 1;
    }
    at += 1;
  }
  return rows;
}

/**
 * The column of a table that holds the VINs, without its heading.
 * @param {string[][]} rows
 * @returns {string[]}
 */
function column(rows) {
  const headings = rows[0].findIndex((cell) => HEADING.test(cell));
  const looked = rows.slice(0, ROWS_LOOKED_AT);
  const width = Math.max(...looked.map((row) => row.length));
  const likely = Array.from({ length: width }, (_, index) => looked.filter((row) => resembles(row[index] ?? "")).length);
  const most = Math.max(...likely);
  const index = headings >= 0 ? headings : likely.indexOf(most);
  const cells = rows.map((row) => row[index] ?? "").filter(Boolean);
  const headed = headings >= 0 || (most > 0 && !resembles(cells[0]) && !/\d/.test(cells[0]));
  const kept = headed ? cells.slice(1) : cells;
  // Lines of a list may have several.
  return width === 1 ? kept.flatMap(words) : kept;
}

/**
 * The VINs of one cell: itself, or its words where each could be one.
 * @param {string} cell
 * @returns {string[]}
 */
function words(cell) {
  const parts = cell.split(/\s+/).filter(Boolean);
  return parts.length > 1 && normalise(cell).length !== LENGTH && parts.every(resembles) ? parts : parts.length ? [cell] : [];
}

/** Whether a text could be meant as a VIN: each ends in digits (49 CFR 565.15(d)(3)). @param {string} text @returns {boolean} */
function resembles(text) {
  return /^(?=.*\d)[A-Z0-9]{15,19}$/.test(normalise(text));
}
