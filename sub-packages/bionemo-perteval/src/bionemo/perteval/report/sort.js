// A click on a head sorts its table: numbers from high to low, names from A to Z, and the other way round at the next.
for (const button of document.querySelectorAll("th > button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
    const number = row => parseFloat((row.cells[column].textContent.replaceAll("−", "-").match(/-?\d[\d.]*(e-?\d+)?/) || [])[0]);
    const text = row => row.cells[column].textContent.trim();
    const words = column === 0 || [...body.rows].every(row => Number.isNaN(number(row)));
    const before = head.getAttribute("aria-sort");
    const order = before === "none" ? (words ? "ascending" : "descending") : before === "ascending" ? "descending" : "ascending";
    const way = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (words) return way * text(a).localeCompare(text(b));
      const [x, y] = [number(a), number(b)];
      return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : way * (x - y);
    };
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    body.append(...[...body.rows].sort(compare));
  });
}
