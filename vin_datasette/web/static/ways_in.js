// @ts-check
// A newcomer does not find what is in a menu: a link to the lookup, under the heading.
(() => {
  const heading = document.querySelector(".content h1");
  if (!heading) return;
  const link = document.createElement("a");
  // Beside this file's folder, whatever the base URL: …/-/static-plugins/vin-datasette/ways_in.js.
  link.href = new URL("../../vin/lookup", import.meta.url).pathname;
  link.textContent = "Look up a VIN";
  const paragraph = document.createElement("p");
  paragraph.className = "vin-way-in";
  paragraph.append(link);
  (heading.closest(".page-header") ?? heading).after(paragraph);
})();
