// Every sample as a dot: one strip a row, and in a row's detail the samples in the order they were taken.

const MOST_STRIPS = 40;
const BEYOND = [0.8, 1.6];
const strips = { scale: "relative", most: MOST_STRIPS, observer: null };

function describe(row) {
  const samples = samplesOf(row);
  const [low, high] = extent([samples]);
  return `${nameOf(row)}: ${count(samples.length)} samples from ${ms(low)} to ${ms(high)} ms, median ${ms(row.latency.median)} ms`;
}

function extent(lists) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists) for (const value of list) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function drawLatency(rows) {
  const body = strips.body;
  strips.observer?.disconnect();
  const shown = rows.filter((row) => row.trace);
  if (!shown.length) {
    body.replaceChildren(nothing("None of these rows has samples."));
    return;
  }
  const drawn = shown.slice(0, strips.most);
  const grid = el("div", { class: "strips" });
  const canvases = drawn.map((row) => [el("canvas", { role: "img", "aria-label": describe(row) }), row]);
  for (const [canvas, row] of canvases) grid.append(el("span", { class: row.grade, title: nameOf(row) }, nameOf(row)), canvas);
  const axis = svg("svg", { height: 34, "aria-hidden": "true" });
  grid.append(axis);
  body.replaceChildren(grid, ...moreStrips(shown.length));
  const width = axis.getBoundingClientRect().width;
  const scale = stripScale(drawn, width);
  axis.append(...xAxis(scale, 4, 0, scale.label, width));
  drawWhenSeen(canvases, scale);
}

function stripScale(rows, width) {
  if (strips.scale === "relative") {
    const scale = linearScale(BEYOND[0], BEYOND[1], 4, width - 4);
    return { ...scale, of: (row) => row.latency.median, label: "times the row’s median; runs beyond the scale stand at its ends" };
  }
  const [low, high] = extent(rows.map(samplesOf));
  return { ...logScale(low / 1e6, high / 1e6, 4, width - 4), of: () => 1e6, label: "ms" };
}

// Thousands of dots a strip: those out of sight are drawn when they come into it.
function drawWhenSeen(canvases, scale) {
  const rows = new Map(canvases);
  strips.observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      drawStrip(entry.target, rows.get(entry.target), scale);
      strips.observer.unobserve(entry.target);
    }
  }, { rootMargin: "200px" });
  for (const [canvas] of canvases) strips.observer.observe(canvas);
}

function drawStrip(canvas, row, scale) {
  onCanvas(canvas, (context, width, height) => {
    const unit = scale.of(row);
    const place = (ns) => Math.max(2, Math.min(width - 2, scale.at(ns / unit)));
    const samples = samplesOf(row);
    context.fillStyle = ink("--rule");
    context.fillRect(0, height - 1, width, 1);
    context.fillStyle = ink(`--${colourOf(row.runtime)}`);
    context.globalAlpha = Math.max(0.12, Math.min(0.8, 60 / Math.sqrt(samples.length * 20)));
    samples.forEach((sample, i) => {
      // The golden ratio spreads neighbours evenly over the height, the same at every drawing.
      const y = 3 + ((i * 0.618034) % 1) * (height - 8);
      context.fillRect(place(sample) - 0.9, y, 1.8, 1.8);
    });
    context.globalAlpha = 1;
    context.fillStyle = ink("--ink");
    context.fillRect(place(row.latency.median) - 0.75, 1, 1.5, height - 3);
    if (row.latency.p99) context.fillRect(place(row.latency.p99) - 0.5, height / 2 - 3, 1, 6);
  });
}

function moreStrips(there) {
  if (there <= strips.most) return [];
  const button = el("button", { type: "button", class: "plain" }, `Show ${Math.min(MOST_STRIPS, there - strips.most)} more of ${there}`);
  button.addEventListener("click", () => {
    strips.most += MOST_STRIPS;
    refresh();
  });
  return [el("p", { class: "more" }, button)];
}

function drawInOrder(canvas, row) {
  onCanvas(canvas, (context, width, height) => {
    const samples = samplesOf(row);
    const [low, high] = extent([samples]);
    const y = linearScale(low, high, height - 8, 8);
    const x = (i) => 58 + (i / Math.max(1, samples.length - 1)) * (width - 66);
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [value, text] of [[low, ms(low)], [high, ms(high)]]) {
      context.fillStyle = ink("--quiet");
      context.fillText(text, 50, y.at(value));
      context.fillStyle = ink("--rule");
      context.fillRect(56, y.at(value), width - 56, 1);
    }
    context.fillStyle = ink("--doubt");
    context.fillRect(56, y.at(row.latency.median), width - 56, 1);
    context.fillStyle = ink(`--${colourOf(row.runtime)}`);
    context.globalAlpha = samples.length > 1500 ? 0.4 : 0.8;
    samples.forEach((sample, i) => context.fillRect(x(i) - 1, y.at(sample) - 1, 2, 2));
  });
}

function buildLatency() {
  const pick = chooser("scale", [["relative", "relative to the median"], ["ms", "milliseconds"]], (value) => {
    strips.scale = value;
    refresh();
  });
  strips.body = caption("latency", "Latency, every sample",
    "A dot is one inference, the tall mark the median, the short one p99. In the order of the table.", el("form", {}, pick));
}
