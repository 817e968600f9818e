// @ts-check
// Charts of the vehicles above their table, for those who want them; the page of charts does without.

const WANTED = "vin-datasette:charts";

/** Whether charts were wanted on the last page. A browser may refuse to remember. */
function wanted() {
  try {
    return localStorage.getItem(WANTED) === "yes";
  } catch {
    return false;
  }
}

/** @param {boolean} yes */
function remember(yes) {
  try {
    if (yes) localStorage.setItem(WANTED, "yes");
    else localStorage.removeItem(WANTED);
  } catch {
    // Then the reader presses again.
  }
}

/**
 * The charts of a page of charts.
 * @param {string} href
 * @returns {Promise<Element>}
 */
async function fetched(href) {
  const url = new URL(href, location.href);
  // What Datasette does for the page before it comes to the charts: facets, and rows in an order that takes long.
  for (const name of ["_nofacet", "_nocount"]) url.searchParams.set(name, "1");
  if (!url.searchParams.has("_sort") && !url.searchParams.has("_sort_desc")) url.searchParams.set("_sort", "vin");
  const response = await fetch(url, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const charts = page.querySelector("main .vin-charts");
  if (!response.ok || !charts) {
    const words = page.querySelector("main .vin-note, .content p")?.textContent?.trim();
    throw new Error(words || `The server answered with ${response.status}.`);
  }
  return document.importNode(charts, true);
}

/**
 * @param {HTMLElement} exports the line "This data as json, …"
 * @param {string} href
 */
function setUp(exports, href) {
  const rows = /^\s*([\d,]+) rows?\b/.exec(document.querySelector(".content h3")?.textContent ?? "");
  const number = rows?.[1];
  const which = number === "1" ? "this vehicle" : number ? `these ${number} vehicles` : "these vehicles";
  const button = document.createElement("button");
  button.type = "button";
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  const way = document.createElement("div");
  way.className = "vin-charts-way";
  way.append(button, status);
  const region = document.createElement("section");
  region.id = "vin-charts";
  region.setAttribute("aria-label", "Charts");
  button.setAttribute("aria-controls", region.id);
  exports.after(way, region);

  let shown = false;
  /** Counts presses, so that an answer that comes after the next press is dropped. */
  let press = 0;

  const label = () => {
    button.textContent = shown ? "Hide the charts" : `Charts of ${which}`;
    button.setAttribute("aria-expanded", String(shown));
  };

  const show = async () => {
    const mine = ++press;
    shown = true;
    label();
    status.textContent = "The charts are loading …";
    try {
      const charts = await fetched(href);
      if (mine !== press) return;
      region.replaceChildren(charts);
      status.textContent = "The charts stand above the table.";
    } catch (error) {
      if (mine !== press) return;
      shown = false;
      label();
      status.textContent = `The charts could not be loaded. ${error instanceof Error ? error.message : ""} Press to try again.`;
    }
  };

  const hide = () => {
    press++;
    shown = false;
    label();
    region.replaceChildren();
    status.textContent = "";
  };

  button.addEventListener("click", () => {
    remember(!shown);
    if (shown) hide();
    else void show();
  });
  label();
  if (wanted()) void show();
}

const exports = /** @type {HTMLElement | null} */ (document.querySelector(".export-links"));
const link = [...(exports?.querySelectorAll("a") ?? [])].find((each) => each.textContent === "charts");
if (exports && link) setUp(exports, link.href);
