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

  // What a long page keeps packed: rows of the network and of the layers, and the plan
  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  }

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

  // A listing: a table that shows some of its items, in some order, a page of them at first.
  // An item has the text that is searched (key), and row() and value(column).
  class Listing {
    constructor(table, items, rest, count) {
      Object.assign(this, { table, items, rest, count, matching: items.slice(), shown: data.page, order: null });
      this.body = table.tBodies[0];
      this.more = table.parentElement.querySelector("button.more");
      this.more.addEventListener("click", () => this.all());
      addEventListener("beforeprint", () => this.all());
      for (const button of table.querySelectorAll("button.sort")) button.addEventListener("click", () => this.sort(button.parentElement));
      this.tell();
    }
    // Rows that nobody asked for yet are text: a page of thousands would take seconds to lay out
    complete() {
      if (!this.rest) return;
      const items = this.rest();
      this.rest = null;
      this.items.push(...items);
      this.matching.push(...items);
    }
    all() {
      this.complete();
      this.shown = Infinity;
      this.draw();
    }
    draw() {
      this.body.replaceChildren(...this.matching.slice(0, this.shown).map((item) => item.row()));
      name(this.table);
      this.tell();
    }
    tell() {
      const left = Math.max(0, this.matching.length - this.shown) + (this.rest ? this.count - this.items.length : 0);
      this.more.hidden = !left;
      this.more.textContent = say("more", { count: count(left) });
      this.table.classList.toggle("loose", this.order !== null || this.matching.length < this.items.length);
    }
    filter(fits) {
      this.complete();
      this.shown = data.page;
      this.matching = this.items.filter((item) => fits(item.key));
      if (this.order) this.matching.sort(this.order);
      this.draw();
      return this.matching.length;
    }
    sort(head) {
      this.complete();
      const now = head.getAttribute("aria-sort");
      const first = head.classList.contains("g"); // in execution order, as they came
      const number = head.dataset.kind === "number";
      const up = now ? now === "descending" : !number || first; // numbers start with the largest
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const by = number ? (a, b) => a - b : new Intl.Collator(undefined, { numeric: true }).compare;
      const at = head.cellIndex;
      const compare = (a, b) => (up ? 1 : -1) * by(a.value(at, number), b.value(at, number));
      this.order = first && up ? null : compare;
      this.matching.sort(compare);
      this.draw();
    }
  }

  // Rows of the network and of layers are in the page
  function standing(table, text) {
    const value = (row, at, number) => (number ? Number(row.cells[at].dataset.v) : row.cells[at].textContent);
    const item = (row) => ({ key: row.textContent.toLowerCase(), row: () => row, value: (...of) => value(row, ...of) });
    const parsed = () => {
      const body = document.createElement("tbody");
      body.innerHTML = text;
      return Array.from(body.rows, item);
    };
    return new Listing(table, Array.from(table.tBodies[0].rows, item), text && parsed, Number(table.dataset.count));
  }

  // Those of the plan are made when they are wanted
  function planned(table, { texts, rows }) {
    const labels = Array.from(table.tHead.rows[0].cells, (head) => head.textContent.trim());
    const broken = (text) => text.split(/(?<=[/._:,])/).flatMap((part) => [part, document.createElement("wbr")]);
    function made(cells, kept) {
      const row = document.createElement("tr");
      cells.forEach((text, at) => {
        const cell = row.appendChild(document.createElement(at ? "td" : "th"));
        if (at) cell.dataset.l = labels[at]; else cell.scope = "row";
        cell.className = typeof text === "number" ? "n" : "name";
        cell.append(...(typeof text === "string" ? broken(text) : [at === 4 ? `${count(text)} → ${count(kept)}` : text]));
      });
      return row;
    }
    const list = new Listing(table, rows.map(([groups, node, tensor, axis, size, kept, removed]) => {
      const cells = [texts[tensor], texts[node], texts[groups], axis, size, texts[removed]];
      let row = null;
      return { key: cells.join("\n").toLowerCase(), row: () => row || (row = made(cells, kept)), value: (at) => cells[at] };
    }));
    list.draw();
    return list;
  }

  const copy = document.querySelector("button.copy");
  if (copy) copy.addEventListener("click", () => {
    const code = copy.previousElementSibling;
    const done = () => { copy.textContent = say("copied"); setTimeout(() => { copy.textContent = say("copy"); }, 1500); };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, () => getSelection().selectAllChildren(code));
    else getSelection().selectAllChildren(code);
  });

  function start(more) {
    const table = (name) => document.querySelector(`table.${name}`);
    const lists = {}; // by what there are found so many of
    for (const [found, name] of [["parts", "network"], ["layers", "layers"], ["changes", "changes"]]) {
      if (table(name)) lists[found] = standing(table(name), more[name]);
    }
    if (table("plan") && more.plan) lists.slices = planned(table("plan"), more.plan);
    document.querySelectorAll("table").forEach(name);

    // Search: every word must occur
    const find = document.getElementById("find");
    const found = document.getElementById("found");
    function filter() {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = (key) => words.every((word) => key.includes(word));
      const counts = { parts: 0, layers: 0, changes: 0, slices: 0 };
      for (const name in lists) counts[name] = lists[name].filter(fits);
      found.textContent = words.length ? say("found", counts) : "";
    }
    find.addEventListener("input", filter);
    if (find.value) filter(); // typed while rows were unpacked
    if (table("network")) joined(table("network"), lists.parts, (name) => { find.value = name; filter(); });
    root.dataset.ready = "";
  }

  // What the network adds: ways to the plan, lines that light up, reasons
  function joined(network, parts, search) {
    network.addEventListener("click", (e) => {
      const link = e.target.closest("a[data-find]");
      if (!link) return;
      search(link.dataset.find);
      document.getElementById("plan-h").focus({ preventScroll: true });
    });

    // Where a part leads: its lines and the rows that read it
    function light(row, on) {
      const place = Number(row.cells[0].dataset.v);
      for (const path of network.querySelectorAll(`path[data-s="${place}"]`)) path.classList.toggle("lit", on);
      for (const target of row.dataset.feeds.split(" ").filter((n) => n && n in parts.items)) parts.items[target].row().classList.toggle("lit", on);
    }
    for (const [enter, leave] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
      network.tBodies[0].addEventListener(enter, (e) => light(e.target.closest("tr"), true));
      network.tBodies[0].addEventListener(leave, (e) => light(e.target.closest("tr"), false));
    }
    addEventListener("keydown", (e) => {
      if (e.key === "Escape") for (const why of document.querySelectorAll(".why:hover, .why:focus-within")) why.classList.add("shut");
    });
    for (const event of ["mouseout", "focusout"]) {
      network.addEventListener(event, () => { for (const why of network.querySelectorAll(".shut")) why.classList.remove("shut"); });
    }
  }

  const packed = document.getElementById("packed");
  if (!packed) start(data);
  else unpacked(packed.textContent).then(start, () => { root.classList.add("partial"); start({}); });
})();
