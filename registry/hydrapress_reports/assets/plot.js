// Plot: the frontier, drawn by plotly once it is unpacked. What is hovered, clicked or walked over is ours,
// so that it works the same for points that plotly draws and for those on the canvas.

const hasPlotly = document.documentElement.dataset.plotly === "yes";
const CROWD = 1000;      // above this many points the pale ones go to a canvas: SVG would be slow
const LABELS = 14;       // more labels on the frontier than these would cover each other
const REACH = 26;        // how near, in pixels, the pointer must come to a point
/** plotly's own reset would go back to the first range, whatever has been filtered since. */
const config = () => ({
  responsive: true, displaylogo: false, showTips: false, doubleClick: false,
  modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", { name: "all", title: "Show all", icon: plotly.Icons.home, click: showAll }]],
});

let plotly = null;
let plotted = [];

async function loadPlotly() {
  if (!hasPlotly) return;
  try {
    const script = document.createElement("script");
    script.textContent = await unpack("plotly-data");
    document.head.append(script);
    if (!window.Plotly) throw new Error("the script did not start");
    plotly = window.Plotly;
    byId("plotly-data").textContent = "";
  } catch (error) {
    byId("plot-waiting").textContent = `The interactive plot can't be shown in this browser (${error.message}). The small plots and the table are whole.`;
    return;
  }
  byId("plot-waiting").remove();
  await renderPlot();
  document.querySelectorAll(".curves[data-job]").forEach(drawCurves);
}

async function renderPlot() {
  if (!plotly || byId("frontier-section").hidden) return;
  const gd = byId("frontier");
  const { drawn, leads, front } = view;
  plotted = drawn;
  const pale = drawn.filter((i) => !leads.has(i));
  const crowded = drawn.length > CROWD;
  const traces = [stepTrace(front)];
  if (!crowded) traces.push(pointTrace(pale, "dominated"));
  traces.push(pointTrace(front, "frontier"));
  await plotly.react(gd, traces, plotLayout(), config());
  if (!gd.dataset.wired) wire(gd);
  paintCrowd();
  Object.assign(gd.dataset, { ready: "true", shown: drawn.length, frontier: front.length, x: state.x, y: state.y });
  placeRing();
}

function stepTrace(front) {
  const path = steps(front, state.x, state.y);
  return {
    type: "scatter", mode: "lines", x: path.map((p) => p[0]), y: path.map((p) => p[1]), hoverinfo: "skip",
    line: { color: color("--accent"), width: 1.5 }, opacity: 0.7, meta: { role: "step" },
  };
}

function pointTrace(indices, role) {
  const strong = role === "frontier";
  const bars = strong || indices.length <= 150;
  const named = strong && indices.length <= LABELS && byId("plot-frame").clientWidth >= 560;
  const layer = layers(indices);
  return {
    type: "scatter",
    mode: named ? "markers+text" : "markers",
    x: indices.map((i) => num(state.x, i)),
    y: indices.map((i) => num(state.y, i)),
    ...(bars && { error_x: errorBars(state.x, indices, strong), error_y: errorBars(state.y, indices, strong) }),
    ...(named && { text: labels(indices), textposition: indices.map(labelSide), textfont: { size: 12, color: color("--ink") }, cliponaxis: false }),
    customdata: indices.map((i) => DATA.points.id[i]),
    hoverinfo: "none",
    meta: { role },
    marker: {
      // points that lie upon each other become rings around the last
      size: indices.map((_, index) => (strong ? 12 + 6 * layer[index] : 8)),
      color: indices.map((i) => color(series(backendOf(i)))),
      symbol: indices.map((i) => SYMBOLS[formatIndex(i)]),
      opacity: strong ? 1 : 0.32,
      line: { width: strong ? 1.5 : 0, color: color("--paper") },
    },
  };
}

/** How many later points lie on the same place as each; no more than three. */
function layers(indices) {
  const above = new Map();
  const found = new Array(indices.length);
  for (let index = indices.length - 1; index >= 0; index -= 1) {
    const key = spot(indices[index]);
    found[index] = Math.min(3, above.get(key) ?? 0);
    above.set(key, (above.get(key) ?? 0) + 1);
  }
  return found;
}
const spot = (i) => `${num(state.x, i)}/${num(state.y, i)}`;

