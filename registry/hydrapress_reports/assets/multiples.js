// Multiples: one small plot a backend, all on the same axes, drawn as SVG that prints well.

const WIDTH = 260;
const HEIGHT = 180;
const EDGE = { left: 46, right: 10, top: 8, bottom: 26 };

function scaleOf(values, log, from, to) {
  const at = log ? Math.log10 : (value) => value;
  let low = at(values.reduce((a, b) => Math.min(a, b), Infinity));
  let high = at(values.reduce((a, b) => Math.max(a, b), -Infinity));
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const margin = (high - low) * 0.06;
  [low, high] = [low - margin, high + margin];
  return (value) => from + ((at(value) - low) / (high - low)) * (to - from);
}

/** Many dots as one path: each is a line of no length with round ends. */
const dots = (indices, x, y) => indices.map((i) => `M${x(num(state.x, i)).toFixed(1)} ${y(num(state.y, i)).toFixed(1)}h0`).join("");

function renderMultiples({ drawn, leads }) {
  const section = byId("multiples-section");
  const groups = new Map(BACKENDS.map((backend) => [backend, []]));
  drawn.forEach((i) => groups.get(backendOf(i)).push(i));
  const shown = [...groups].filter(([, members]) => members.length);
  section.hidden = shown.length < 1 || !drawn.length || (shown.length === 1 && BACKENDS.length === 1 && hasPlotly);
  if (section.hidden) return;
  const xs = drawn.map((i) => num(state.x, i));
  const ys = drawn.map((i) => num(state.y, i));
  const x = scaleOf(xs, state.logX, EDGE.left, WIDTH - EDGE.right);
  const y = scaleOf(ys, state.logY, HEIGHT - EDGE.bottom, EDGE.top);
  const all = sampled(drawn);
  const limits = [xs, ys].map((values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]);
  byId("multiples").replaceChildren(...shown.map(([backend, members]) =>
    small(backend, members, members.filter((i) => leads.has(i)), { x, y, all: dots(all, x, y), limits })));
}

/** Of a crowd, the pale background needs but some to show its shape. */
const sampled = (indices) => indices.filter((_, index) => index % Math.ceil(indices.length / 1500) === 0);

function small(backend, members, leading, { x, y, all, limits }) {
  const paint = { stroke: `var(${series(backend)})` };
  const own = nondominated(members, state.x, state.y);
  const path = steps(own, state.x, state.y).map(([a, b], index) => `${index ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  const [[lowX, highX], [lowY, highY]] = limits;
  const [aboutX, aboutY] = [about(state.x), about(state.y)];
  const base = HEIGHT - EDGE.bottom;
  const picture = s("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `${backend}: ${plural(members.length, "model")}, ${leading.length} on the frontier of all`,
  },
  s("path", { d: `M${EDGE.left} ${EDGE.top}V${base}H${WIDTH - EDGE.right}`, class: "axis" }),
  s("path", { d: all, class: "dots pale" }),
  s("path", { d: path, class: "step", style: paint }),
  s("path", { d: dots(members, x, y), class: members.length > 400 ? "dots tiny" : "dots", style: paint }),
  s("path", { d: dots(leading, x, y), class: "dots lead", style: paint }),
  s("text", { x: EDGE.left, y: HEIGHT - 8 }, aboutX.write(lowX)),
  highX > lowX && s("text", { x: WIDTH - EDGE.right, y: HEIGHT - 8, "text-anchor": "end" }, aboutX.write(highX)),
  s("text", { x: EDGE.left - 6, y: base, "text-anchor": "end" }, brief(aboutY, lowY)),
  highY > lowY && s("text", { x: EDGE.left - 6, y: EDGE.top + 10, "text-anchor": "end" }, brief(aboutY, highY)));
  const active = state.backend === backend;
  const name = h("button", {
    type: "button", class: "multiple-name", "aria-pressed": String(active),
    title: active ? "Show all backends again" : "Show this backend alone",
    onclick: () => setFilter("backend", active ? "" : backend),
  }, swatch(backend), backend);
  const best = leading.length ? `${leading.length} on the frontier` : "none on the frontier";
  return h("figure", { class: "multiple", "data-backend": backend }, h("figcaption", {}, name,
    h("span", { class: "muted" }, `${members.length.toLocaleString("en")} · ${best}`)), picture);
}

/** A number that fits beside a small axis. */
function brief(metric, value) {
  const whole = metric.write(value);
  return whole.length > 7 ? String(Number(value.toPrecision(3))) : whole;
}
