// @ts-check
// The view of `VinLookup`: a box, how far it is, and a table of a hundred rows at a time.

/**
 * What a front end gives a widget: traits that the kernel has too, and messages to and from it.
 * @typedef {{
 *   get(trait: string): any, set(trait: string, value: unknown): void, save_changes(): void,
 *   send(message: object): unknown, on(event: string, heard: (message: any) => void): void,
 * }} Model
 */

/** @typedef {"waiting" | "found" | "rejected" | "failed"} State */

/**
 * A VIN as it is written, its place from 0, its answer, and a whole VIN that can be taken instead.
 * A row never changes: another one takes its place.
 * @typedef {{
 *   readonly at: number, readonly text: string, readonly state: State, readonly year: number | null, readonly make: string,
 *   readonly model: string, readonly body: string, readonly answer: string, readonly reason: string, readonly suggestion: string | null,
 * }} Row
 */

/** A column, and what it is sorted by; "" is none. @typedef {{title: string, value: (row: Row) => string | number, number?: boolean}} Column */

const ROWS = 100;

/** Milliseconds between two drawings of what comes from the kernel. */
const PACE = 200;

/** Milliseconds between two announcements to a screen reader. */
const SAID_EVERY = 5_000;

/** Milliseconds without a key after which the kernel is asked for a hint. */
const A_PAUSE = 300;
const MOST_LINES_SHOWN = 8;

/** Characters of a paste that a browser takes long to type into a box, line by line. */
const LONG_PASTE = 20_000;

/** Characters that a notebook's server passes on in one message: it ends the connection over a longer one. */
const MOST_CHARACTERS = 3_000_000;

/** @type {Column[]} */
const COLUMNS = [
  { title: "No.", value: (row) => row.at + 1, number: true },
  { title: "VIN", value: written },
  { title: "Year", value: (row) => row.year ?? "", number: true },
  { title: "Make", value: (row) => row.make },
  { title: "Model", value: (row) => row.model },
  { title: "Body class", value: (row) => row.body },
  { title: "Answer", value: answerOf },
];

/** @type {[State | "all", string][]} */
const FILTERS = [["all", "All"], ["found", "Found"], ["rejected", "Rejected"], ["failed", "Failed"]];

const names = new Intl.Collator("en", { numeric: true });

