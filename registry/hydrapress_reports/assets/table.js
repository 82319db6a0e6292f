// Table: rows that sort, filter and open; one page of them is in the document at a time.

const number = (name, label) => ({
  key: name, label: label ?? about(name).label, numeric: true, less: about(name).better === "less",
  value: (i) => num(name, i), write: (i) => written(name, i), shown: has(name),
});
const words_ = (column, label, write = (i) => text(column, i)) => ({
  key: column, label, numeric: false, value: write, write, shown: POINTS.some((i) => write(i)),
});
const varies = (write) => new Set(POINTS.map(write)).size > 1;

const COLUMNS = [
  { key: "title", label: "Model", numeric: false, value: (i) => text("title", i), write: (i) => text("title", i), shown: true },
  { key: "frontier", label: "Frontier", numeric: true, value: (i) => (view.leads.has(i) ? 1 : 0), write: (i) => (view.leads.has(i) ? "●" : ""), shown: AXES.length > 1 },
  words_("backend", "Backend"),
  { ...words_("where", "Circumstances", circumstances), shown: varies(circumstances) && POINTS.some((i) => circumstances(i) && circumstances(i) !== "1 thread · batch 1 · single stream") },
  { ...words_("format", "Format"), shown: FORMATS.length > 0 },
  number(DATA.metric),
  number("size_bytes"),
  number("size_ratio", "Smaller"),
  number("latency_ms_p50", "Latency, ms"),
  { ...number("throughput_per_s", "Samples/s"), shown: has("throughput_per_s") && POINTS.some((i) => text("scenario", i) === "offline") },
  number("speedup"),
  { key: "verdict", label: "Verdict", numeric: false, value: verdict, write: verdict, shown: POINTS.some(verdict) },
  { ...number("latency_ms_p90", "90 % latency, ms"), write: (i) => written("latency_ms_p90", i).split(" [")[0] },
  number("macs"),
  number("nonzero_params"),
  { ...number("sparsity"), shown: POINTS.some((i) => num("sparsity", i) > 0) },
  number("peak_memory_bytes"),
  { ...words_("hardware", "Hardware"), shown: varies((i) => text("hardware", i)) },
  { ...words_("origin", "Origin"), shown: varies((i) => text("origin", i)) },
].filter((column) => column.shown);

function verdict(i) {
  return text("problem", i) ? "not measured" : text("verdict", i).split(" (")[0];
}

/** Sort rows; equal ones keep their order, and blanks come last whichever way it goes. */
function sorted(rows) {
  const column = COLUMNS.find((each) => each.key === state.sort) ?? COLUMNS[0];
  const turn = state.descending ? -1 : 1;
  const keys = new Map(rows.map((i) => [i, column.value(i)]));
  const blank = (value) => value === "" || Number.isNaN(value);
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = column.numeric ? (a, b) => a - b : collator.compare;
  const place = about(state.x).better === "more" ? -1 : 1;
  return [...rows].sort((i, j) => {
    const [a, b] = [keys.get(i), keys.get(j)];
    if (blank(a) || blank(b)) return blank(a) - blank(b) || i - j;
    const order = turn * compare(a, b);
    if (order || column.key !== "frontier") return order || i - j;
    const [p, q] = [num(state.x, i), num(state.x, j)];
    if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q) || i - j;
    return place * (p - q) || i - j;
  });
}

function renderHead() {
  const cells = COLUMNS.map((column) => {
    const on = column.key === state.sort;
    const way = on ? (state.descending ? "descending" : "ascending") : "none";
    const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, on ? (state.descending ? "▼" : "▲") : "");
    const button = h("button", { type: "button", "data-sort": column.key, onclick: () => sortBy(column) }, column.label, arrow);
    return h("th", { scope: "col", "aria-sort": way, class: column.numeric ? "num" : "" }, button);
  });
  const focused = document.activeElement?.dataset?.sort;
  byId("points-table").tHead.replaceChildren(h("tr", {}, cells));
  if (focused) byId("points-table").querySelector(`[data-sort="${focused}"]`)?.focus();
}

function sortBy(column) {
  if (state.sort === column.key) state.descending = !state.descending;
  else {
    state.sort = column.key;
    state.descending = column.numeric && !column.less;
  }
  state.page = 0;
  renderTable();
  announce(`Sorted by ${column.label}, ${state.descending ? "descending" : "ascending"}.`);
}

function renderTable() {
  view.sorted = sorted(view.rows);
  const pages = Math.max(1, Math.ceil(view.sorted.length / state.pageSize));
  state.page = Math.min(state.page, pages - 1);
  const first = state.page * state.pageSize;
  const rows = view.sorted.slice(first, first + state.pageSize);
  renderHead();
  byId("points-table").tBodies[0].replaceChildren(...rows.flatMap((i) => (state.open.has(i) ? [row(i), detail(i)] : [row(i)])));
  byId("table-wrap").hidden = !rows.length;
  byId("table-count").textContent = tableCount();
  renderPager(pages, first, rows.length);
}

/** What there is to read above the table. */
function tableCount() {
  if (!COUNT) return "No model was measured.";
  if (!view.rows.length) return `None of ${plural(COUNT, "row")} passes the filter.`;
  return view.rows.length === COUNT ? plural(COUNT, "row") : `${view.rows.length.toLocaleString("en")} of ${plural(COUNT, "row")}`;
}

