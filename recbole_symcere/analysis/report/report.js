// Sorts a table by the column whose button was pressed: numbers from the highest down, then up; words from A on.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = [...head.parentElement.children].indexOf(head);
    const isNumber = (key) => typeof key === "number";
    const rows = [...table.tBodies[0].rows].map((row) => {
      const cell = row.cells[column];
      return { row, key: "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim() };
    });
    const before = head.ariaSort;
    const first = rows.some(({ key }) => isNumber(key)) ? "descending" : "ascending";
    const order = before === "descending" ? "ascending" : before === "ascending" ? "descending" : first;
    const sign = order === "ascending" ? 1 : -1;
    rows.sort(({ key: a }, { key: b }) => {
      if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1; // what has no number comes last
      return sign * (isNumber(a) ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.ariaSort = order;
    document.getElementById("sorted").textContent = `sorted by ${button.textContent.trim()}, ${order}`;
  });
}
