// Throughput against batch: a line for all rows that differ in nothing else, where there are several.

const MOST_LINES = 12;
const batches = {};

function seriesOf(rows) {
  const series = new Map();
  for (const row of rows.filter((each) => each.throughput_per_s !== null)) {
    const name = [row.subject, row.runtime, row.precision, row.conditions, row.machine].join("\n");
    series.set(name, [...(series.get(name) ?? []), row]);
  }
  return [...series.values()]
    .filter((line) => new Set(line.map((row) => row.batch)).size > 1)
    .map((line) => line.sort((a, b) => a.batch - b.batch));
}

function drawBatches(rows) {
  const all = seriesOf(rows);
  const lines = all.slice(0, MOST_LINES);
  if (!lines.length) {
    batches.body.replaceChildren(nothing("None of these models was measured at more than one batch size. Type, for example: bbx bench MODEL --scenario multi"));
    return;
  }
  const [height, left, top] = [320, 56, 24];
  const plot = svg("svg", { height, role: "group", "aria-label": "images per second against batch" });
  const names = runtimes.filter((name) => lines.some(([row]) => row.runtime === name));
  const cut = all.length > lines.length ? nothing(`The first ${lines.length} of ${all.length}; the filters choose others.`) : null;
  batches.body.replaceChildren(...[plot, legend(names, (name) => shape(name, 6, 6)), cut].filter(Boolean));
  const width = plot.getBoundingClientRect().width;
  const flat = lines.flat();
  const sizes = [...new Set(flat.map((row) => row.batch))].sort((a, b) => a - b);
  const right = width - Math.min(150, width * 0.3);
  const x = { ...logScale(sizes[0], sizes.at(-1), left + 8, right), ticks: sizes };
  const [low, high] = extent([flat.map((row) => row.throughput_per_s)]);
  const y = logScale(low / 1.2, high * 1.2, height - 42, top);
  const place = (row) => [x.at(row.batch), y.at(row.throughput_per_s)];
  plot.append(
    ...xAxis(x, height - 34, top, "batch", right),
    ...yAxis(y, left, right, "images/s", top),
    ...lines.map((line) => svg("path", { class: `line ${colourOf(line[0].runtime)}`, d: `M${line.map((row) => place(row).join(",")).join("L")}` })),
    ...flat.map((row) => batchPoint(row, place(row))),
    ...lineLabels(lines, place),
  );
}

function batchPoint(row, [x, y]) {
  const mark = shape(row.runtime, x, y, { class: row.grade === "valid" ? "" : "hollow" });
  mark.append(svg("title", {}, `${nameOf(row)}: ${significant(row.throughput_per_s)} images/s, ${row.verdict}`));
  mark.addEventListener("click", () => reveal(row));
  return mark;
}

const lineName = (row) => (isPlain(row) || row.conditions === "multi" ? row.subject : `${row.subject}, ${row.conditions}`);

// Names at the lines' ends, moved apart where the ends are close.
function lineLabels(lines, place) {
  const ends = lines.map((line) => ({ name: lineName(line[0]), at: place(line.at(-1)) })).sort((a, b) => a.at[1] - b.at[1]);
  let below = -Infinity;
  return ends.map(({ name, at: [x, y] }) => {
    below = Math.max(y + 4, below + 13);
    return svg("text", { x: x + 9, y: below }, name.length > 22 ? `${name.slice(0, 21)}…` : name);
  });
}

function buildBatches() {
  batches.body = caption("batches", "Throughput against batch", "Both axes are logarithmic. Hollow points are not valid.");
}
