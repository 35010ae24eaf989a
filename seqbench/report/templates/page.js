"use strict";
// Sort a table by a column: a button in each head, its state in aria-sort. Without this script nothing is lost.
function key(row, column) {
  const cell = row.cells[column];
  const raw = cell.dataset.key ?? cell.textContent.trim();
  const value = raw === "inf" ? Infinity : raw === "-inf" ? -Infinity : Number(raw);
  return raw !== "" && !Number.isNaN(value) ? value : raw;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a === b ? 0 : a < b ? -1 : 1;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b);
}
function sort(table, head, column) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of [...table.tHead.rows].at(-1).cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
  rows.sort((a, b) => (descending ? -1 : 1) * compare(a[0], b[0]));
  table.tBodies[0].append(...rows.map((pair) => pair[1]));
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...[...table.tHead.rows].at(-1).cells].forEach((head, column) => {
    if (head.textContent.trim() === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(table, head, column));
    head.replaceChildren(button);
  });
}
// Closed details are not printed: open them before, and close them again after.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