/** Where a point is between the ends of an axis, from 0 to 1. */
function share(name, log, i) {
  const range = zoomed(name) ?? extent(name, log);
  return ((log ? Math.log10(num(name, i)) : num(name, i)) - range[0]) / (range[1] - range[0]);
}

/** Names beside the frontier's points; one that would cover another is left out. */
function labels(indices) {
  const taken = [];
  return indices.map((i) => {
    const [x, y] = [share(state.x, state.logX, i), share(state.y, state.logY, i)];
    if (taken.some(([a, b]) => Math.abs(a - x) < 0.14 && Math.abs(b - y) < 0.05)) return "";
    taken.push([x, y]);
    return plain(short(text("title", i), 26));
  });
}
/** Off the steps, and not over the edge. */
function labelSide(i) {
  const at = share(state.x, state.logX, i);
  const right = about(state.x).better === "more" ? at < 0.85 : at < 0.18;
  return `${about(state.y).better === "more" ? "top" : "bottom"} ${right ? "right" : "left"}`;
}
/** plotly reads tags in its texts: none of ours are meant. */
const plain = (value) => value.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function errorBars(name, indices, strong) {
  const intervals = indices.map((i) => ends(name, i));
  if (!intervals.some(Boolean)) return { visible: false };
  return {
    type: "data", symmetric: false, visible: true, thickness: 1, width: strong ? 4 : 0, color: color(strong ? "--muted" : "--line"),
    array: intervals.map((each, index) => (each ? Math.max(0, each[1] - num(name, indices[index])) : 0)),
    arrayminus: intervals.map((each, index) => (each ? Math.max(0, num(name, indices[index]) - each[0]) : 0)),
  };
}

/** Where a point is, in pixels of the plot's frame; null when it is outside the axes. */
function place(i) {
  const layout = byId("frontier")._fullLayout;
  if (!layout) return null;
  const { xaxis, yaxis } = layout;
  const x = xaxis.d2p(num(state.x, i));
  const y = yaxis.d2p(num(state.y, i));
  if (!(x >= -1 && x <= xaxis._length + 1 && y >= -1 && y <= yaxis._length + 1)) return null;
  return { x: x + xaxis._offset, y: y + yaxis._offset };
}

function paintCrowd() {
  const canvas = byId("frontier-canvas");
  const crowded = view.drawn.length > CROWD;
  canvas.hidden = !crowded;
  if (!crowded) return;
  const frame = byId("frontier");
  const scale = window.devicePixelRatio || 1;
  canvas.width = frame.clientWidth * scale;
  canvas.height = frame.clientHeight * scale;
  Object.assign(canvas.style, { width: `${frame.clientWidth}px`, height: `${frame.clientHeight}px` });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.globalAlpha = 0.34;
  const paints = new Map(BACKENDS.map((backend) => [backend, color(series(backend))]));
  for (const i of view.drawn) {
    if (view.leads.has(i)) continue;
    const at = place(i);
    if (!at) continue;
    pen.fillStyle = paints.get(backendOf(i));
    pen.beginPath();
    pen.arc(at.x, at.y, 3, 0, 2 * Math.PI);
    pen.fill();
  }
}

function nearest(event) {
  const box = byId("frontier").getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = { i: -1, distance: REACH ** 2 };
  for (const i of plotted) {
    const at = place(i);
    if (!at) continue;
    // of points that lie upon each other the frontier's is meant
    const distance = (at.x - x) ** 2 + (at.y - y) ** 2 - (view.leads.has(i) ? 9 : 0);
    if (distance < best.distance) best = { i, distance };
  }
  return best.i;
}

function wire(gd) {
  gd.dataset.wired = "yes";
  gd.on("plotly_relayout", keepZoom);
  gd.addEventListener("dblclick", (event) => { if (!event.target.closest(".modebar")) showAll(); });
  gd.on("plotly_relayouting", () => { paintCrowd(); placeRing(); hideCard(); });
  new ResizeObserver(() => requestAnimationFrame(() => { paintCrowd(); placeRing(); })).observe(gd);
  let pressed = null;
  gd.addEventListener("pointermove", (event) => {
    if (event.buttons) return;
    const i = nearest(event);
    if (i >= 0) showCard(i);
    else hideCard();
  }, true);
  gd.addEventListener("pointerleave", hideCard);
  gd.addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; }, true);
  // plotly covers the page while a button is down: the release is heard by the window alone
  window.addEventListener("pointerup", (event) => {
    if (!pressed) return;
    const moved = Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]);
    pressed = null;
    if (moved > 4 || event.target.closest?.(".modebar")) return;
    const i = nearest(event);
    if (i >= 0) choose(i);
  }, true);
  gd.addEventListener("keydown", walk);
  gd.addEventListener("blur", hideCard);
}

