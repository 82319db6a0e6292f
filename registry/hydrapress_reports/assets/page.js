// Page: puts the parts together.
//
// For tests, these stay as they are:
//   #headline                      what was gained, in words
//   #filter-text, #filter-backend, #filter-format, #filter-where, #filter-hardware, #filter-problems
//     (all, hide, only), #filter-frontier (checkbox), #filter-reset; each is there when there is a choice
//   #axis-x, #axis-y               selects, by the metric's name; #log-x, #log-y checkboxes
//   #frontier                      the plot; data-ready="true" once drawn, data-shown and data-frontier
//     count points, data-x and data-y name its axes; plotly's traces have meta.role "step", "dominated" or
//     "frontier" and the points' ids as customdata; above 1,000 points the dominated ones are on
//     #frontier-canvas instead; it takes the arrow keys, Home, End, Enter and Escape
//   #hover-card (data-id), #ring   what is pointed at, what is selected
//   #announcer                     what a screen reader is told
//   #multiples figure[data-backend]
//   #points-table                  tr[data-row-id], of class is-frontier, is-selected, is-open; th button[data-sort];
//     .row-toggle opens tr.detail behind it; #table-count; #pager with #page-size
//   #published-table, #jobs details[data-job] with g[data-stage], .heat, .heat-what and .curves
//   #theme-toggle                  html[data-theme] is "dark" or "light" once chosen

let view = { rows: [], front: [], leads: new Set(), drawn: [], sorted: [] };

function update({ axes = false, delay = 0 } = {}) {
  view = { ...look(), sorted: [] };
  if (axes) renderAxes();
  renderTable();
  renderSentence();
  schedulePlots(delay);
}

let plotTimer = 0;
/** Plots follow the table: a key that is typed is answered at once. */
function schedulePlots(delay = 0) {
  clearTimeout(plotTimer);
  plotTimer = setTimeout(renderPlots, delay);
}
function renderPlots() {
  renderMultiples(view);
  renderLegend();
  return renderPlot();
}

function setFilter(name, value, delay = 0) {
  state[name] = value;
  state.page = 0;
  update({ delay });
  renderReset();
  const box = byId({ onlyFrontier: "filter-frontier" }[name] ?? `filter-${name}`);
  if (box && box.value !== value && typeof value === "string") box.value = value;
  announce(`${byId("table-count").textContent}, ${view.front.length} on the frontier.`);
}

function renderFilters() {
  const section = byId("filters");
  section.hidden = COUNT < 2;
  const choices = (all, values) => [["", all], ...values.map((value) => [value, short(value, 40)])];
  const places = distinct(POINTS.map(circumstances).filter(Boolean));
  const machines = distinct(POINTS.map((i) => text("hardware", i)).filter(Boolean));
  const search = h("label", { class: "field grow", for: "filter-text" }, h("span", {}, "Filter"),
    h("input", {
      id: "filter-text", type: "search", placeholder: "model, pipeline, command …", autocomplete: "off", spellcheck: "false",
      oninput: (event) => setFilter("text", event.target.value, 120),
    }));
  const problems = POINTS.some((i) => text("problem", i));
  section.replaceChildren(...[
    search,
    BACKENDS.length > 1 && select("filter-backend", "Backend", choices("all", BACKENDS), state.backend, (value) => setFilter("backend", value)),
    FORMATS.length > 1 && select("filter-format", "Format", choices("all", FORMATS), state.format, (value) => setFilter("format", value)),
    places.length > 1 && select("filter-where", "Circumstances", choices("all", places), state.where, (value) => setFilter("where", value)),
    machines.length > 1 && select("filter-hardware", "Hardware", choices("all", machines), state.hardware, (value) => setFilter("hardware", value)),
    problems && select("filter-problems", "Problems", [["all", "show"], ["hide", "hide"], ["only", "only these"]], state.problems, (value) => setFilter("problems", value)),
    AXES.length > 1 && checkbox("filter-frontier", "Frontier only", state.onlyFrontier, (value) => setFilter("onlyFrontier", value)),
    h("button", { type: "button", id: "filter-reset", class: "quiet", hidden: true, onclick: resetFilters }, "Reset"),
  ].filter(Boolean));
}

const CLEAR = { text: "", backend: "", format: "", where: "", hardware: "", problems: "all", onlyFrontier: false };

function renderReset() {
  byId("filter-reset").hidden = Object.entries(CLEAR).every(([name, value]) => state[name] === value);
}

function resetFilters() {
  Object.assign(state, CLEAR, { page: 0 });
  renderFilters();
  update();
  byId("filter-text").focus();
}

function renderAxes() {
  const options = AXES.map((name) => [name, about(name).label]);
  const axis = (letter) => {
    const log = `log${letter}`;
    const name = state[letter.toLowerCase()];
    const box = checkbox(`log-${letter.toLowerCase()}`, "log", state[log], (value) => { state[log] = value; update(); });
    if (!mayLog(name)) Object.assign(box.querySelector("input"), { disabled: true, title: "some values are zero or below" });
    return h("div", { class: "axis-choice" }, select(`axis-${letter.toLowerCase()}`, letter === "X" ? "Across" : "Up", options, name, (value) => setAxis(letter, value)), box);
  };
  const focused = document.activeElement?.id;
  byId("axes").replaceChildren(axis("X"), axis("Y"));
  if (focused) byId(focused)?.focus();
}

