// Time by phase, for rows that were measured so: stacked in the order in which the phases happen.

const PHASES = ["pre", "h2d", "compute", "d2h", "post"];
// Of these one is the frame of all, and one is host time while the device computes.
const NOT_STACKED = ["end_to_end", "enqueue"];
const MOST_BARS = 40;
const phases = {};

// Phases that are not among the known ones stand behind them.
function phasesOf(rows) {
  const found = new Set(rows.flatMap((row) => Object.keys(row.phases_ns)));
  const known = PHASES.filter((name) => found.has(name));
  return [...known, ...[...found].filter((name) => !PHASES.includes(name) && !NOT_STACKED.includes(name))];
}

const lengthOf = (row, name) => row.phases_ns[name]?.median ?? 0;

function drawPhases(rows) {
  const shown = rows.filter((row) => row.phases_ns).slice(0, MOST_BARS);
  const names = phasesOf(shown);
  const total = (row) => names.reduce((sum, name) => sum + lengthOf(row, name), 0);
  const [pitch, left] = [24, 4];
  const height = shown.length * pitch + 36;
  const plot = svg("svg", { height, role: "group", "aria-label": "time by phase" });
  phases.body.replaceChildren(plot, legend(names, (name) => svg("rect", { width: 11, height: 11, class: `c${names.indexOf(name) % 8}` })));
  const width = plot.getBoundingClientRect().width;
  const most = Math.max(...shown.map(total), 1);
  const x = linearScale(0, most / 1e6, left, width - 10);
  plot.append(...xAxis(x, height - 34, 0, "ms", width));
  shown.forEach((row, i) => {
    let start = 0;
    for (const name of names) {
      const long = lengthOf(row, name);
      const bar = svg("rect", { x: x.at(start / 1e6), y: i * pitch + 13, width: Math.max(0, x.at(long / 1e6) - left - 0.5), height: 8, class: `c${names.indexOf(name) % 8}` });
      bar.append(svg("title", {}, `${nameOf(row)}, ${name}: ${ms(long)} ms`));
      plot.append(bar);
      start += long;
    }
    plot.append(svg("text", { x: left, y: i * pitch + 10, class: "strong" }, `${nameOf(row)}: ${ms(total(row))} ms`));
  });
}

function buildPhases() {
  const measured = report.rows.some((row) => row.phases_ns);
  byId("phases").hidden = !measured;
  phases.body = caption("phases", "Time by phase", "Medians of the phases, stacked in the order in which they happen. What the host spends on enqueueing overlaps with computing, and stands in the row.");
}
