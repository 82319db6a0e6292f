// Data: the points of the report as columns, what each metric is called, and how it is written.

const DATA = JSON.parse(byId("data").textContent);
const COUNT = DATA.points.id.length;
const POINTS = Array.from({ length: COUNT }, (_, index) => index);

const text = (column, i) => DATA.strings[DATA.points[column][i]];
const reasons = (i) => DATA.points.reasons[i].map((each) => DATA.strings[each]);
/** The number of a metric, or NaN where there is none. */
function num(name, i) {
  const value = DATA.metrics[name]?.[i];
  return Number.isFinite(value) ? value : NaN;
}
/** Both ends of a metric's interval, or null. */
function ends(name, i) {
  const stem = name === "latency_ms_p50" ? "latency_ms_ci" : `${name}_ci`;
  const low = num(`${stem}_low`, i);
  const high = num(`${stem}_high`, i);
  return Number.isFinite(low) && Number.isFinite(high) ? [low, high] : null;
}
const has = (name) => (DATA.metrics[name] ?? []).some(Number.isFinite);

const METRICS = {
  size_bytes: { label: "Size", better: "less", write: bytes, log: true, suffix: "B" },
  latency_ms_p50: { label: "Median latency", unit: "ms", better: "less", write: milliseconds, log: true },
  latency_ms_p90: { label: "90 % latency", unit: "ms", better: "less", write: milliseconds, log: true },
  latency_ms_p99: { label: "99 % latency", unit: "ms", better: "less", write: milliseconds, log: true },
  throughput_per_s: { label: "Throughput", unit: "samples/s", better: "more", write: amount, log: true },
  speedup: { label: "Speed-up", unit: "×", better: "more", write: ratio },
  size_ratio: { label: "Times smaller", unit: "×", better: "more", write: ratio },
  macs: { label: "MACs", better: "less", write: amount, log: true },
  nonzero_params: { label: "Nonzero weights", better: "less", write: amount, log: true },
  params: { label: "Weights", better: "less", write: amount, log: true },
  sparsity: { label: "Zeros", better: "more", write: percent },
  peak_memory_bytes: { label: "Peak memory", better: "less", write: bytes, log: true, suffix: "B" },
  model_memory_bytes: { label: "Memory of the model", better: "less", write: bytes, log: true, suffix: "B" },
  load_ms: { label: "Time to load", unit: "ms", better: "less", write: milliseconds, log: true },
  energy_mj_per_query: { label: "Energy", unit: "mJ", better: "less", write: milliseconds, log: true },
  seconds: { label: "Time to make", unit: "s", better: "less", write: seconds, log: true },
};
const MORE = /accuracy|f1|auc|precision|recall|score|bleu|rouge|map$|iou|r2/;
const LESS = /loss|error|perplexity|wer$|mae$|mse$/;

/** What is known of a metric; `better` is "" where nobody knows which way is better. */
function about(name) {
  if (name === DATA.metric) {
    return { label: words(name), better: DATA.greater ? "more" : "less", write: quality };
  }
  if (METRICS[name]) return METRICS[name];
  if (name === `val_${DATA.metric}`) return { label: `${words(DATA.metric)}, validation`, better: DATA.greater ? "more" : "less", write: quality };
  const better = MORE.test(name) ? "more" : LESS.test(name) ? "less" : "";
  return { label: words(name), better, write: better ? quality : amount };
}
function words(name) {
  const spaced = name.replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

/** What the axes may show: metrics that some point has, and of which a direction is known. */
const AXES = [DATA.metric, ...Object.keys(METRICS), ...Object.keys(DATA.metrics)]
  .filter((name, index, all) => all.indexOf(name) === index && !/_ci_(low|high)$/.test(name))
  .filter((name) => has(name) && about(name).better);

function written(name, i) {
  const raw = DATA.metrics[name]?.[i];
  if (raw === null || raw === undefined) return "";
  if (!Number.isFinite(raw)) return String(raw);
  const { write } = about(name);
  const interval = ends(name, i);
  return interval ? `${write(raw)} [${bare(write(interval[0]))}, ${bare(write(interval[1]))}]` : write(raw);
}

const bare = (value) => value.replace("×", "");

function bytes(value) {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= factor) return `${(value / factor).toFixed(value / factor >= 100 ? 0 : 1)} ${unit}`;
  }
  return `${Math.round(value)} B`;
}
function milliseconds(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 1 ? value.toFixed(2) : size >= 1e-4 ? value.toFixed(4) : value.toExponential(2);
}
function amount(value) {
  for (const [unit, factor] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(value) >= factor) return `${Number((value / factor).toPrecision(3))} ${unit}`;
  }
  return String(Number(value.toPrecision(4)));
}
function ratio(value) {
  return `${value.toFixed(2)}×`;
}
function percent(value) {
  return `${(value * 100).toFixed(1)} %`;
}
function quality(value) {
  return Math.abs(value) < 1000 ? value.toFixed(4) : amount(value);
}
function seconds(value) {
  return value < 120 ? `${value.toFixed(1)} s` : value < 7200 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** A title in short: `stages.prune.sparsity=0.9` as `sparsity=0.9`. */
function short(title, most = 400) {
  return clip(title.replace(/(^|\s)[+~]*(?:[\w@/]+\.)+([\w/]+=)/g, "$1$2"), most);
}
const clip = (value, most) => (value.length > most ? `${value.slice(0, most - 1)}…` : value);
function circumstances(i) {
  if (!text("backend", i)) return "";
  const { threads, batch_size: batch } = DATA.points;
  const scenario = text("scenario", i).replaceAll("_", " ");
  return [plural(threads[i], "thread"), `batch ${batch[i]}`, scenario].filter(Boolean).join(" · ");
}
const backendOf = (i) => text("backend", i) || "not measured";
const distinct = (values) => [...new Set(values)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));

const BACKENDS = distinct(POINTS.filter((i) => text("backend", i)).map((i) => text("backend", i)));
if (POINTS.some((i) => !text("backend", i))) BACKENDS.push("not measured");
const FORMATS = distinct(POINTS.map((i) => text("format", i)).filter(Boolean));
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x"];
const GLYPHS = ["●", "■", "◆", "▲", "✚", "★", "⬢", "✖"];
const formatIndex = (i) => Math.max(0, FORMATS.indexOf(text("format", i))) % SYMBOLS.length;
/** The colour of a backend, by its variable: Okabe and Ito's, which people with any colour vision tell apart. */
const series = (backend) => (backend === "not measured" ? "--series-none" : `--series-${BACKENDS.indexOf(backend) % 8}`);
const swatch = (backend) => h("span", { class: "swatch", style: { background: `var(${series(backend)})` } });
