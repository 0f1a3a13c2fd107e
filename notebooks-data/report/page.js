const body = document.querySelector("#rows tbody"), heads = [...document.querySelectorAll("#rows th")];
const key = (row, i) => { const v = row.cells[i].dataset.v; return v === undefined ? row.cells[i].textContent : Number(v); };
const order = (a, b) => {
  if (typeof a === "string") return a.localeCompare(b, "en", {numeric: true});
  if (isNaN(a) || isNaN(b)) return 0;
  return a < b ? -1 : a > b ? 1 : 0;
};
heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  heads.forEach(h => h.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...body.rows].map(row => [key(row, i), row]);
  const last = rows.filter(r => Number.isNaN(r[0])), rest = rows.filter(r => !Number.isNaN(r[0]));
  rest.sort((a, b) => sign * order(a[0], b[0]));
  body.append(...rest.map(r => r[1]), ...last.map(r => r[1]));
}));
document.querySelector("#filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
});
