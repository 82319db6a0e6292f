// Jobs: for each, its graph, verdicts, layers, curves, environment and command; drawn when it is opened.

let JOBS = [];
let jobsShown = 0;
const JOBS_A_TIME = 40;

async function loadJobs() {
  const section = byId("jobs-section");
  if (!DATA.jobs) return;
  section.hidden = false;
  try {
    JOBS = JSON.parse(await unpack("jobs-data"));
  } catch (error) {
    byId("jobs").replaceChildren(h("p", { class: "notice" }, `The jobs can't be unpacked in this browser: ${error.message}.`));
    return;
  }
  byId("jobs-data").textContent = "";
  shared = sharedWords(JOBS.map((job) => job.label));
  const failed = JOBS.filter((job) => job.state !== "FINISHED").length;
  byId("jobs-count").textContent = `${plural(JOBS.length, "job")}${failed ? `, ${failed} not finished` : ""}`;
  moreJobs();
  if (JOBS.length) jobElement(0).open = true;
}

/** What all labels say tells none of the jobs apart. */
let shared = new Set();
function sharedWords(labels) {
  if (labels.length < 2) return new Set();
  const sets = labels.map((label) => new Set(label.split(" ")));
  return new Set([...sets[0]].filter((word) => sets.every((each) => each.has(word))));
}
function jobTitle(job) {
  const own = job.label.split(" ").filter((word) => !shared.has(word)).join(" ");
  return short(own || job.label || job.id, 160);
}

function moreJobs(least = 0) {
  byId("more-jobs")?.remove();
  const until = Math.min(JOBS.length, Math.max(least, jobsShown + JOBS_A_TIME));
  for (; jobsShown < until; jobsShown += 1) byId("jobs").append(jobDetails(jobsShown));
  if (jobsShown < JOBS.length) {
    byId("jobs").append(h("button", { type: "button", class: "quiet", id: "more-jobs", onclick: () => moreJobs() }, `Show more (${JOBS.length - jobsShown} left)`));
  }
}

const jobElement = (index) => byId("jobs").querySelector(`[data-job="${index}"]`);

function openJob(index) {
  if (index >= JOBS.length) return;
  if (index >= jobsShown) moreJobs(index + 1);
  const element = jobElement(index);
  element.open = true;
  show(element, "start");
  element.querySelector("summary").focus({ preventScroll: true });
}

function jobDetails(index) {
  const job = JOBS[index];
  const ok = job.state === "FINISHED";
  const facts = [job.experiment, job.benchmark && `benchmark ${job.benchmark}`, `seed ${job.seed}`, seconds(job.seconds)].filter(Boolean).join(" · ");
  const element = h("details", { class: "job", "data-job": index, id: `job-${index}` },
    h("summary", {}, h("span", { class: `state ${ok ? "ok" : "bad"}` }, ok ? "finished" : job.state.toLowerCase()),
      h("span", { class: "job-label" }, jobTitle(job)), h("span", { class: "muted" }, facts)));
  element.addEventListener("toggle", () => {
    if (element.open && element.childElementCount === 1) element.append(jobBody(job, index));
  });
  return element;
}

function jobBody(job, index) {
  const body = h("div", { class: "job-body" });
  if (job.error) body.append(h("pre", { class: "problem", role: "note" }, job.error));
  if (job.stages.length) body.append(block("Pipeline", drawGraph(job)), folded("Stages as a table", stageTable(job)));
  if (job.measurements.length) body.append(block("Verdicts", verdicts(job)));
  const layered = job.stages.filter((stage) => stage.layers?.length);
  if (layered.length) body.append(block("Layers", heatMap(layered)));
  if (curvesOf(job).length) {
    const curves = h("div", { class: "curves", "data-job": index });
    body.append(block("Training", curves, folded("Curves as a table", curveTable(job))));
    if (plotly) requestAnimationFrame(() => drawCurves(curves));
  }
  body.append(block("Again", commandBox(job.command)));
  if (job.detailed) body.append(folded("Environment", environment(job)), folded("Config", h("pre", { tabindex: "0" }, JSON.stringify(job.config, null, 2))));
  else body.append(h("p", { class: "muted" }, `Of ${plural(DATA.jobs, "job")} this page keeps curves, layers and environment of ${DATA.detailed}; this job's own report has them.`));
  if (job.notes.length) body.append(folded("Notes", h("ul", {}, job.notes.map((note) => h("li", {}, note)))));
  return body;
}

