"use strict";
// Sorting and filtering of rows that are there already; without this file the page shows them all in its first order.
(function () {
  const table = document.querySelector("table"), body = table.tBodies[0], status = document.getElementById("status");
  const rows = Array.from(body.rows), titles = JSON.parse(document.getElementById("names").textContent);
  const columns = titles.map((pair) => pair[0]), names = Object.fromEntries(titles);
  const form = document.querySelector(".filters"), heads = Array.from(table.tHead.querySelectorAll("th[data-c]"));
  const gates = ["fail", "inconclusive", "pass", "none"];
  let by = table.dataset.by, down = true;

  const view = () => document.querySelector("input[name=view]:checked").value;
  // A class header stands for the view that is shown.
  const column = (head) => head.startsWith("class.") ? view() + head.slice(5) : head;
  const group = (row, name) => { const i = columns.indexOf(name); return i < 0 ? "" : row.dataset.g.split(",")[i]; };

  function key(row, name) {
    if (name === "title") return row.cells[0].querySelector("a").textContent.toLowerCase();
    if (name === "gate") return gates.indexOf(row.dataset.gate);
    const dot = name.indexOf("."), code = dot < 0 ? name : name.slice(dot + 1);
    const cell = Array.from(row.cells).find((c) => c.dataset.c === code);
    const text = name.startsWith("activation.") ? cell.dataset.w : cell.dataset.v;
    return text === "" ? null : Number(text);
  }

  function sort() {
    const name = by, grouped = columns.includes(name);
    const keyed = rows.map((row) => [row, key(row, name), Number(group(row, name) || Infinity)]);
    keyed.sort(([, a, g], [, b, h]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      if (grouped && g !== h) return (g - h) * (down ? 1 : -1);
      const order = a < b ? -1 : a > b ? 1 : 0;
      return down === (typeof a === "number" && name !== "gate") ? -order : order;
    });
    let before = null;
    for (const [row] of keyed) {
      const own = group(row, name);
      row.querySelector("td.grp").textContent = own || "—";
      row.classList.toggle("first", before !== null && own !== before);
      before = own;
      body.append(row);
    }
    for (const head of heads) {
      if (column(head.dataset.c) === name) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    said();
  }

  function matches(row, f) {
    const text = f.q ? row.cells[0].textContent.toLowerCase().includes(f.q.toLowerCase()) : true;
    if (!text || (f.base && row.dataset.base !== f.base) || (f.method && row.dataset.method !== f.method)) return false;
    if ((f.gate && row.dataset.gate !== f.gate) || (f.since && row.dataset.d < f.since)) return false;
    if (!f.moved) return true;
    const at = f.moved.lastIndexOf(":"), code = f.moved.slice(0, at), way = f.moved.slice(at + 1);
    const cell = Array.from(row.cells).find((c) => c.dataset.c === code && c.classList.contains("k"));
    return Boolean(cell) && cell.dataset[view() === "shares" ? "s" : "a"] === way;
  }

  function filter() {
    const f = Object.fromEntries(new FormData(form));
    for (const row of rows) row.hidden = !matches(row, f);
    said();
  }

  function said() {
    const shown = rows.filter((row) => !row.hidden).length;
    const way = by === "title" || by === "gate" ? by : names[by];
    status.textContent = `${shown} of ${rows.length} cards${way ? `, by ${way}, ${down ? "descending" : "ascending"}` : ""}`;
  }

  for (const head of heads) {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const name = column(head.dataset.c);
      down = name === by ? !down : name !== "title" && name !== "gate";
      by = name;
      form.elements.order.value = by;
      sort();
    });
  }
  for (const radio of document.querySelectorAll("input[name=view]")) radio.addEventListener("change", () => {
    if (by.includes(".")) { by = form.elements.order.value = view() + by.slice(by.indexOf(".")); sort(); }
    filter();
  });
  form.hidden = false;
  form.elements.order.addEventListener("input", () => {
    by = form.elements.order.value;
    down = by !== "title" && by !== "gate";
    const dot = by.indexOf(".");
    if (dot > 0) document.getElementById("by-" + by.slice(0, dot)).checked = true;
    sort();
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    by = table.dataset.by || "title";
    down = by !== "title";
    sort();
    filter();
  }));
  by = by || "title";
  down = by !== "title";
  sort();
})();
