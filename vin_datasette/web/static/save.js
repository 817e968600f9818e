// @ts-check
// A list as CSV (RFC 4180): what was asked, in its order, and what came of each.

const HEADINGS = ["VIN", "Make", "Model", "Model Year", "Body Class", "Cached Result?", "Source", "Reason", "Suggested VIN"];

/**
 * The rows of a list as the text of a CSV file.
 * @param {import("./list.js").Row[]} rows
 * @returns {string}
 */
export function csvOf(rows) {
  const lines = rows.map(({ written, answer }) => [
    written,
    answer?.Make,
    answer?.Model,
    answer?.["Model Year"],
    answer?.["Body Class"],
    answer?.["Cached Result?"],
    answer?.source,
    answer?.error ?? (answer ? "" : "not asked yet"),
    answer?.suggested_vin,
  ]);
  // Spreadsheets take a file for UTF-8 only by its mark.
  return `\ufeff${[HEADINGS, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n")}\r\n`;
}

/** @param {string | boolean | null | undefined} value */
function quoted(value) {
  const text = String(value ?? "");
  // A text that a spreadsheet would run as a formula stays a text.
  const safe = /^[=+@\t\r]|^-(?!\d)/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