const block = (title, ...children) => h("section", { class: "block" }, h("h3", {}, title), children);
const folded = (title, ...children) => h("details", { class: "folded" }, h("summary", {}, title), children);

function plainTable(heads, rows, numeric = []) {
  const side = (index) => (numeric.includes(index) ? "num" : "");
  return h("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": `${heads[0]} and more, scrolls sideways` }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head, index) => h("th", { scope: "col", class: side(index) }, head)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, index) => (index ? h("td", { class: side(index) }, cell) : h("th", { scope: "row" }, cell))))))));
}

const maybe = (value, write) => (Number.isFinite(value) ? write(value) : "");

function stageTable(job) {
  return plainTable(["Stage", "Uses", "Takes", "Format", "Time", "Size", words(job.metric || "quality"), "Zeros", "Settings"],
    job.stages.map((stage) => [
      stage.id, stage.use, stage.inputs.join(", "), stage.format || (job.state === "FINISHED" ? "" : "failed"),
      stage.cached ? `${seconds(stage.seconds)}, from store` : seconds(stage.seconds),
      maybe(stage.metrics.size_bytes, bytes), maybe(stage.metrics[job.metric], quality), maybe(stage.metrics.sparsity, percent),
      h("span", { class: "settings" }, Object.entries(stage.fields ?? {}).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ")),
    ]), [4, 5, 6, 7]);
}

function verdicts(job) {
  return h("ul", { class: "verdicts" }, job.measurements.map((row) => h("li", {},
    h("strong", {}, row.model), ` on ${row.backend}${row.threads > 1 ? `, ${row.threads} threads` : ""}${row.batch_size > 1 ? `, batch ${row.batch_size}` : ""}: `,
    row.problem ? h("span", { class: "problem" }, `not measured: ${row.problem}`) : row.verdict,
    row.reasons.length > 0 && h("ul", {}, row.reasons.map((each) => h("li", {}, each))))));
}

/** Rows are layers, columns stages. It is a table with coloured cells, so that everybody can read it. */
function heatMap(stages) {
  const shapes = new Map();
  stages.forEach((stage) => stage.layers.forEach(([name, shape]) => shapes.has(name) || shapes.set(name, shape)));
  const found = stages.map((stage) => new Map(stage.layers.map((layer) => [layer[0], layer])));
  const sparse = stages.some((stage) => stage.layers.some((layer) => layer[3] / layer[2] > 0.01));
  const holder = h("div", {});
  const draw = (what) => holder.replaceChildren(plainTable(["Layer", ...stages.map((stage) => stage.id)],
    [...shapes].map(([name, shape]) => [
      h("span", { class: "layer" }, name, h("span", { class: "muted" }, ` ${shape.join("×")}`)),
      ...found.map((layers) => heatCell(layers.get(name), what)),
    ])));
  draw(sparse ? "sparsity" : "bits");
  holder.classList.add("heat");
  const box = h("select", { onchange: (event) => draw(event.target.value), class: "heat-what" },
    h("option", { value: "sparsity", selected: sparse }, "zeros"), h("option", { value: "bits", selected: !sparse }, "bits a weight"));
  return h("div", {}, h("label", { class: "field" }, h("span", {}, "Show"), box), holder);
}

function heatCell(layer, what) {
  if (!layer) return h("span", { class: "cell none" }, "–");
  const [, , weights, zeros, bits] = layer;
  const share = what === "sparsity" ? (weights ? zeros / weights : 0) : Math.min(1, Math.max(0, 1 - (bits - 1) / 31));
  const label = what === "sparsity" ? percent(share) : String(Number(bits.toFixed(2)));
  const strength = Math.round(share * 100);
  return h("span", { class: `cell${strength >= 70 ? " deep" : ""}`, style: { "--heat": `${strength}%` } }, label);
}

/** What was logged more than once: `[stage, name, steps, values]`. */
const curvesOf = (job) => job.stages.flatMap((stage) => (stage.curves ?? []).filter(([, at]) => at.length > 1).map((curve) => [stage.id, ...curve]));

function curveTable(job) {
  const rows = curvesOf(job).map(([stage, name, , values]) => [
    name, stage, String(values.length), maybe(values[0], quality), maybe(values.at(-1), quality),
    maybe(Math.min(...values.filter(Number.isFinite)), quality), maybe(Math.max(...values.filter(Number.isFinite)), quality)]);
  return plainTable(["Curve", "Stage", "Steps", "First", "Last", "Least", "Most"], rows, [2, 3, 4, 5, 6]);
}

/** One plot for each name, one line for each stage. */
function drawCurves(holder) {
  if (!holder.isConnected) return;
  const job = JOBS[Number(holder.dataset.job)];
  const curves = curvesOf(job);
  const names = [...new Set(curves.map(([, name]) => name))];
  const stages = [...new Set(curves.map(([stage]) => stage))];
  holder.replaceChildren();
  const axis = { gridcolor: color("--grid"), linecolor: color("--line"), zeroline: false, tickfont: { size: 11, color: color("--muted") }, automargin: true };
  for (const name of names) {
    const box = h("div", { class: "curve", role: "img", "aria-label": `${words(name)} by step` });
    holder.append(h("figure", {}, h("figcaption", {}, words(name)), box));
    const traces = curves.filter(([, each]) => each === name).map(([stage, , at, values]) => ({
      type: "scatter", mode: "lines", name: plain(stage), x: at, y: values.map((value) => (Number.isFinite(value) ? value : null)),
      line: { width: 2, color: color(`--series-${stages.indexOf(stage) % 8}`) }, hovertemplate: "%{x}: %{y:.5g}",
    }));
    plotly.newPlot(box, traces, {
      height: 200, margin: { l: 4, r: 8, t: 6, b: 4 }, xaxis: { ...axis, title: { text: "step", font: { size: 11, color: color("--muted") } } }, yaxis: { ...axis, nticks: 5 },
      showlegend: stages.length > 1, legend: { orientation: "h", y: 1.2, font: { color: color("--muted") } }, dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: color("--ink") } },
    }, { responsive: true, displayModeBar: false });
  }
}

