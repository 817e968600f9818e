// @ts-check
// A list of VINs and what is known of each: asked in parts, stopped, resumed, never twice.
import { answers, newToken, Refused } from "./stream.js";
import { finding, LENGTH, normalise } from "./vin.js";

/** @typedef {import("./stream.js").Answer} Answer */
/** @typedef {"waiting" | "found" | "rejected" | "failed"} State */
/** @typedef {"ready" | "running" | "stopped" | "interrupted" | "done"} Phase */

/** VINs in one request; the server takes 10,000 and a megabyte. */
const PART = 5_000;

/** Milliseconds between two looks at the list by whoever shows it. */
const PACE = 250;

/** One line of the list, as it was written and as it was answered. */
export class Row {
  /** @param {string} written */
  constructor(written) {
    this.written = written;
    this.vin = normalise(written);
    /** @type {Answer | null} */
    this.answer = null;
    /** What was written before another VIN was taken in its place. @type {string | null} */
    this.instead_of = null;
  }

  /** @returns {State} */
  get state() {
    if (!this.answer) return "waiting";
    if (!this.answer.error) return "found";
    return this.answer.status === 404 ? "rejected" : "failed";
  }

  /** A whole VIN that can be taken instead, or null. @returns {string | null} */
  get suggestion() {
    const suggested = normalise(this.answer?.suggested_vin ?? "");
    return suggested.length === LENGTH && !finding(suggested)?.fatal && suggested !== this.vin ? suggested : null;
  }
}

/** What of a list is done; `open` are those without an answer. @typedef {{waiting: number, found: number, rejected: number, failed: number, open: number, cached: number, embedded: number, answered: number}} Counts */

export class List {
  /**
   * @param {string[]} texts The VINs as they were written.
   * @param {string} url Where they are asked.
   * @param {string} token Datasette's token for forms.
   * @param {() => void} changed Called when there is something new to show, four times a second at most.
   */
  constructor(texts, url, token, changed) {
    this.rows = texts.map((text) => new Row(text));
    this.url = url;
    this.token = token;
    this.changed = changed;
    /** @type {Phase} */
    this.phase = "ready";
    /** Why it was interrupted. */
    this.trouble = "";
    /** @type {number | null} */
    this.retryAfter = null;
    /** @type {AbortController | null} */
    this.asking = null;
    this.started = 0;
    this.answeredHere = 0;
    /** @type {number} */
    this.pending = 0;
    /** How many VINs were taken in the place of others. */
    this.replaced = 0;
    /** Rows by their VIN: one that is listed twice is asked once. @type {Map<string, Row[]>} */
    this.byVin = new Map();
    for (const row of this.rows) this.#index(row);
  }

  /** @returns {Counts} */
  get counts() {
    const counts = { waiting: 0, found: 0, rejected: 0, failed: 0, open: 0, cached: 0, embedded: 0, answered: 0 };
    for (const row of this.rows) {
      counts[row.state] += 1;
      if (row.answer?.["Cached Result?"]) counts.cached += 1;
      if (row.state === "found" && row.answer?.source?.startsWith("embedded")) counts.embedded += 1;
    }
    counts.answered = counts.found + counts.rejected;
    counts.open = counts.waiting + counts.failed;
    return counts;
  }

  /** Rows beyond the first of each VIN. */
  get repeated() {
    return this.rows.length - this.byVin.size;
  }

  /** Seconds until all is answered, by the pace so far; null while it cannot be told. */
  get secondsLeft() {
    const waiting = this.rows.length - this.counts.answered;
    const seconds = (performance.now() - this.started) / 1000;
    return this.answeredHere && seconds > 2 ? (waiting * seconds) / this.answeredHere : null;
  }

  /** Ask about everything that has no answer yet, failures again. Returns when there is nothing more to do. */
  async run() {
    const stop = new AbortController();
    const interrupted = this.phase === "interrupted";
    this.asking = stop;
    this.#begin();
    if (interrupted) this.token = await newToken(this.url, this.token);
    /** @type {Set<string>} */
    const asked = new Set();
    try {
      for (let due = this.#due(asked); due.length; due = this.#due(asked)) {
        for (const vin of due) asked.add(vin);
        await this.#ask(due, stop.signal);
      }
      this.phase = "done";
      if (this.counts.waiting) this.#interrupt("The server answered, but not about all of them.", null);
    } catch (error) {
      if (stop.signal.aborted) this.phase = "stopped";
      else if (error instanceof Refused) this.#interrupt(error.message, error.retryAfter);
      else this.#interrupt(navigator.onLine ? "The connection to the server was lost." : "This device is offline.", null);
    }
    this.asking = null;
    this.#show(true);
  }

  /** End what is under way; what is answered stays. */
  stop() {
    this.asking?.abort();
  }

  /** Take another VIN in the place of a rejected one, and ask about it. @param {Row} row @param {string} vin */
  async replace(row, vin) {
    const others = (this.byVin.get(row.vin) ?? []).filter((each) => each !== row);
    if (others.length) this.byVin.set(row.vin, others);
    else this.byVin.delete(row.vin);
    row.instead_of ??= row.written;
    this.replaced += 1;
    row.written = row.vin = vin;
    row.answer = this.byVin.get(vin)?.[0].answer ?? null;
    this.#index(row);
    if (row.answer || this.phase === "running") return this.#show(true);
    await this.run();
  }

  /** VINs for the next request: those without an answer that were not asked in this run. @param {Set<string>} asked */
  #due(asked) {
    return [...this.byVin.keys()].filter((vin) => !asked.has(vin) && !isAnswered(this.byVin.get(vin)?.[0])).slice(0, PART);
  }

  /** @param {Row} row */
  #index(row) {
    const alike = this.byVin.get(row.vin);
    if (alike) alike.push(row);
    else this.byVin.set(row.vin, [row]);
  }

  #begin() {
    this.phase = "running";
    this.trouble = "";
    this.retryAfter = null;
    this.started = performance.now();
    this.answeredHere = 0;
    this.#show(true);
  }

  /** @param {string[]} vins @param {AbortSignal} signal */
  async #ask(vins, signal) {
    for await (const lines of answers(this.url, this.token, vins, signal)) {
      for (const line of lines) {
        for (const row of this.byVin.get(line["Input VIN Requested"]) ?? []) {
          row.answer = line;
          this.answeredHere += 1;
        }
      }
      this.#show(false);
    }
  }

  /** @param {string} words @param {number | null} retryAfter */
  #interrupt(words, retryAfter) {
    this.phase = "interrupted";
    this.trouble = words;
    this.retryAfter = retryAfter;
  }

  /** @param {boolean} now */
  #show(now) {
    if (now) {
      clearTimeout(this.pending);
      this.pending = 0;
      this.changed();
    } else if (!this.pending) {
      this.pending = setTimeout(() => this.#show(true), PACE);
    }
  }
}

/** @param {Row | undefined} row */
function isAnswered(row) {
  return row?.state === "found" || row?.state === "rejected";
}