function row(i) {
  const leads = view.leads.has(i);
  const open = state.open.has(i);
  const cells = COLUMNS.map((column) => {
    if (column.key === "title") return h("th", { scope: "row" }, nameCell(i, open));
    if (column.key === "frontier") {
      return h("td", { class: "num mark" }, leads && [h("span", { "aria-hidden": "true" }, "●"), h("span", { class: "hidden" }, "on the frontier")]);
    }
    if (column.key === "backend") {
      return h("td", {}, text("backend", i) && swatch(backendOf(i)), text("backend", i));
    }
    if (column.key === "verdict" && text("problem", i)) return h("td", { class: "problem" }, "not measured");
    return h("td", { class: column.numeric ? "num" : column.key }, valueCell(column.write(i)));
  });
  const classes = [leads && "is-frontier", i === state.selected && "is-selected", open && "is-open"].filter(Boolean).join(" ");
  return h("tr", {
    "data-row-id": DATA.points.id[i], class: classes,
    onclick: (event) => { if (!event.target.closest("button, a, input") && !String(getSelection())) toggle(i); },
  }, cells);
}

/** A value with its interval behind it, smaller. */
function valueCell(value) {
  const at = value.indexOf(" [");
  return at < 0 ? value : [value.slice(0, at), h("span", { class: "interval" }, value.slice(at))];
}

function nameCell(i, open) {
  const title = short(text("title", i), 90);
  const way = text("pipeline", i);
  return [
    h("button", { type: "button", class: "row-toggle", "aria-expanded": String(open), onclick: () => toggle(i) }, title),
    way && way !== title && h("span", { class: "way" }, short(way, 90)),
  ];
}

function toggle(i) {
  if (state.open.has(i)) state.open.delete(i);
  else state.open.add(i);
  const old = rowElement(i);
  if (!old) return;
  const focused = old.contains(document.activeElement);
  if (old.nextElementSibling?.classList.contains("detail")) old.nextElementSibling.remove();
  const fresh = row(i);
  old.replaceWith(fresh);
  if (state.open.has(i)) fresh.after(detail(i));
  if (focused) fresh.querySelector(".row-toggle").focus();
}

const rowElement = (i) => byId("points-table").querySelector(`[data-row-id="${CSS.escape(DATA.points.id[i])}"]`);

function detail(i) {
  const names = Object.keys(DATA.metrics).filter((name) => !/_ci_(low|high)$/.test(name) && written(name, i));
  const facts = [
    ["Model", text("model", i)], ["Pipeline", text("pipeline", i)], ["Title", text("title", i)],
    ["Backend", text("backend", i)], ["Circumstances", circumstances(i)], ["Hardware", text("hardware", i)], ["Origin", text("origin", i)],
  ].filter(([, value]) => value);
  const job = DATA.points.run[i];
  return h("tr", { class: "detail" }, h("td", { colspan: COLUMNS.length }, h("div", { class: "detail-body" },
    text("problem", i) && h("p", { class: "problem" }, `Not measured: ${text("problem", i)}`),
    text("verdict", i) && h("p", { class: "verdict" }, text("verdict", i)),
    reasons(i).length > 0 && h("ul", {}, reasons(i).map((each) => h("li", {}, each))),
    text("command", i) && commandBox(text("command", i)),
    h("div", { class: "facts" },
      list(facts),
      list(names.map((name) => [unitLabel(name), written(name, i)]))),
    job !== null && DATA.jobs > 0 && h("button", { type: "button", class: "quiet", onclick: () => openJob(job) }, "Show its job"))));
}

const list = (pairs) => h("dl", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
const unitLabel = (name) => { const { label, unit } = about(name); return unit && unit !== "×" ? `${label}, ${unit}` : label; };

function renderPager(pages, first, count) {
  const go = (page) => () => { state.page = page; renderTable(); show(byId("table-section"), "start"); };
  const button = (label, page, off) => h("button", { type: "button", class: "quiet", disabled: off, onclick: go(page) }, label);
  const sizes = [25, 50, 100, 500].map((size) => [String(size), `${size} rows`]);
  byId("pager").hidden = view.rows.length <= 25;
  byId("pager").replaceChildren(
    button("Previous", state.page - 1, state.page === 0),
    h("span", { class: "muted" }, `${(first + 1).toLocaleString("en")} to ${(first + count).toLocaleString("en")} of ${view.rows.length.toLocaleString("en")}`),
    button("Next", state.page + 1, state.page >= pages - 1),
    select("page-size", "A page holds", sizes, String(state.pageSize), (value) => { state.pageSize = Number(value); state.page = 0; renderTable(); byId("page-size").focus(); }));
}

/** Find a point's row: its page, its place on the screen. */
function showRow(i, { open = false, focus = false } = {}) {
  state.selected = i;
  const at = view.sorted.indexOf(i);
  if (at < 0) return;
  state.page = Math.floor(at / state.pageSize);
  if (open) state.open.add(i);
  renderTable();
  const element = rowElement(i);
  if (focus) element.querySelector(".row-toggle").focus({ preventScroll: true });
  show(element, "center");
}
