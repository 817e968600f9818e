// @ts-check
// The list of a page, so that it is there again after a reload, and when one comes back from a vehicle:
// in the tab's own storage, for the place in its history where it was made.

const KEY = "vin-datasette:list";

/** @typedef {{vins: string[], title: string}} Kept */

/** Keep a list in place of the last one. @param {Kept} list */
export function remember(list) {
  const name = `${Date.now()} ${Math.random()}`;
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ ...list, name }));
    history.replaceState({ ...history.state, list: name }, "");
  } catch {
    // A browser may refuse to, or have no room for it; then the list is given again.
  }
}

/** The list that was made at this place of the tab's history. @returns {Kept | null} */
export function remembered() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    return kept && kept.name === history.state?.list ? kept : null;
  } catch {
    return null;
  }
}
