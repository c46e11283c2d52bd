"use strict";
(function () {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const say = (key, values) => data.words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const count = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

  // Colours
  for (const input of document.querySelectorAll("input[name=theme]")) {
    input.checked = input.value === root.dataset.theme;
    input.addEventListener("change", () => {
      root.dataset.theme = input.value;
      try { localStorage.setItem("onnxprune-theme", input.value); } catch (e) { /* kept for this visit only */ }
    });
  }

  // The plan: rows are made when they are wanted
  const PAGE = 100;
  const plan = document.querySelector("table.plan");
  const more = document.querySelector("button.more");
  const texts = data.texts;
  const slices = data.rows.map((r, place) => ({
    place, cells: [texts[r[2]], texts[r[1]], texts[r[0]], r[3], r[4], texts[r[6]]], kept: r[5],
    key: [texts[r[2]], texts[r[1]], texts[r[0]], texts[r[6]]].join("\n").toLowerCase(),
  }));
  const labels = plan ? Array.from(plan.tHead.rows[0].cells, (head) => head.textContent.trim()) : [];
  const broken = (text) => text.split(/(?<=[/._:,])/).flatMap((part) => [part, document.createElement("wbr")]);
  let matching = slices;
  let shown = PAGE;
  function drawPlan() {
    if (!plan) return;
    const body = document.createElement("tbody");
    for (const slice of matching.slice(0, shown)) {
      const row = body.insertRow();
      slice.cells.forEach((text, column) => {
        const cell = document.createElement(column ? "td" : "th");
        if (!column) cell.scope = "row";
        cell.className = column === 3 || column === 4 ? "n" : "name";
        if (column) cell.dataset.l = labels[column];
        cell.append(...(typeof text === "string" ? broken(text) : [column === 4 ? `${count(text)} → ${count(slice.kept)}` : text]));
        row.append(cell);
      });
    }
    plan.tBodies[0].replaceWith(body);
    name(plan);
    const left = Math.max(0, matching.length - shown);
    more.hidden = !left;
    more.textContent = say("more", { count: count(left) });
  }
  if (more) more.addEventListener("click", () => { shown = Infinity; drawPlan(); });
  addEventListener("beforeprint", () => { shown = Infinity; drawPlan(); });

  // Search: every word must occur
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const network = document.querySelector("table.network");
  const rows = (table) => Array.from(table.tBodies[0].rows);
  const searched = [network, document.querySelector("table.layers")].map((table) =>
    rows(table).map((row) => ({ row, key: row.textContent.toLowerCase() })));
  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (key) => words.every((word) => key.includes(word));
    const counts = searched.map((list) => {
      let n = 0;
      for (const { row, key } of list) { row.hidden = !fits(key); n += row.hidden ? 0 : 1; }
      return n;
    });
    matching = slices.filter((slice) => fits(slice.key));
    shown = PAGE;
    order(matching);
    drawPlan();
    loosen();
    found.textContent = words.length ? say("found", { parts: counts[0], layers: counts[1], slices: matching.length }) : "";
  }
  find.addEventListener("input", filter);
  for (const link of document.querySelectorAll("a[data-find]")) {
    link.addEventListener("click", () => {
      find.value = link.dataset.find;
      filter();
      document.getElementById("plan-h").focus({ preventScroll: true });
    });
  }

  // Sorting: by the values that cells carry; numbers start with the largest
  function sorted(list, kind, up, value) {
    const by = kind === "number" ? (a, b) => value(a) - value(b) : (a, b) => String(value(a)).localeCompare(value(b), undefined, { numeric: true });
    return list.sort((a, b) => (up ? by(a, b) : by(b, a)));
  }
  let planOrder = null;
  function order(list) {
    if (planOrder) sorted(list, planOrder.kind, planOrder.up, (slice) => slice.cells[planOrder.column]);
    else list.sort((a, b) => a.place - b.place);
  }
  for (const button of document.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const kind = head.dataset.kind;
      const table = head.closest("table");
      const now = head.getAttribute("aria-sort");
      const up = now ? now === "descending" : kind === "text" || head.classList.contains("g");
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const column = head.cellIndex;
      if (table === plan) {
        planOrder = { kind, up, column };
        order(matching);
        drawPlan();
        return;
      }
      const value = (row) => (kind === "number" ? Number(row.cells[column].dataset.v) : row.cells[column].textContent);
      table.tBodies[0].append(...sorted(rows(table), kind, up, value));
      loosen();
    });
  }
  function loosen() {
    const ordered = network.querySelector("th.g").getAttribute("aria-sort") === "ascending";
    network.classList.toggle("loose", !ordered || find.value.trim() !== "");
  }

  // Where a part leads: its lines and the rows that read it
  const parts = rows(network);
  function light(row, on) {
    const place = Number(row.cells[0].dataset.v);
    for (const path of network.querySelectorAll(`path[data-s="${place}"]`)) path.classList.toggle("lit", on);
    for (const target of row.dataset.feeds.split(" ").filter(Boolean)) parts[target].classList.toggle("lit", on);
  }
  for (const [enter, leave] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    network.tBodies[0].addEventListener(enter, (e) => light(e.target.closest("tr"), true));
    network.tBodies[0].addEventListener(leave, (e) => light(e.target.closest("tr"), false));
  }
  addEventListener("keydown", (e) => {
    if (e.key === "Escape") for (const why of document.querySelectorAll(".why:hover, .why:focus-within")) why.classList.add("shut");
  });
  for (const why of document.querySelectorAll(".why")) {
    for (const event of ["mouseleave", "focusout"]) why.addEventListener(event, () => why.classList.remove("shut"));
  }

  const copy = document.querySelector("button.copy");
  if (copy) copy.addEventListener("click", () => {
    const code = copy.previousElementSibling;
    const done = () => { copy.textContent = say("copied"); setTimeout(() => { copy.textContent = say("copy"); }, 1500); };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, () => getSelection().selectAllChildren(code));
    else getSelection().selectAllChildren(code);
  });

  // On narrow screens rows are blocks, and must stay rows to who listens
  function name(table) {
    const as = (list, role) => { for (const part of list) part.setAttribute("role", role); };
    as([table], "table");
    as(table.querySelectorAll("thead, tbody"), "rowgroup");
    as(table.querySelectorAll("tr"), "row");
    as(table.querySelectorAll("td"), "cell");
    as(table.querySelectorAll("th[scope=col]"), "columnheader");
    as(table.querySelectorAll("th[scope=row]"), "rowheader");
  }
  drawPlan();
  document.querySelectorAll("table").forEach(name);
})();
