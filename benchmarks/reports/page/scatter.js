// Accuracy against latency, or where no row has an accuracy, distance from the reference against latency.

const DISTANCE = "distance from the reference";
const scatter = { measure: null };

function measures() {
  const named = new Set(report.rows.flatMap((row) => Object.keys(row.accuracy ?? {})));
  const distance = report.rows.some((row) => row.distance !== null);
  return [...named, ...(distance ? [DISTANCE] : [])];
}

const qualityOf = (row) => (scatter.measure === DISTANCE ? row.distance : row.accuracy?.[scatter.measure] ?? null);
const smallerIsBetter = () => scatter.measure === DISTANCE;

// Rows that no other valid row beats in both, from the fastest on.
function paretoFront(rows) {
  const sign = smallerIsBetter() ? 1 : -1;
  const sorted = [...rows].sort((a, b) => a.latency.median - b.latency.median || sign * (qualityOf(a) - qualityOf(b)));
  const front = [];
  for (const row of sorted) {
    if (!front.length || sign * (qualityOf(row) - qualityOf(front.at(-1))) < 0) front.push(row);
  }
  return front;
}

// A distance of nothing has no logarithm; it gets a line of its own below the smallest one.
function qualityScale(values, bottom, top) {
  if (!smallerIsBetter()) {
    const [low, high] = extent([values]);
    const margin = (high - low || 0.01) * 0.08;
    return linearScale(low - margin, high + margin, bottom, top);
  }
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return { at: () => bottom, ticks: [0] };
  const [low, high] = extent([positive]);
  const zero = values.length > positive.length;
  const inner = logScale(low / 1.5, high * 1.5, zero ? bottom - 22 : bottom, top);
  return { at: (value) => (value > 0 ? inner.at(value) : bottom), ticks: zero ? [0, ...inner.ticks] : inner.ticks };
}

function drawQuality(rows) {
  const shown = rows.filter((row) => row.latency && qualityOf(row) !== null);
  if (!shown.length) {
    scatter.body.replaceChildren(nothing("None of these rows has an accuracy, or was compared with a reference."));
    return;
  }
  const [height, left, top] = [320, 56, 24];
  const plot = svg("svg", { height, role: "group", "aria-label": `${scatter.measure} against median latency` });
  const names = runtimes.filter((name) => shown.some((row) => row.runtime === name));
  scatter.body.replaceChildren(plot, legend(names, (name) => shape(name, 6, 6)));
  const width = plot.getBoundingClientRect().width;
  const [low, high] = extent([shown.map((row) => row.latency.median / 1e6)]);
  const x = logScale(low / 1.15, high * 1.15, left, width - 10);
  const y = qualityScale(shown.map(qualityOf), height - 42, top);
  const place = (row) => [x.at(row.latency.median / 1e6), y.at(qualityOf(row))];
  const front = paretoFront(shown.filter((row) => row.grade === "valid"));
  plot.append(
    ...xAxis(x, height - 34, top, "median latency, ms", width),
    ...yAxis(y, left, width - 10, scatter.measure, top),
    svg("path", { class: "front", d: steps(front.map(place)) }),
    ...shown.map((row) => point(row, place(row))),
    ...frontLabels(front, place, width),
  );
}

function point(row, [x, y]) {
  const mark = shape(row.runtime, x, y, { class: row.grade === "valid" ? "" : "hollow" });
  const said = `${nameOf(row)}: ${ms(row.latency.median)} ms, ${scatter.measure} ${qualityOf(row).toPrecision(4)}, ${row.verdict}`;
  mark.append(svg("title", {}, said));
  mark.addEventListener("click", () => reveal(row));
  return mark;
}

const steps = (points) => points.map(([x, y], i) => (i ? `H${x}V${y}` : `M${x},${y}`)).join("");

// Names of the front's rows, as long as they do not run into each other.
function frontLabels(front, place, width) {
  const taken = [];
  return front.flatMap((row) => {
    const [x, y] = place(row);
    const size = row.subject.length * 6.2;
    const toLeft = x + size + 10 > width;
    const box = { name: row.subject, left: toLeft ? x - size - 8 : x + 8, right: toLeft ? x - 8 : x + size + 8, y };
    const clash = taken.some((each) => Math.abs(each.y - box.y) < 13 && each.left < box.right && box.left < each.right);
    if (clash || box.left < 56 || taken.at(-1)?.name === row.subject) return [];
    taken.push(box);
    return [svg("text", { class: "strong", x: toLeft ? x - 8 : x + 8, y: y - 5, "text-anchor": toLeft ? "end" : "start" }, row.subject)];
  });
}

function buildQuality() {
  const known = measures();
  scatter.measure = known[0] ?? DISTANCE;
  const accuracy = scatter.measure !== DISTANCE;
  const pick = chooser("measure", known.map((name) => [name, name]), (value) => {
    scatter.measure = value;
    refresh();
  });
  scatter.body = caption("quality", accuracy ? "Accuracy against latency" : "Fidelity against latency",
    accuracy
      ? "The line is the Pareto front of the valid rows: none is both faster and better. Hollow rows are not valid."
      : "No row has an accuracy, so this is how far its answers are from the reference’s: relative L2, or of detections the share without a match. The line is the Pareto front of the valid rows.",
    known.length > 1 ? el("form", {}, pick) : null);
}
