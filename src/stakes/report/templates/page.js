"use strict";
// Tables sort by a button in each heading: up, down, and back to the order they came in.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const next = now === null ? "ascending" : now === "ascending" ? "descending" : null;
      for (const other of headings) other.removeAttribute("aria-sort");
      if (next) heading.setAttribute("aria-sort", next);
      body.append(...(next ? sorted(original, column, next === "ascending" ? 1 : -1) : original));
    });
  });
}

function sorted(rows, column, sign) {
  return [...rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign));
}

// What is unknown stays at the end, whichever way.
function compare(a, b, sign) {
  const unknown = ("unknown" in a.dataset) - ("unknown" in b.dataset);
  if (unknown) return unknown;
  const x = Number(a.dataset.value ?? NaN), y = Number(b.dataset.value ?? NaN);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  return sign * a.textContent.trim().localeCompare(b.textContent.trim(), "en", { numeric: true });
}

// Paper has no arrows to press: what is folded on the screen is open on it.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});
