// @ts-check
// The page with one box: a single VIN goes to its vehicle, many become a list.
import { describe } from "./hint.js";
import { List } from "./list.js";
import { element, ListView } from "./list_view.js";
import { remember, remembered } from "./kept.js";
import { MOST_CHARACTERS, NoVins, vinsIn } from "./texts.js";

/** Milliseconds without a key after which a hint is given: a screen reader would speak each. */
const A_PAUSE = 250;
const MOST_LINES_SHOWN = 8;

/** Characters of a paste that a browser takes long to type into a box, line by line. */
const LONG_PASTE = 20_000;

const main = element("vin-lookup", HTMLElement);
const form = element("vin-form", HTMLFormElement);
const file = element("vin-file", HTMLInputElement);
const hint = element("vin-hint", HTMLElement);
const echo = element("vin-echo", HTMLElement);
const box = multilineBox();
const view = new ListView(main);
/** @type {List | null} */
let list = null;
let pause = 0;

document.documentElement.lang ||= "en";
for (const each of document.querySelectorAll(".vin-with-js")) each.removeAttribute("hidden");

box.addEventListener("input", () => {
  fit();
  clearTimeout(pause);
  pause = setTimeout(showHint, A_PAUSE);
});
box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
box.addEventListener("paste", (event) => {
  const text = event.clipboardData?.getData("text/plain") ?? "";
  if (text.length < LONG_PASTE) return;
  event.preventDefault();
  box.setRangeText(text, box.selectionStart, box.selectionEnd, "end");
  box.dispatchEvent(new Event("input"));
});
form.addEventListener("submit", (event) => {
  const vins = read(box.value);
  if (vins?.length === 1) {
    box.value = vins[0];
    hint.className = "";
    hint.textContent = "Looking it up…";
    return;
  }
  event.preventDefault();
  if (vins && !vins.length) refuse("Type or paste a VIN first.");
  if (vins?.length) start(vins, `${vins.length.toLocaleString("en-US")} VINs`);
});
file.addEventListener("change", () => {
  if (file.files?.[0]) void take(file.files[0]);
  file.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  main.classList.add("vin-dropping");
});
document.addEventListener("dragleave", () => main.classList.remove("vin-dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  main.classList.remove("vin-dropping");
  const [dropped] = event.dataTransfer?.files ?? [];
  if (dropped) return void take(dropped);
  box.value = event.dataTransfer?.getData("text") ?? "";
  fit();
  showHint();
});
fit();
if (box.value) showHint();
const kept = remembered();
if (kept && !box.value) start(kept.vins, kept.title);
else box.focus();

/** The box, one that takes lines: without scripts it is a field, in which Enter looks up. @returns {HTMLTextAreaElement} */
function multilineBox() {
  const field = element("vin", HTMLInputElement);
  const area = document.createElement("textarea");
  for (const { name, value } of field.attributes) if (!["type", "value", "maxlength"].includes(name)) area.setAttribute(name, value);
  area.value = field.value;
  area.rows = 1;
  field.replaceWith(area);
  return area;
}

function fit() {
  // Not by its height, which for 10,000 lines would have them all laid out.
  box.rows = Math.min(box.value.slice(0, 2000).split("\n").length, MOST_LINES_SHOWN);
}

/** The VINs of a text; null, and why, where it holds no list. @param {string} text @returns {string[] | null} */
function read(text) {
  try {
    return vinsIn(text);
  } catch (error) {
    if (!(error instanceof NoVins)) throw error;
    refuse(error.message);
    return null;
  }
}

/** @param {string} words */
function refuse(words) {
  echo.hidden = true;
  hint.className = "bad";
  hint.textContent = words;
}

function showHint() {
  const vins = read(box.value);
  if (!vins) return;
  const said = describe(vins);
  hint.className = said.kind;
  hint.textContent = said.words;
  echo.replaceChildren(...said.echo);
  echo.hidden = !said.echo.length;
}

/** @param {File} chosen */
async function take(chosen) {
  if (chosen.size > MOST_CHARACTERS) {
    return refuse(`${chosen.name} is larger than ${MOST_CHARACTERS / 1024 / 1024} MB. The command vin-datasette fetch takes files of any size.`);
  }
  const vins = read(decode(await chosen.arrayBuffer()));
  if (vins && !vins.length) refuse(`${chosen.name} is empty.`);
  if (vins?.length) start(vins, `${chosen.name}: ${vins.length.toLocaleString("en-US")} VIN${vins.length === 1 ? "" : "s"}`);
}

/** A file's text: UTF-8, else what spreadsheets write on Windows. VINs are the same in all of them. @param {ArrayBuffer} bytes */
function decode(bytes) {
  const [first, second] = new Uint8Array(bytes, 0, Math.min(2, bytes.byteLength));
  if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

/** @param {string[]} vins @param {string} title */
function start(vins, title) {
  list?.stop();
  clearTimeout(pause);
  hint.textContent = "";
  echo.hidden = true;
  box.rows = Math.min(box.rows, 3);
  box.scrollTop = 0;
  document.getElementById("vin-reason")?.remove();
  remember({ vins, title });
  let replaced = 0;
  const begun = new List(vins, main.dataset.lookup ?? "", main.dataset.token ?? "", () => {
    if (begun !== list) return;
    view.show();
    if (begun.replaced === replaced) return;
    replaced = begun.replaced;
    remember({ vins: begun.rows.map((row) => row.written), title });
  });
  list = begun;
  view.open(begun, title);
  void begun.run();
}