function environment(job) {
  const said = (value) => (Array.isArray(value) ? value.join(" ") : typeof value === "object" && value !== null ? JSON.stringify(value) : String(value));
  const pairs = (map) => list(Object.entries(map).filter(([, value]) => said(value)).map(([key, value]) => [named(key), key.endsWith("_bytes") && Number.isFinite(Number(value)) ? bytes(Number(value)) : said(value)]));
  const named = (key) => ({ cpu: "CPU", isa: "Instructions", os: "System" })[key] ?? words(key.replace(/_bytes$/, ""));
  const packages = job.packages.map((each) => [each.name,
    `${each.version}${each.commit ? ` @ ${each.commit.slice(0, 12)}` : ""}${each.dirty ? ", with changes that no commit holds" : each.dirty === null ? ", changes unknown" : ""}`]);
  const data = job.data ? [["Data", job.data.name], ...Object.entries(job.data.sizes).map(([split, size]) => [split, plural(size, "sample")])] : [];
  return h("div", { class: "facts" },
    h("div", {}, h("h4", {}, "Hardware"), pairs(job.hardware)), h("div", {}, h("h4", {}, "Settings"), pairs(job.settings)),
    h("div", {}, h("h4", {}, "Libraries"), list(Object.entries(job.versions))), h("div", {}, h("h4", {}, "Packages"), list(packages)),
    data.length > 0 && h("div", {}, h("h4", {}, "Data"), list(data)));
}