/** What is known, and how it is looked at, which is the same in each view of a widget. */
class Listing {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    /** @type {Row[]} */
    this.rows = [];
    /** What is in the box. @type {string} */
    this.text = model.get("value");
    /** What the kernel was told of it and has not answered. @type {string[]} */
    this.sent = [];
    /** @type {State | "all"} */
    this.shown = "all";
    this.column = -1;
    this.descending = false;
    this.page = 0;
    this.hint = "";
    this.status = "";
    /** Whether the box is one line high again, as what it holds is being looked up. */
    this.folded = false;
    /** Which control the keyboard is at. @type {{view: View, part: string} | null} */
    this.held = null;
    this.scrolled = { left: 0, top: 0 };
    /** The views that can be seen. @type {Set<View>} */
    this.views = new Set();
    /** @type {Row[] | null} */
    this.ordered = null;
    this.said = this.saying = this.pause = this.drawing = 0;
    model.on("msg:custom", (message) => this.#hear(message));
    model.on("change:value", () => this.#receive());
    for (const trait of ["busy", "progress", "_status", "_trouble"]) model.on(`change:${trait}`, () => this.#changed());
    model.send({ kind: "ready" });
  }

  /** @returns {boolean} */
  get busy() {
    return this.model.get("busy");
  }

  get counts() {
    const counts = { all: this.rows.length, waiting: 0, found: 0, rejected: 0, failed: 0 };
    for (const row of this.rows) counts[row.state] += 1;
    return counts;
  }

  /** The rows of the filter, in the order of the sort. @returns {Row[]} */
  get inOrder() {
    this.ordered ??= sorted(this.rows.filter((row) => this.shown === "all" || row.state === this.shown), COLUMNS[this.column], this.descending);
    return this.ordered;
  }

  /** Take what is typed. @param {string} text */
  type(text) {
    this.#write(text);
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.settle(), A_PAUSE);
  }

  /** Tell the kernel what has been typed, and ask what it thinks of it. */
  settle() {
    if (!this.pause || !this.#keep()) return;
    this.model.send({ kind: "hint", text: this.text });
  }

  /** Look up what is in the box. */
  lookUp() {
    if (!this.#keep()) return;
    this.model.send({ kind: "look_up", text: this.text });
    this.folded = true;
    this.hint = "";
    this.draw();
  }

  /** Show the rows of a state. @param {State | "all"} state */
  show(state) {
    this.shown = state;
    this.turnTo(0);
  }

  /** Sort by a column: upwards, then downwards, then no more. @param {number} column */
  sortBy(column) {
    const again = this.column === column;
    this.column = again && this.descending ? -1 : column;
    this.descending = again && !this.descending;
    this.turnTo(0);
  }

  /** @param {number} page */
  turnTo(page) {
    this.page = page;
    this.scrolled = { left: this.scrolled.left, top: 0 };
    this.ordered = null;
    this.draw();
    for (const view of this.views) view.window.scrollTo(this.scrolled);
  }

  /** Show it in every view; one that has left the page is drawn again when it is back. */
  draw() {
    clearTimeout(this.drawing);
    this.drawing = 0;
    this.#say();
    for (const view of [...this.views]) {
      if (view.root.isConnected) view.draw();
      else this.views.delete(view);
    }
  }

  /** @param {string} text */
  #write(text) {
    this.text = text;
    this.folded = false;
    for (const view of this.views) view.showText();
  }

  /** Let the kernel have the text too. @returns {boolean} Whether it can. */
  #keep() {
    clearTimeout(this.pause);
    this.pause = 0;
    if (this.text.length > MOST_CHARACTERS) {
      this.hint = "This is too long for the box: give VinLookup a list or a data frame.";
      this.draw();
      return false;
    }
    this.sent = [...this.sent.slice(-9), this.text];
    this.model.set("value", this.text);
    this.model.save_changes();
    return true;
  }

  /** The kernel has a text: one of somebody else's, or one from here, which may be typed on by now. */
  #receive() {
    if (this.sent.includes(this.model.get("value"))) return;
    this.sent = [];
    this.#write(this.model.get("value"));
  }

  #changed() {
    this.ordered = null;
    this.drawing ||= setTimeout(() => this.draw(), PACE);
  }

  /** Say how far it is, now and then while it goes on. */
  #say() {
    const left = this.said + SAID_EVERY - Date.now();
    if (this.busy && this.status && left > 0) {
      clearTimeout(this.saying);
      this.saying = setTimeout(() => this.draw(), left);
    } else {
      this.said = Date.now();
      this.status = this.model.get("_status");
    }
  }

  /** @param {any} message */
  #hear(message) {
    if (message.kind === "hint") {
      if (message.text !== this.text || this.folded) return;
      this.sent = [];
      this.hint = message.words;
    } else if (message.kind === "rows") {
      this.#open(message.rows);
    } else if (message.kind === "row") {
      this.rows[message.at] = waiting(message.text, message.at);
    } else if (message.kind === "answers") {
      for (const [at, state, year, make, model, body, answer, reason, suggestion] of message.answers) {
        const text = this.rows[at]?.text;
        if (text !== undefined) this.rows[at] = { at, text, state, year, make, model, body, answer, reason, suggestion };
      }
    }
    this.#changed();
  }

  /** A list is here, which may be the one in hand: another window has asked for it too. @param {string[]} texts */
  #open(texts) {
    const other = texts.length !== this.rows.length || texts.some((text, at) => text !== this.rows[at].text);
    this.rows = texts.map(waiting);
    if (!other) return;
    this.shown = "all";
    this.column = -1;
    this.descending = false;
    this.page = 0;
    this.status = "";
  }
}

