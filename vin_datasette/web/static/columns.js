// @ts-check
// The descriptions of some fifty columns stand above the table that people came for: fold them.
(() => {
  const descriptions = document.querySelector("dl.column-descriptions");
  if (!descriptions || !descriptions.parentNode) return;
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `What the ${descriptions.querySelectorAll("dt").length} columns mean`;
  descriptions.parentNode.insertBefore(details, descriptions);
  details.append(summary, descriptions);
})();
