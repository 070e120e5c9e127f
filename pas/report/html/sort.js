// Tables are sorted by a click on the head of a column, the other way round by a second one. Without this they are just tables.
"use strict";
for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const text = (row) => row.cells[column].textContent;
      const number = (row) => Number(row.cells[column].dataset.sort ?? 0); // what is no number is sorted by its text
      const order = (a, b) => number(a) - number(b) || text(a).localeCompare(text(b), "en", { numeric: true });
      const empty = (a, b) => (text(a) === "") - (text(b) === ""); // last in both directions
      body.append(...[...body.rows].sort((a, b) => empty(a, b) || (up ? order(a, b) : order(b, a))));
    });
  });
}