/** Select a point: its ring, its card, its row. */
function choose(i) {
  state.selected = i;
  showRow(i);
  placeRing();
  showCard(i);
  announce(spoken(i));
}

function walk(event) {
  const order = [...view.drawn].sort((a, b) => num(state.x, a) - num(state.x, b) || num(state.y, a) - num(state.y, b));
  const front = order.filter((i) => view.leads.has(i));
  const [line, step] = { ArrowRight: [order, 1], ArrowLeft: [order, -1], ArrowUp: [front, 1], ArrowDown: [front, -1], Home: [order, 0], End: [order, Infinity] }[event.key] ?? [];
  if (event.key === "Enter" && state.selected >= 0) {
    event.preventDefault();
    showRow(state.selected, { open: true, focus: true });
  } else if (event.key === "Escape") {
    state.selected = -1;
    placeRing();
    hideCard();
  } else if (line?.length) {
    event.preventDefault();
    const now = line.indexOf(state.selected);
    const next = step === 0 ? 0 : now < 0 ? (step === Infinity ? line.length - 1 : step > 0 ? 0 : line.length - 1) : Math.min(line.length - 1, Math.max(0, now + step));
    state.selected = line[next];
    placeRing();
    showCard(state.selected);
    announce(spoken(state.selected));
  }
}

function spoken(i) {
  return [
    short(text("title", i), 120), text("backend", i) && `on ${text("backend", i)}`,
    `${about(state.x).label} ${written(state.x, i)}`, `${about(state.y).label} ${written(state.y, i)}`,
    view.leads.has(i) && "on the frontier", text("verdict", i),
  ].filter(Boolean).join(", ");
}

function placeRing() {
  const ring = byId("ring");
  const at = state.selected >= 0 && view.drawn.includes(state.selected) ? place(state.selected) : null;
  ring.hidden = !at;
  if (at) ring.style.transform = `translate(${at.x}px, ${at.y}px)`;
}

function showCard(i) {
  const at = place(i);
  if (!at) return hideCard();
  const card = byId("hover-card");
  if (card.dataset.id !== DATA.points.id[i] || card.hidden) {
    const names = [state.x, state.y, DATA.metric, "size_bytes", "latency_ms_p50", "speedup"].filter((name, index, all) => all.indexOf(name) === index && written(name, i));
    const also = plotted.length <= 5000 ? plotted.filter((other) => other !== i && spot(other) === spot(i)) : [];
    card.replaceChildren(
      h("p", { class: "card-title" }, short(text("title", i), 120)),
      text("pipeline", i) && h("p", { class: "card-way" }, short(text("pipeline", i), 160)),
      h("p", { class: "muted" }, swatch(backendOf(i)),
        [backendOf(i), text("format", i), circumstances(i)].filter(Boolean).join(" · ")),
      list(names.map((name) => [unitLabel(name), written(name, i)])),
      text("verdict", i) ? h("p", {}, clip(text("verdict", i), 200)) : "",
      also.length ? h("p", { class: "muted" }, `On the same place: ${distinct(also.map(backendOf)).slice(0, 4).join(", ")}${also.length > 1 ? ` (${also.length})` : ""}`) : "",
      text("command", i) ? h("code", {}, clip(text("command", i), 400)) : "");
    card.dataset.id = DATA.points.id[i];
  }
  card.hidden = false;
  const frame = byId("plot-frame").clientWidth;
  const { offsetWidth: width, offsetHeight: height } = card;
  const left = at.x + 18 + width <= frame ? at.x + 18 : Math.max(0, Math.min(at.x - 18 - width, frame - width));
  card.style.transform = `translate(${left}px, ${Math.max(0, at.y - height / 2)}px)`;
}

function hideCard() {
  byId("hover-card").hidden = true;
}
