// DOM: small helpers. Text from data only ever becomes text nodes and attributes, never markup.

const byId = (id) => document.getElementById(id);

/** Make an element: `h("td", {class: "num", onclick: f}, "text", child)`. */
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element likewise. */
function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([k, v]) => element.style.setProperty(k, v));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** A select with its label; `options` are `[value, text]`. */
function select(id, label, options, value, onchange) {
  const box = h("select", { id, onchange: (event) => onchange(event.target.value) },
    options.map(([each, text]) => h("option", { value: each, selected: each === value }, text)));
  return h("label", { class: "field", for: id }, h("span", {}, label), box);
}

function checkbox(id, label, checked, onchange) {
  const box = h("input", { id, type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) });
  return h("label", { class: "check", for: id }, box, h("span", {}, label));
}

/** A command in a box with a button that copies it. */
function commandBox(command) {
  const code = h("code", { tabindex: "0" }, command);
  const button = h("button", { type: "button", class: "quiet copy" }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copy(command, code);
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    announce(done ? "The command is copied." : "The command is selected; press Control C to copy it.");
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return h("div", { class: "command" }, code, button);
}

/** Copy a text; where the clipboard is not allowed, as in a sandboxed frame, select it at least. */
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    try {
      return document.execCommand("copy");
    } catch {
      return false;
    }
  }
}

function announce(text) {
  byId("announcer").textContent = text;
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const show = (element, node = "nearest") =>
  element.scrollIntoView({ block: node, inline: "nearest", behavior: calm() ? "auto" : "smooth" });

const colors = new Map();
/** A colour of the style sheet as a value, for what can't read variables: plotly and the canvas. */
function color(name) {
  // asking the browser makes it lay the page out anew: once a theme is enough
  if (!colors.has(name)) colors.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colors.get(name);
}

/** Unpack base64 of gzip to text. */
async function unpack(id) {
  const raw = byId(id).textContent;
  const bytes = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(raw)
    : Uint8Array.from(atob(raw), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