/** A place where a listing is shown. */
class View {
  /** @param {Listing} listing */
  constructor(listing) {
    this.listing = listing;
    const id = `vin-lookup-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    this.box = part("box", make("textarea", { id: `${id}-box`, className: "vin-code", rows: 1, spellcheck: false, autocapitalize: "characters", autocomplete: "off" }));
    this.hint = make("p", { id: `${id}-hint`, className: "vin-hint", role: "status" });
    this.box.setAttribute("aria-describedby", this.hint.id);
    this.progress = make("progress", { id: `${id}-progress` });
    this.far = make("label", { htmlFor: this.progress.id });
    // What is seen changes all the time, what is said now and then.
    this.status = make("p", { className: "vin-hidden vin-status", role: "status" });
    this.trouble = make("p", { className: "vin-note", role: "alert" });
    this.stop = button("stop", "Stop", () => listing.model.send({ kind: "stop" }));
    this.resume = button("resume", "Resume", () => listing.model.send({ kind: "start" }));
    this.filters = FILTERS.map(([state, title]) => {
      const count = make("span", {});
      const made = button(`show-${state}`, `${title} `, () => listing.show(state), "plain");
      made.append(count);
      return { state, made, count };
    });
    this.kinds = make("div", { className: "vin-filters", role: "group", ariaLabel: "Rows shown" }, ...this.filters.map(({ made }) => made));
    this.headings = COLUMNS.map(({ title, number: counted }, column) =>
      make("th", { scope: "col", className: counted ? "number" : "" }, button(`sort-${column}`, title, () => listing.sortBy(column))),
    );
    this.body = make("tbody", {});
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...this.headings)), this.body);
    this.window = part("table", make("div", { className: "vin-scroll", role: "group", ariaLabel: "List of VINs", tabIndex: 0 }, table));
    this.none = make("p", { className: "vin-muted", textContent: "No rows of this kind." });
    this.previous = button("previous", "Previous", () => listing.turnTo(listing.page - 1), "plain");
    this.range = make("span", {});
    this.next = button("next", "Next", () => listing.turnTo(listing.page + 1), "plain");
    this.pages = make("div", { className: "vin-bar", role: "group", ariaLabel: "Pages of the list" }, this.previous, this.range, this.next);
    const bar = make("div", { className: "vin-bar" }, this.stop, this.resume, this.kinds);
    this.list = make("div", {}, bar, this.window, this.none, this.pages);
    const ask = make("div", { className: "vin-box" }, this.box, button("look-up", "Look up", () => this.#lookUp()));
    const far = make("div", { className: "vin-progress" }, this.progress, this.far);
    const label = make("label", { htmlFor: this.box.id, textContent: "One VIN, or a column of them pasted" });
    this.root = make("div", { className: "vin-lookup", lang: "en" }, label, ask, this.hint, far, this.status, this.trouble, this.list);
    /** What each line of the table shows. @type {Row[]} */
    this.drawn = [];
    this.#listen();
    this.watch = new ResizeObserver(() => void this.arrive());
    this.watch.observe(this.root);
  }

  /** Show the text of the box where it is another. */
  showText() {
    if (this.box.value !== this.listing.text) this.box.value = this.listing.text;
    this.#fit();
  }

  /** Show what has changed. */
  draw() {
    const { listing } = this;
    const { busy, counts, shown } = listing;
    const focused = this.#focused;
    this.#fit();
    say(this.hint, listing.hint);
    say(this.status, listing.status);
    say(this.trouble, listing.model.get("_trouble"));
    this.progress.max = counts.all || 1;
    this.progress.value = counts.all - counts.waiting;
    say(this.far, listing.model.get("_status"));
    this.stop.hidden = !busy;
    this.resume.hidden = busy || counts.waiting + counts.failed === 0;
    for (const { state, made, count } of this.filters) {
      made.ariaPressed = String(shown === state);
      made.hidden = state === "failed" && !counts.failed && shown !== state;
      say(count, number(counts[state]));
    }
    this.progress.hidden = this.kinds.hidden = counts.all < 2;
    this.list.hidden = !counts.all;
    this.#drawRows();
    if (focused instanceof HTMLElement && (focused.hidden || !focused.isConnected)) this.#focusOn(focused.dataset.part);
  }

  /** Its focused control. @returns {Element | null} */
  get #focused() {
    return this.root.querySelector(":focus");
  }

  #listen() {
    const { listing, box, root } = this;
    box.addEventListener("input", () => listing.type(box.value));
    box.addEventListener("change", () => listing.settle());
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      // A notebook has other plans with Shift and Enter, and keeps the line from being broken.
      if (event.shiftKey) this.#insert("\n");
      else this.#lookUp();
    });
    box.addEventListener("paste", (event) => {
      const text = event.clipboardData?.getData("text/plain") ?? "";
      if (text.length <= LONG_PASTE) return;
      event.preventDefault();
      this.#insert(text);
    });
    for (const type of ["focusin", "keydown", "keyup", "focusout"]) root.addEventListener(type, (event) => this.#guard(event));
    this.window.addEventListener("scroll", () => (listing.scrolled = { left: this.window.scrollLeft, top: this.window.scrollTop }));
    root.addEventListener("focusin", (event) => {
      if (event.target instanceof HTMLElement) listing.held = { view: this, part: event.target.dataset.part ?? "" };
    });
    // A view that is taken away keeps the focus for the one that takes its place.
    root.addEventListener("focusout", () => setTimeout(() => {
      if (root.isConnected && !this.#focused && listing.held?.view === this) listing.held = null;
    }));
  }

  /** Keep JupyterLab from taking a key for one of its own and cutting the cell; those with Ctrl or ⌘ are. @param {Event} event */
  #guard(event) {
    const theirs = event instanceof KeyboardEvent && (event.ctrlKey || event.metaKey);
    if (event.target instanceof HTMLElement) event.target.toggleAttribute("data-lm-suppress-shortcuts", !theirs);
  }

  /** @param {string} text */
  #insert(text) {
    this.box.setRangeText(text, this.box.selectionStart, this.box.selectionEnd, "end");
    this.listing.type(this.box.value);
  }

  #lookUp() {
    if (!this.box.value.trim()) return this.box.focus();
    this.box.scrollTop = 0;
    this.listing.lookUp();
  }

  /** It is on the page, for the first time or again. */
  async arrive() {
    const { listing, root } = this;
    // A front end attaches what is rendered a few promises later; the focus must be there before the next key.
    for (let turn = 0; turn < 100 && !root.isConnected; turn += 1) await null;
    if (!root.isConnected || listing.views.has(this)) return;
    listing.views.add(this);
    this.showText();
    listing.draw();
    this.window.scrollTo(listing.scrolled);
    const held = listing.held;
    if (!held || held.view.root.isConnected || !isFree(root)) return;
    this.#focusOn(held.part);
    this.box.setSelectionRange(held.view.box.selectionStart, held.view.box.selectionEnd);
  }

  /** Focus a control, or what took its place, or else the table. @param {string | undefined} name */
  #focusOn(name) {
    const controls = [...this.root.querySelectorAll("[data-part]")].filter((each) => each instanceof HTMLElement);
    const instead = name === "stop" ? [this.resume] : name === "resume" ? [this.stop] : [];
    const there = [...controls.filter((each) => each.dataset.part === name), ...instead, this.window];
    there.find((each) => !each.hidden)?.focus({ preventScroll: true });
  }

  #fit() {
    // Not by its height, which for 10,000 lines would have them all laid out.
    const lines = this.box.value.slice(0, 2_000).split("\n").length;
    this.box.rows = this.listing.folded ? 1 : Math.min(lines, MOST_LINES_SHOWN);
  }

  #drawRows() {
    const { listing, body } = this;
    const rows = listing.inOrder;
    listing.page = Math.max(0, Math.min(listing.page, Math.ceil(rows.length / ROWS) - 1));
    const start = listing.page * ROWS;
    const part = rows.slice(start, start + ROWS);
    while (body.rows.length > part.length) body.deleteRow(-1);
    part.forEach((row, position) => {
      const before = body.rows[position];
      if (before && this.drawn[position] === row) return;
      const line = this.#line(row);
      if (before) before.replaceWith(line);
      else body.append(line);
    });
    this.drawn = part;
    for (const each of body.querySelectorAll("button")) each.ariaDisabled = String(listing.busy);
    this.headings.forEach((heading, column) => {
      heading.ariaSort = column !== listing.column ? "none" : listing.descending ? "descending" : "ascending";
    });
    this.none.hidden = rows.length > 0;
    this.pages.hidden = rows.length <= ROWS;
    this.range.textContent = `${number(start + 1)} to ${number(start + part.length)} of ${number(rows.length)}`;
    // A button that is disabled under the keyboard would lose it.
    this.previous.ariaDisabled = String(start === 0);
    this.next.ariaDisabled = String(start + ROWS >= rows.length);
  }

  /** @param {Row} row @returns {HTMLTableRowElement} */
  #line(row) {
    const line = make("tr", { className: row.state }, cell(number(row.at + 1), "number"), cell(written(row), "vin-code"));
    if (row.state === "rejected" || row.state === "failed") {
      const reason = cell(row.reason, "reason");
      reason.colSpan = 4;
      if (row.suggestion) reason.append(" ", button(`take-${row.at}`, `Take ${row.suggestion}`, () => this.#take(row), "plain"));
      line.append(reason);
    } else {
      line.append(cell(row.year === null ? "" : String(row.year), "number"), cell(row.make), cell(row.model), cell(row.body));
    }
    line.append(cell(answerOf(row)));
    return line;
  }

  /** @param {Row} row */
  #take(row) {
    if (this.listing.busy) return;
    this.window.focus();
    this.listing.model.send({ kind: "take", at: row.at });
  }
}

/** @param {string} text @param {number} at @returns {Row} */
function waiting(text, at) {
  return { at, text, state: "waiting", year: null, make: "", model: "", body: "", answer: "", reason: "", suggestion: null };
}

/** @param {Row} row */
function answerOf(row) {
  return row.state === "found" ? row.answer : row.state;
}

/** A VIN that names a vehicle as it is, anything else as it was written. @param {Row} row */
function written({ state, text }) {
  if (state === "found") return text.toUpperCase().replace(/[^0-9A-Z]/g, "");
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

/**
 * Rows by a column, alike ones in the order they had, and those that have nothing there last.
 * @param {Row[]} rows
 * @param {Column | undefined} column
 * @param {boolean} descending
 */
function sorted(rows, column, descending) {
  if (!column) return rows;
  const valued = rows.map((row) => ({ row, value: column.value(row) }));
  const filled = valued.filter(({ value }) => value !== "");
  // Names are compared once each, as that takes long; VINs have no numbers in them.
  const plain = column.number || column.value === written;
  const values = [...new Set(filled.map(({ value }) => value))].sort((one, other) =>
    plain ? (one < other ? -1 : 1) : names.compare(String(one), String(other)),
  );
  const ranks = new Map(values.map((value, rank) => [value, descending ? -rank : rank]));
  const rank = (/** @type {{value: string | number}} */ { value }) => ranks.get(value) ?? 0;
  filled.sort((one, other) => rank(one) - rank(other));
  return [...filled, ...valued.filter(({ value }) => value === "")].map(({ row }) => row);
}

/** Whether the focus is nowhere else, so that it can be had. @param {HTMLElement} root */
function isFree(root) {
  const place = root.getRootNode();
  const focused = document.activeElement;
  return !focused || focused.contains(place instanceof ShadowRoot ? place.host : root);
}

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Partial<HTMLElementTagNameMap[T]>} properties
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Name a control, so that the focus finds it in another view. @template {HTMLElement} T @param {string} name @param {T} control */
function part(name, control) {
  control.dataset.part = name;
  return control;
}

/** @param {string} name @param {string} title @param {() => void} press @param {string} [kind] */
function button(name, title, press, kind) {
  const made = part(name, make("button", { type: "button", className: kind ?? "" }, title));
  made.addEventListener("click", press);
  return made;
}

/** @param {string} text @param {string} [kind] */
function cell(text, kind) {
  return make("td", { textContent: text, className: kind ?? "" });
}

/** Put words where they are not yet: a screen reader would say them again. @param {Element} place @param {string} words */
function say(place, words) {
  if (place.textContent !== words) place.textContent = words;
}

/** @param {number} value */
function number(value) {
  return value.toLocaleString("en-US");
}

/** Called once for each widget, which keeps one listing for all of its views. */
export default () => {
  /** @type {Listing} */
  let listing;
  return {
    /** @param {{model: Model}} given */
    initialize({ model }) {
      listing = new Listing(model);
    },
    /** @param {{el: HTMLElement}} given */
    render({ el }) {
      const view = new View(listing);
      el.replaceChildren(view.root);
      void view.arrive();
      return () => view.watch.disconnect();
    },
  };
};
