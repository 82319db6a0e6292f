// Graph: a job's pipeline as a drawing, stages from left to right.

const BOX = { width: 172, height: 62, gapX: 46, gapY: 18 };

/** The column of each stage: one behind the last that it takes from. */
function depths(stages) {
  const known = new Map(stages.map((stage) => [stage.id, stage]));
  const depth = new Map();
  const of = (id, seen) => {
    if (depth.has(id)) return depth.get(id);
    if (seen.has(id)) return 0;
    const before = known.get(id).inputs.filter((input) => known.has(input));
    const value = before.length ? 1 + Math.max(...before.map((input) => of(input, new Set([...seen, id])))) : 0;
    depth.set(id, value);
    return value;
  };
  stages.forEach((stage) => of(stage.id, new Set()));
  return depth;
}

function drawGraph(job) {
  const depth = depths(job.stages);
  const columns = [];
  job.stages.forEach((stage) => (columns[depth.get(stage.id)] ??= []).push(stage));
  const rows = Math.max(...columns.map((each) => each.length));
  const width = columns.length * (BOX.width + BOX.gapX) - BOX.gapX + 4;
  const height = rows * (BOX.height + BOX.gapY) - BOX.gapY + 4;
  const at = new Map();
  columns.forEach((stages, column) => {
    const free = (rows - stages.length) * (BOX.height + BOX.gapY) / 2;
    stages.forEach((stage, index) => at.set(stage.id, [2 + column * (BOX.width + BOX.gapX), 2 + free + index * (BOX.height + BOX.gapY)]));
  });
  const edges = job.stages.flatMap((stage) => stage.inputs.filter((input) => at.has(input)).map((input) => edge(at.get(input), at.get(stage.id), depth.get(stage.id) - depth.get(input) > 1)));
  const label = `Pipeline: ${job.stages.map((stage) => `${stage.id}${stage.inputs.length ? ` from ${stage.inputs.join(", ")}` : ""}`).join("; ")}`;
  return h("div", { class: "graph", tabindex: "0", role: "group", "aria-label": "Pipeline, scrolls sideways" },
    s("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": label, style: { "min-width": `${Math.round(width * 0.78)}px` } },
      edges, job.stages.map((stage) => node(job, stage, at.get(stage.id)))));
}

function edge([x1, y1], [x2, y2], far) {
  const [from, to] = [x1 + BOX.width, x2];
  const [a, b] = [y1 + BOX.height / 2, y2 + BOX.height / 2];
  const half = Math.max(20, (to - from) / 2);
  return s("path", { class: far ? "edge far" : "edge", d: `M${from} ${a}C${from + half} ${a} ${to - half} ${b} ${to - 6} ${b}M${to - 6} ${b - 4}l6 4l-6 4` });
}

function node(job, stage, [x, y]) {
  const failed = stage.format === "" && job.state !== "FINISHED";
  const size = Number.isFinite(stage.metrics.size_bytes) ? bytes(stage.metrics.size_bytes) : "";
  const value = stage.metrics[job.metric];
  const lines = [seconds(stage.seconds), size, failed ? "failed" : Number.isFinite(value) ? quality(value) : ""].filter(Boolean).join(" · ");
  return s("g", { class: `node${failed ? " failed" : ""}${stage.cached ? " cached" : ""}`, "data-stage": stage.id, transform: `translate(${x} ${y})` },
    s("title", {}, `${stage.id}: ${stage.use}${stage.cached ? ", from the store" : ""}`),
    s("rect", { width: BOX.width, height: BOX.height, rx: 8 }),
    s("text", { x: 12, y: 21, class: "node-id" }, short(stage.id, 20)),
    stage.cached && s("text", { x: BOX.width - 10, y: 21, class: "node-cached", "text-anchor": "end" }, "from store"),
    s("text", { x: 12, y: 37, class: "node-use" }, short(stage.use, 26)),
    s("text", { x: 12, y: 53, class: "node-facts" }, lines));
}