function setAxis(letter, name) {
  state[letter.toLowerCase()] = name;
  state[`log${letter}`] = Boolean(about(name).log) && mayLog(name) && letter === "X";
  update({ axes: true });
  announce(byId("frontier-sentence").textContent);
}

function renderSentence() {
  const [x, y] = [about(state.x), about(state.y)];
  const missing = view.rows.length - view.drawn.length;
  byId("frontier-section").hidden = AXES.length < 2 || !POINTS.some((i) => AXES.some((name) => Number.isFinite(num(name, i))));
  byId("frontier-sentence").textContent = `${view.front.length} of ${view.drawn.length.toLocaleString("en")} are beaten by no other in both ${x.label.toLowerCase()} and ${y.label.toLowerCase()}`
    + `${missing ? `; ${missing.toLocaleString("en")} lack one of the two` : ""}.`;
  byId("frontier")?.setAttribute("aria-label", `${y.label} against ${x.label}, ${plural(view.drawn.length, "point")}`);
}

function renderLegend() {
  const seen = new Set(view.drawn.map(backendOf));
  const backends = BACKENDS.filter((backend) => seen.has(backend));
  const formats = FORMATS.filter((format) => view.drawn.some((i) => text("format", i) === format));
  byId("legend").replaceChildren(
    ...(backends.map((backend) => h("span", { class: "key" }, swatch(backend), backend))),
    ...(formats.length > 1 && hasPlotly ? formats.map((format) => h("span", { class: "key" }, h("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[FORMATS.indexOf(format) % GLYPHS.length]), format)) : []),
    h("span", { class: "key muted" }, h("span", { class: "line-key" }), "frontier"));
}

function renderPublished() {
  if (!DATA.published.length) return;
  byId("published-section").hidden = false;
  const percentOf = (value) => (Number.isFinite(value) ? `${value} %` : "");
  const rows = DATA.published.map((each) => [
    each.method, h("span", {}, each.paper, h("span", { class: "muted" }, `, ${each.table}`)), h("span", {}, each.network, h("span", { class: "muted" }, ` on ${each.data}`)),
    [percentOf(each.error_before), percentOf(each.error)].filter(Boolean).join(" → "),
    Number.isFinite(each.ratio) ? `${each.ratio}×` : "", KINDS[each.kind] ?? each.kind ?? "",
    Number.isFinite(each.weights_kept) ? percent(each.weights_kept) : "", Number.isFinite(each.size_bytes) ? bytes(each.size_bytes) : "",
    Number.isFinite(each.speedup) ? `${each.speedup}×` : "", each.comparable ? "yes: same network and data" : "context only", each.note,
  ]);
  const heads = ["Method", "Paper", "Network", "Error", "Ratio", "Ratio counts", "Weights kept", "Size", "Speed-up", "Comparable", "Note"];
  const kept = heads.map((_, index) => index).filter((index) => rows.some((cells) => cells[index] !== ""));
  const numeric = kept.map((index, at) => ([3, 4, 6, 7, 8].includes(index) ? at : -1)).filter((at) => at >= 0);
  const table = plainTable(kept.map((index) => heads[index]), rows.map((cells) => kept.map((index) => cells[index])), numeric).firstElementChild;
  table.id = "published-table";
  byId("published-table").replaceWith(table);
}
const KINDS = { nnz: "weights left", format: "computed bits", file: "a real file", macs: "multiplications" };

const NOTES = 8;
function renderNotes() {
  const notes = [...DATA.notes];
  const machines = distinct(POINTS.map((i) => text("hardware", i)).filter(Boolean));
  if (machines.length > 1) notes.unshift(`The rows come from ${machines.length} machines: compare latencies within one of them (filter by hardware). A speed-up is measured against a baseline on its own machine.`);
  byId("notes-section").hidden = !notes.length;
  const items = notes.map((note) => h("li", {}, note));
  const rest = items.splice(NOTES);
  byId("notes").replaceChildren(...items);
  if (rest.length) byId("notes").after(h("details", { class: "folded" }, h("summary", {}, `${plural(rest.length, "more note")}`), h("ul", {}, rest)));
}

/** Storage is refused in a sandboxed frame: then a choice lasts as long as the page. */
function remembered(value) {
  try {
    if (value) localStorage.setItem("hydrapress-theme", value);
    return localStorage.getItem("hydrapress-theme");
  } catch {
    return null;
  }
}

function setUpTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const apply = () => {
    byId("theme-toggle").setAttribute("aria-pressed", String(isDark()));
    colors.clear();
    renderPlot();
    if (plotly) document.querySelectorAll(".curves[data-job]").forEach(drawCurves);
  };
  const before = remembered();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  byId("theme-toggle").setAttribute("aria-pressed", String(isDark()));
  byId("theme-toggle").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    apply();
  });
  system.addEventListener("change", apply);
}

setUpTheme();
renderFilters();
renderPublished();
renderNotes();
if (!hasPlotly) ["plot-frame", "frontier-hint"].forEach((id) => byId(id).remove());
update({ axes: true });

document.addEventListener("DOMContentLoaded", () => {
  // table and text are to be seen before the large parts are unpacked
  requestAnimationFrame(() => setTimeout(async () => {
    await loadJobs();
    await loadPlotly();
  }));
});
