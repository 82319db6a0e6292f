// Axes: their ranges, and round numbers on them, in the metric's own units.

function plotLayout() {
  const narrow = byId("plot-frame").clientWidth < 560;
  const axis = (name, log) => {
    const { better, suffix, write } = about(name);
    const share = write === percent;
    const range = zoomed(name) ?? extent(name, log);
    return {
      title: { text: plain(`${unitLabel(name)}  (${better === "more" ? "more" : "less"} is better)`), font: { size: 13, color: color("--muted") }, standoff: 12 },
      type: log ? "log" : "linear",
      tickformat: share ? ".0%" : suffix || write === amount ? "~s" : undefined,
      ticksuffix: suffix ?? "",
      range,
      ...(log ? { tickmode: "array", ...logTicks(name, range, narrow) } : { nticks: narrow ? 5 : 9 }),
      gridcolor: color("--grid"), linecolor: color("--line"), zeroline: false, ticks: "outside", tickcolor: color("--line"), ticklen: 4,
      tickfont: { size: 12, color: color("--muted") }, automargin: true,
    };
  };
  return {
    height: narrow ? 360 : 500,
    margin: { l: narrow ? 8 : 16, r: narrow ? 10 : 24, t: 14, b: 8 },
    xaxis: axis(state.x, state.logX),
    yaxis: axis(state.y, state.logY),
    showlegend: false,
    hovermode: false,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--muted"), activecolor: color("--accent") },
    font: { family: getComputedStyle(document.body).fontFamily, color: color("--ink") },
  };
}

/** The axis' range, in powers of ten on a logarithmic one, with room for names and error bars. */
function extent(name, log) {
  const at = log ? Math.log10 : (value) => value;
  let [low, high] = [Infinity, -Infinity];
  const bars = view.drawn.length <= 400;
  for (const i of view.drawn) {
    const value = num(name, i);
    const [from, to] = (bars && (view.leads.has(i) || view.drawn.length <= 150) && ends(name, i)) || [value, value];
    low = Math.min(low, at(log && from <= 0 ? value : from));
    high = Math.max(high, at(to));
  }
  if (low > high) return undefined;
  const room = high > low ? (high - low) * 0.08 : (log ? 0.3 : Math.abs(high) * 0.1 || 1);
  return [low - room, high + room];
}

/** Where the user zoomed to, as long as the axes stay what they were. */
let zoom = null;
const axesKey = () => [state.x, state.y, state.logX, state.logY].join();
const zoomed = (name) => (zoom?.key === axesKey() ? (name === state.x ? zoom.x : zoom.y) : null);

function keepZoom(change) {
  if (!Object.keys(change).some((key) => /^[xy]axis\.(range|autorange)/.test(key))) return;
  const { xaxis, yaxis } = byId("frontier")._fullLayout;
  zoom = { key: axesKey(), x: [...xaxis.range], y: [...yaxis.range] };
  hideCard();
  renderPlot();
}

function showAll() {
  zoom = null;
  hideCard();
  renderPlot();
}

/** Round numbers on a logarithmic axis, about as many as there is room for. */
function logTicks(name, range, narrow) {
  if (!range) return {};
  const [low, high] = [10 ** range[0], 10 ** range[1]];
  const wanted = narrow ? 4 : 8;
  const series = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]];
  let values = [];
  for (const digits of series) {
    const next = [];
    for (let power = Math.floor(range[0]); power <= Math.ceil(range[1]); power += 1) {
      next.push(...digits.map((digit) => digit * 10 ** power).filter((value) => value >= low && value <= high));
    }
    if (values.length >= 3 && next.length > wanted) break;
    values = next;
    if (values.length >= wanted) break;
  }
  if (values.length < 3) values = [0.08, 0.36, 0.64, 0.92].map((part) => Number((10 ** (range[0] + part * (range[1] - range[0]))).toPrecision(3)));
  const { write } = about(name);
  return { tickvals: values, ticktext: values.map((value) => plain(tick(write(value)))) };
}
/** `20.0 kB` as `20 kB`, `0.0500` as `0.05`. */
const tick = (label) => label.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
