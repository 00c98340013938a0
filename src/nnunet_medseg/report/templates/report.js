"use strict";
(() => {
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim().replace("−", "-");
    if (text === "–") return { number: NaN, text, empty: true };
    if (text === "∞") return { number: Infinity, text };
    return { number: Number.parseFloat(text.replace("%", "")), text };
  };
  const compare = (a, b) => {
    const numeric = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    if (numeric) return a.number === b.number ? 0 : a.number - b.number;
    return a.text.localeCompare(b.text, undefined, { numeric: true });
  };
  const sort = (table, column, direction) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: value(row, column) }));
    rows.sort((a, b) => {
      if (a.key.empty || b.key.empty) return (a.key.empty ? 1 : 0) - (b.key.empty ? 1 : 0);
      return direction * compare(a.key, b.key);
    });
    body.append(...rows.map((item) => item.row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table, column, up ? 1 : -1);
      });
    });
  }
  // What is folded away on the screen is open on paper.
  const opened = [];
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; opened.push(part); }
  });
  addEventListener("afterprint", () => { for (const part of opened.splice(0)) part.open = false; });
})();
