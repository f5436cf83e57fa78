// Data, formats and building blocks. Text reaches the page by textContent and attributes only.

const report = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const NONE = "–";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

// Numbers as the Markdown report has them: so many significant digits, never in scientific notation.
function significant(value, digits = 4) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  return value.toFixed(Math.min(20, Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))))));
}

const ms = (ns, digits = 4) => (ns === null || ns === undefined ? NONE : significant(ns / 1e6, digits));
const mib = (bytes) => (bytes === undefined || bytes === null ? NONE : significant(bytes / 2 ** 20, 3));
const percent = (share) => `${share >= 0 ? "+" : "−"}${Math.abs(share * 100).toFixed(1)} %`;
const count = (number) => number.toLocaleString("en");

// One request at a time from where the runtime wants it is what a row is unless it says otherwise.
const PLAIN = "single";
const isPlain = (row) => row.conditions === PLAIN;

function waysOf(row) {
  const ways = `${row.runtime} · ${row.precision} · batch ${row.batch}`;
  return isPlain(row) ? ways : `${ways} · ${row.conditions}`;
}

function nameOf(row) {
  return `${row.subject} · ${waysOf(row)}`;
}

// The samples of a row in nanoseconds, in the order taken; decoded when they are first asked for.
const decoded = new Map();
function samplesOf(row) {
  if (!row.trace) return new Float64Array(0);
  if (!decoded.has(row)) {
    const bytes = atob(row.trace.levels);
    const samples = new Float64Array(bytes.length / 2);
    for (let i = 0; i < samples.length; i++) {
      const level = bytes.charCodeAt(2 * i) + 256 * bytes.charCodeAt(2 * i + 1);
      samples[i] = row.trace.low + level * row.trace.step;
    }
    decoded.set(row, samples);
  }
  return decoded.get(row);
}

// Each runtime has a colour and a shape, so that neither has to be told apart alone.
const runtimes = [...new Set(report.rows.map((row) => row.runtime))];
const colourOf = (runtime) => `c${runtimes.indexOf(runtime) % 8}`;

function shape(runtime, x, y, attributes = {}) {
  const r = 4;
  const paths = [
    `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    `M${x},${y - 5}l5,5l-5,5l-5,-5Z`,
    `M${x},${y - 5}l5,9h-10Z`,
    `M${x},${y + 5}l5,-9h-10Z`,
  ];
  const path = paths[runtimes.indexOf(runtime) % paths.length];
  return svg("path", { ...attributes, d: path, class: `mark ${colourOf(runtime)} ${attributes.class || ""}` });
}

function legend(names, mark) {
  const items = names.map((name) => el("li", {}, svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, mark(name)), name));
  return el("ul", { class: "legend" }, ...items);
}

// Scales give a position for a value; `ticks` are values a person would choose.
// Nothing at or below zero has a logarithm: such a value stands at the lower end.
function logScale(least, most, from, to) {
  const low = least > 0 ? least : Math.max(most, 1) * 1e-6;
  const high = most > low ? most : low * 1.1;
  const [a, b] = [Math.log(low), Math.log(high)];
  const at = (value) => from + ((Math.log(Math.max(value, low)) - a) / (b - a)) * (to - from);
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const room = Math.max(2, Math.floor(Math.abs(to - from) / 45));
  return { at, ticks: inside.length <= room ? inside : inside.filter((tick) => /^1/.test(tick.toExponential())) };
}

function linearScale(low, high, from, to) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / Math.max(2, Math.floor(Math.abs(to - from) / 70));
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) ticks.push(tick);
  return { at: (value) => from + ((value - low) / span) * (to - from), ticks };
}

// A tick's label without trailing noise of binary fractions; small numbers as a power of ten.
function tickText(value) {
  const plain = Number(value.toPrecision(6));
  if (plain === 0 || Math.abs(plain) >= 1e-3) return String(plain);
  const [digits, power] = plain.toExponential().split("e-");
  const raised = [...power].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  return `${digits === "1" ? "" : `${digits}·`}10⁻${raised}`;
}

function xAxis(scale, y, top, label, right) {
  const marks = scale.ticks.flatMap((tick) => [
    svg("line", { class: "grid", x1: scale.at(tick), x2: scale.at(tick), y1: top, y2: y }),
    svg("text", { x: scale.at(tick), y: y + 14, "text-anchor": "middle" }, tickText(tick)),
  ]);
  return [...marks, svg("text", { x: right, y: y + 29, "text-anchor": "end" }, label)];
}

function yAxis(scale, left, right, label, top) {
  const marks = scale.ticks.flatMap((tick) => [
    svg("line", { class: "grid", x1: left, x2: right, y1: scale.at(tick), y2: scale.at(tick) }),
    svg("text", { x: left - 6, y: scale.at(tick) + 4, "text-anchor": "end" }, tickText(tick)),
  ]);
  return [...marks, svg("text", { x: 0, y: top - 8 }, label)];
}

// A figure's caption stays; what is drawn below it is replaced at every change.
function caption(id, title, text, ...controls) {
  const figure = byId(id);
  const body = el("div", { class: "body" });
  figure.append(el("figcaption", {}, el("b", {}, title), el("p", {}, text), ...controls), body);
  return body;
}

const nothing = (text) => el("p", { class: "aside" }, text);

function chooser(label, options, change) {
  const select = el("select", {}, ...options.map(([value, text]) => el("option", { value }, text)));
  select.addEventListener("change", () => change(select.value));
  return el("label", {}, label, select);
}

function onCanvas(canvas, draw) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  draw(context, width, height);
}

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
