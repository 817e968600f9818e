// @ts-check
// A list of VINs as a table of a hundred rows at a time, with what is known of all of them above.
import { csvOf } from "./save.js";

/** @typedef {import("./list.js").List} List */
/** @typedef {import("./list.js").Row} Row */
/** @typedef {"all" | "found" | "rejected" | "open"} Shown */

const ROWS = 100;

/** Milliseconds between two announcements to a screen reader. */
const SAID_EVERY = 5_000;

/** VINs that an address can name; more are given to the server to remember. */
const VINS_IN_ADDRESS = 300;

/**
 * The element of the page with an id. Raises `Error` where there is none of its kind.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {abstract new () => T} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`The page has no ${id}`);
  return found;
}

export class ListView {
  /** @param {HTMLElement} main The page, which names the addresses it needs. */
  constructor(main) {
    this.main = main;
    this.section = element("vin-list", HTMLElement);
    this.title = element("vin-list-title", HTMLElement);
    this.progress = element("vin-progress", HTMLProgressElement);
    this.status = element("vin-status", HTMLElement);
    this.announced = element("vin-announced", HTMLElement);
    this.trouble = element("vin-trouble", HTMLElement);
    this.body = element("vin-rows", HTMLTableSectionElement);
    this.stop = element("vin-stop", HTMLButtonElement);
    this.resume = element("vin-resume", HTMLButtonElement);
    this.links = element("vin-links", HTMLElement);
    this.previous = element("vin-previous", HTMLButtonElement);
    this.next = element("vin-next", HTMLButtonElement);
    this.filters = [...this.section.querySelectorAll("button[data-show]")];
    /** @type {List | null} */
    this.list = null;
    /** @type {Shown} */
    this.shown = "all";
    this.page = 0;
    this.said = 0;
    /** @type {import("./list.js").Phase} */
    this.phase = "ready";
    /** What each row of the table shows. @type {{row: Row, key: string}[]} */
    this.drawn = [];
    this.linked = "";
    this.#listen();
  }

  /** Show a new list. @param {List} list @param {string} title */
  open(list, title) {
    this.list = list;
    this.shown = "all";
    this.page = this.said = 0;
    this.linked = "";
    this.title.textContent = title;
    this.section.hidden = false;
    this.show();
    this.title.focus();
  }

  /** Show what has changed. */
  show() {
    if (!this.list) return;
    this.#showState(this.list);
    this.#showRows(this.list);
  }

  #listen() {
    this.stop.addEventListener("click", () => this.list?.stop());
    this.resume.addEventListener("click", () => void this.list?.run());
    this.previous.addEventListener("click", () => this.#turn(-1));
    this.next.addEventListener("click", () => this.#turn(1));
    element("vin-save", HTMLButtonElement).addEventListener("click", () => this.#save());
    for (const button of this.filters) {
      button.addEventListener("click", () => {
        this.shown = /** @type {Shown} */ (button.getAttribute("data-show"));
        this.page = 0;
        this.show();
      });
    }
  }

  /** @param {number} by */
  #turn(by) {
    this.page += by;
    this.show();
    this.section.querySelector(".vin-scroll")?.scrollIntoView({ block: "nearest" });
  }

  /** @param {List} list */
  #showState(list) {
    const counts = list.counts;
    const running = list.phase === "running";
    this.progress.max = list.rows.length;
    this.progress.value = counts.answered;
    this.status.textContent = this.#words(list);
    // A screen reader would speak every change.
    if (list.phase !== this.phase || Date.now() - this.said > SAID_EVERY) {
      this.said = Date.now();
      this.phase = list.phase;
      this.announced.textContent = this.status.textContent;
    }
    this.trouble.hidden = list.phase !== "interrupted";
    const words = list.retryAfter ? `${list.trouble} Ask again in ${list.retryAfter} seconds.` : list.trouble;
    if (this.trouble.textContent !== words) this.trouble.firstElementChild?.replaceChildren(words);
    const focused = document.activeElement;
    this.stop.hidden = !running;
    this.resume.hidden = running || counts.waiting + counts.failed === 0;
    // The one takes the other's place, also under the keyboard.
    if (focused === this.stop && this.stop.hidden) (this.resume.hidden ? this.title : this.resume).focus();
    if (focused === this.resume && this.resume.hidden) (this.stop.hidden ? this.title : this.stop).focus();
    const numbers = { all: list.rows.length, ...counts };
    for (const button of this.filters) {
      const kind = /** @type {Shown} */ (button.getAttribute("data-show"));
      button.setAttribute("aria-pressed", String(kind === this.shown));
      button.lastElementChild?.replaceChildren(number(numbers[kind]));
      button.toggleAttribute("hidden", kind === "open" && (running || !numbers.open) && this.shown !== "open");
    }
    if (running || !counts.found) this.links.hidden = true;
    else void this.#link(list);
  }

  /** @param {List} list */
  #words(list) {
    const { answered, found, cached, rejected, failed, embedded } = list.counts;
    const parts = [`${number(found)} found`, `${number(cached)} of them cached`, `${number(rejected)} rejected`];
    if (failed) parts.push(`${number(failed)} could not be asked`);
    if (embedded) parts.push(`${number(embedded)} answered by the embedded copy of vPIC's database`);
    if (list.repeated) parts.push(`${number(list.repeated)} listed more than once`);
    const left = list.phase === "running" ? list.secondsLeft : null;
    const heading = { ready: "Ready", running: "Looking up", stopped: "Stopped", interrupted: "Interrupted", done: "Done" }[list.phase];
    const rest = left === null ? "" : ` About ${duration(left)} left.`;
    return `${heading}: ${number(answered)} of ${number(list.rows.length)}. ${parts.join(", ")}.${rest}`;
  }

  /** @param {List} list */
  #showRows(list) {
    const numbered = list.rows.map((row, index) => ({ row, index }));
    const rows = numbered.filter(({ row }) => isShown(row, this.shown));
    this.page = Math.max(0, Math.min(this.page, Math.ceil(rows.length / ROWS) - 1));
    const start = this.page * ROWS;
    const part = rows.slice(start, start + ROWS);
    while (this.body.rows.length > part.length) this.body.deleteRow(-1);
    part.forEach(({ row, index }, position) => {
      const key = `${index} ${row.vin} ${row.answer ? row.state + row.answer.source : ""}`;
      if (this.drawn[position]?.row === row && this.drawn[position].key === key && this.body.rows[position]) return;
      const line = this.#line(list, row, index);
      if (this.body.rows[position]) this.body.rows[position].replaceWith(line);
      else this.body.append(line);
      this.drawn[position] = { row, key };
    });
    element("vin-none", HTMLElement).hidden = rows.length > 0;
    element("vin-range", HTMLElement).textContent = rows.length
      ? `${number(start + 1)} to ${number(start + part.length)} of ${number(rows.length)}`
      : "";
    this.previous.disabled = this.page === 0;
    this.next.disabled = start + ROWS >= rows.length;
  }

  /** @param {List} list @param {Row} row @param {number} index @returns {HTMLTableRowElement} */
  #line(list, row, index) {
    const line = document.createElement("tr");
    line.className = row.state;
    line.append(cell(number(index + 1), "number"), this.#vin(row));
    const answer = row.answer;
    if (!answer) {
      line.append(...["", "", "", ""].map((text) => cell(text)), cell("waiting"));
    } else if (answer.error) {
      const reason = cell(answer.error, "reason");
      reason.colSpan = 4;
      reason.append(...this.#suggestion(list, row));
      line.append(reason, cell(row.state === "rejected" ? "rejected" : "not asked"));
    } else {
      line.append(cell(answer["Model Year"] ?? "", "number"), cell(answer.Make ?? ""), cell(answer.Model ?? ""), cell(answer["Body Class"] ?? ""));
      line.append(cell([answer["Cached Result?"] ? "cached" : "new", origin(answer.source)].filter(Boolean).join(", ")));
    }
    return line;
  }

  /** @param {Row} row */
  #vin(row) {
    const said = cell("", "vin-code");
    if (row.state === "found") {
      const link = document.createElement("a");
      link.href = `${this.main.dataset.table}/${row.vin}`;
      link.textContent = row.vin;
      said.append(link);
    } else {
      said.textContent = cut(row.written);
    }
    if (row.instead_of !== null) {
      const was = document.createElement("span");
      was.className = "was";
      was.textContent = `instead of ${cut(row.instead_of)}`;
      said.append(was);
    }
    return said;
  }

  /** @param {List} list @param {Row} row @returns {Node[]} */
  #suggestion(list, row) {
    const vin = row.suggestion;
    const said = row.answer?.suggested_vin;
    if (!vin) return said ? [document.createElement("br"), `vPIC suggests ${said}; ! stands for a position in doubt.`].map(node) : [];
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = `Take ${vin}`;
    button.addEventListener("click", () => {
      button.disabled = true;
      void list.replace(row, vin);
      this.title.focus();
    });
    return [document.createElement("br"), button];
  }

  /** Lead to the rows of the vehicles that were found. @param {List} list */
  async #link(list) {
    const vins = [...new Set(list.rows.filter((row) => row.state === "found").map((row) => row.vin))];
    const key = vins.join();
    if (this.linked !== key) {
      this.linked = key;
      this.links.hidden = true;
      const filter = vins.length <= VINS_IN_ADDRESS ? `vin__in=${key}` : await this.#remembered(list, vins);
      if (this.linked !== key) return;
      for (const link of this.links.querySelectorAll("a")) {
        const format = link.dataset.format ?? "";
        link.href = `${this.main.dataset.table}${format}?${filter}${format === ".csv" ? "&_nocol=record&_stream=on&_dl=on" : ""}`;
        link.toggleAttribute("hidden", !filter);
      }
    }
    this.links.hidden = list.phase === "running";
  }

  /** @param {List} list @param {string[]} vins @returns {Promise<string>} */
  async #remembered(list, vins) {
    const headers = { "content-type": "application/json", "x-csrftoken": list.token };
    const response = await fetch(this.main.dataset.lists ?? "", { method: "POST", headers, body: JSON.stringify(vins) }).catch(() => null);
    return response?.ok ? `_list=${(await response.json()).list}` : "";
  }

  #save() {
    if (!this.list) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csvOf(this.list.rows)], { type: "text/csv" }));
    link.download = "vins.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

/** Whether a row is of a kind. @param {Row} row @param {Shown} kind */
function isShown(row, kind) {
  return kind === "all" || row.state === kind || (kind === "open" && (row.state === "waiting" || row.state === "failed"));
}

/** @param {string} text @param {string} [kind] */
function cell(text, kind) {
  const made = document.createElement("td");
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

/** @param {Node | string} part @returns {Node} */
function node(part) {
  return typeof part === "string" ? document.createTextNode(part) : part;
}

/** @param {string} text */
function cut(text) {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

/** @param {number} value */
function number(value) {
  return value.toLocaleString("en-US");
}

/** @param {number} seconds */
function duration(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} seconds` : `${Math.ceil(seconds / 60)} minutes`;
}

/** Who answered, where it was not vPIC itself. @param {string | undefined} source */
function origin(source) {
  if (!source || source === "vpic") return "";
  return source.endsWith("-sibling") ? "from a vehicle alike" : "embedded";
}
