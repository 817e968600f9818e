// @ts-check
// The page of a vehicle works without this; with it, one is asked before a vehicle is removed.

// The base template of Datasette 0.65 names no language (WCAG 2.2, 3.1.1).
document.documentElement.lang ||= "en";

const form = document.getElementById("vehicle-remove");
const sure = document.getElementById("vehicle-sure");
if (form instanceof HTMLFormElement && sure instanceof HTMLDialogElement) {
  form.addEventListener("submit", (event) => {
    if (event.submitter instanceof HTMLElement && "sure" in event.submitter.dataset) return;
    event.preventDefault();
    sure.showModal();
  });
}
