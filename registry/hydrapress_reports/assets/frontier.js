// Frontier: what is filtered, what no other point beats, and in which order the rows stand.

const state = {
  x: AXES.includes("size_bytes") ? "size_bytes" : AXES.find((name) => name !== DATA.metric) ?? DATA.metric,
  y: AXES.includes(DATA.metric) ? DATA.metric : AXES[0] ?? DATA.metric,
  logX: false,
  logY: false,
  text: "",
  backend: "",
  format: "",
  where: "",
  hardware: "",
  problems: "all",
  onlyFrontier: false,
  sort: "frontier",
  descending: true,
  page: 0,
  pageSize: innerWidth < 640 ? 25 : 50,
  open: new Set(),
  selected: -1,
};
state.logX = mayLog(state.x) && Boolean(about(state.x).log);

/** A logarithm needs values above zero. */
function mayLog(name) {
  return POINTS.every((i) => !(num(name, i) <= 0));
}

let haystack = null;
function searchable(i) {
  haystack ??= POINTS.map((each) =>
    ["title", "pipeline", "model", "backend", "format", "verdict", "problem", "hardware", "command", "origin"]
      .map((column) => text(column, each)).join("\n").toLowerCase());
  return haystack[i];
}

/** The points that pass the filters, the frontier's own aside. */
function filtered() {
  const needles = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  return POINTS.filter((i) =>
    (!state.backend || backendOf(i) === state.backend)
    && (!state.format || text("format", i) === state.format)
    && (!state.where || circumstances(i) === state.where)
    && (!state.hardware || text("hardware", i) === state.hardware)
    && (state.problems === "all" || (state.problems === "only") === Boolean(text("problem", i)))
    && needles.every((needle) => searchable(i).includes(needle)));
}

/** The points that no other beats in both x and y. Equal points stand or fall together. */
function nondominated(indices, x, y) {
  const signX = about(x).better === "more" ? -1 : 1;
  const signY = about(y).better === "more" ? -1 : 1;
  const placed = indices.filter((i) => Number.isFinite(num(x, i)) && Number.isFinite(num(y, i)))
    .map((i) => ({ i, x: signX * num(x, i), y: signY * num(y, i) }))
    .sort((a, b) => a.x - b.x || a.y - b.y);
  const front = [];
  let best = Infinity;
  let last = null;
  for (const point of placed) {
    if (point.y < best || (last && point.y === last.y && point.x === last.x)) {
      front.push(point.i);
      best = point.y;
      last = point;
    }
  }
  return front;
}

/** The corners of the step line: at each x, the best y that can be had there. */
function steps(front, x, y) {
  const corners = front.map((i) => [num(x, i), num(y, i)]).sort((a, b) => a[0] - b[0]);
  const path = [];
  corners.forEach((corner, index) => {
    const before = corners[index - 1];
    if (before) path.push(about(x).better === "more" ? [before[0], corner[1]] : [corner[0], before[1]]);
    path.push(corner);
  });
  return path;
}

/** What there is to be seen now. */
function look() {
  const visible = filtered();
  const front = nondominated(visible, state.x, state.y);
  const leads = new Set(front);
  const rows = state.onlyFrontier ? visible.filter((i) => leads.has(i)) : visible;
  const drawn = rows.filter((i) => Number.isFinite(num(state.x, i)) && Number.isFinite(num(state.y, i)));
  return { rows, front, leads, drawn };
}
