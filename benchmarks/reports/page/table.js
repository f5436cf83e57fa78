// The table: one row a measurement, sorted by its headers, each opened by its name.

const several = (name) => new Set(report.rows.map((row) => row[name])).size > 1;
const latency = (name) => (row) => (row.latency ? row.latency[name] : null);

// `value` is what a column sorts by; null stands last in either direction.
const COLUMNS = [
  { title: "model", value: (row) => row.subject, cell: nameCell, header: true },
  { title: "runtime", value: (row) => row.runtime, class: "mid" },
  { title: "precision", value: (row) => row.precision, class: "mid" },
  { title: "batch", value: (row) => row.batch, class: "number mid" },
  { title: "conditions", value: (row) => row.conditions, class: "mid", only: () => !report.rows.every(isPlain) },
  { title: "median, ms", value: latency("median"), cell: medianCell, class: "number figures median" },
  { title: "verdict", value: (row) => row.verdict, cell: (row) => row.verdict.replace("_", " "), class: "grade" },
  { title: "p90, ms", value: latency("p90"), cell: (row) => ms(latency("p90")(row)), class: "number figures wide" },
  { title: "p99, ms", value: latency("p99"), cell: (row) => ms(latency("p99")(row)), class: "number figures wide" },
  { title: "spread", value: relativeSpread, cell: sparkline, class: "wide", hint: "0.8 to 1.6 times the median" },
  { title: "images/s", value: (row) => row.throughput_per_s, cell: (row) => rate(row), class: "number figures mid" },
  { title: "memory, MiB", value: (row) => row.peak_bytes, cell: (row) => mib(row.peak_bytes), class: "number figures wide" },
  { title: "parity", value: (row) => row.parity, class: "mid" },
  { title: "change", value: (row) => row.change && row.change.ratio, cell: changeCell, class: "number", only: () => report.rows.some((row) => row.change) },
  { title: "machine", value: (row) => report.machines[row.machine].name, class: "mid", only: () => several("machine") },
].filter((column) => !column.only || column.only());

function rate(row) {
  return row.throughput_per_s === null ? NONE : significant(row.throughput_per_s);
}

function nameCell(row) {
  const button = el("button", { type: "button", "aria-expanded": "false" }, row.subject);
  button.addEventListener("click", () => toggle(row));
  const machine = several("machine") ? ` · ${report.machines[row.machine].name}` : "";
  const rest = `${waysOf(row)}${machine}`;
  const cell = el("span", {}, button, row.random ? el("small", { class: "below" }, "random weights") : null);
  cell.append(el("small", { class: "narrow" }, rest));
  return cell;
}

function medianCell(row) {
  if (!row.latency) return NONE;
  const interval = row.latency.ci95;
  const text = interval ? `${ms(interval[0])} – ${ms(interval[1])}` : "no interval";
  return el("span", {}, ms(row.latency.median), el("small", {}, text));
}

function changeCell(row) {
  if (!row.change) return NONE;
  const [low, high] = row.change.ci95.map((ratio) => percent(ratio - 1));
  return el("span", { class: row.change.verdict, title: `95 % interval ${low} to ${high}` }, `${percent(row.change.ratio - 1)} ${row.change.verdict}`);
}

function relativeSpread(row) {
  return row.latency && row.latency.iqr !== undefined ? row.latency.iqr / row.latency.median : null;
}

// How the runs lie about their median, on one scale for all rows, so that a quiet row looks quiet.
function sparkline(row) {
  const samples = samplesOf(row);
  if (!samples.length) return NONE;
  const [bins, low, high] = [38, 0.8, 1.6];
  const counts = new Array(bins).fill(0);
  for (const sample of samples) {
    const place = ((sample / row.latency.median - low) / (high - low)) * bins;
    counts[Math.max(0, Math.min(bins - 1, Math.floor(place)))] += 1;
  }
  const most = Math.max(...counts);
  // The root lifts rare runs into sight.
  const steps = counts.map((n, i) => `V${20 - 20 * Math.sqrt(n / most)}H${2 * (i + 1)}`).join("");
  const label = `spread of ${count(samples.length)} runs`;
  return svg("svg", { class: "spark", viewBox: "0 0 76 20", role: "img", "aria-label": label },
    svg("line", { x1: 0, x2: 76, y1: 20, y2: 20 }), svg("path", { d: `M0,20${steps}V20Z` }));
}

const table = { lines: new Map(), body: el("tbody"), heads: [], column: null, direction: 1 };

function buildTable() {
  table.heads = COLUMNS.map((column) => {
    const button = el("button", { type: "button", title: column.hint }, column.title);
    const head = el("th", { scope: "col", class: column.class }, button);
    button.addEventListener("click", () => sortBy(column));
    return head;
  });
  for (const row of report.rows) table.lines.set(row, { line: buildLine(row), detail: null });
  byId("rows").append(el("table", {}, el("thead", {}, el("tr", {}, ...table.heads)), table.body));
}

function buildLine(row) {
  const cells = COLUMNS.map((column) => {
    const content = column.cell ? column.cell(row) : column.value(row) ?? NONE;
    return el(column.header ? "th" : "td", { class: column.class, scope: column.header ? "row" : null }, content);
  });
  return el("tr", { class: `row ${row.grade}` }, ...cells);
}

function sortBy(column) {
  table.direction = table.column === column ? -table.direction : 1;
  table.column = column;
  COLUMNS.forEach((each, i) => {
    if (each === column) table.heads[i].setAttribute("aria-sort", table.direction > 0 ? "ascending" : "descending");
    else table.heads[i].removeAttribute("aria-sort");
  });
  refresh();
}

function inOrder(rows) {
  if (!table.column) return rows;
  const { value } = table.column;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  return [...rows].sort((one, other) => {
    const [a, b] = [value(one) ?? null, value(other) ?? null];
    if (a === null || b === null) return (a === null) - (b === null);
    return table.direction * compare(a, b);
  });
}

function showLines(rows) {
  const lines = rows.flatMap((row) => {
    const { line, detail } = table.lines.get(row);
    return detail ? [line, detail] : [line];
  });
  table.body.replaceChildren(...lines);
  rows.forEach(drawDetail);
}

function drawDetail(row) {
  table.lines.get(row).detail?.querySelectorAll("canvas").forEach((canvas) => drawInOrder(canvas, row));
}

function toggle(row) {
  const entry = table.lines.get(row);
  const opened = !entry.detail;
  if (opened) {
    entry.detail = el("tr", { class: "detail" }, el("td", { colspan: COLUMNS.length }, detailOf(row)));
    entry.line.after(entry.detail);
    drawDetail(row);
  } else {
    entry.detail.remove();
    entry.detail = null;
  }
  entry.line.querySelector("button").setAttribute("aria-expanded", String(opened));
}

// Opens a row from a chart.
function reveal(row) {
  const entry = table.lines.get(row);
  if (!entry.detail) toggle(row);
  entry.line.scrollIntoView({ block: "center" });
  entry.line.querySelector("button").focus();
}

function detailOf(row) {
  const reasons = row.reasons.map((reason) =>
    el("p", { class: "reason" }, el("b", {}, `${reason.verdict}: `), `${reason.text} `, el("small", {}, reason.remedy)));
  const facts = factsOf(row).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]);
  const samples = samplesOf(row);
  const plot = samples.length ? el("canvas", { role: "img", "aria-label": `${describe(row)}, in the order they were taken` }) : null;
  return el("div", { class: "inside" }, ...reasons, plot, el("dl", {}, ...facts), commandOf(row));
}

function factsOf(row) {
  const facts = [];
  if (row.latency) {
    const { mean, min, iqr } = row.latency;
    facts.push(["latency", `mean ${ms(mean)} ms, fastest ${ms(min)} ms, middle half within ${ms(iqr)} ms`]);
    facts.push(["runs", `${count(row.runs ?? 0)}, ${row.stopped ?? "stopped by itself"}, by ${row.clock ?? "an unnamed clock"}`]);
  }
  if (row.trace && row.trace.of > samplesOf(row).length) {
    facts.push(["shown", `${count(samplesOf(row).length)} of ${count(row.trace.of)} samples`]);
  }
  if (row.distance !== null) facts.push(["distance", `${row.distance.toPrecision(3)} from the reference's answers`]);
  for (const [name, value] of Object.entries(row.accuracy ?? {})) facts.push([name, significant(value)]);
  if (row.load) facts.push(["machine", loadOf(row.load)]);
  if (row.threads) facts.push(["threads", String(row.threads)]);
  if (row.in_flight) facts.push(["in flight", `${row.in_flight} requests`]);
  if (row.processes) facts.push(["processes", row.processes.map((each) => `${ms(each.median)} ms`).join(", ")]);
  if (row.search) facts.push(["search", row.search.trials.map(trialOf).join("; ")]);
  for (const [name, phase] of Object.entries(row.phases_ns ?? {})) facts.push([`phase ${name}`, `${ms(phase.median)} ms, median of ${count(phase.samples)}`]);
  if (row.artefact_sha256) facts.push(["artefact", `SHA-256 ${row.artefact_sha256}`]);
  return facts;
}

const OUTCOMES = new Map([[true, "met"], [false, "missed"], [null, "not known"]]);

function trialOf(trial) {
  return `${significant(trial.rate_per_s)} requests/s: ${OUTCOMES.get(trial.met)} by ${count(trial.requests)}`;
}

// What else ran meanwhile; what could not be read is not said to be nothing.
function loadOf(load) {
  const known = (value) => typeof value === "number";
  return [
    known(load.own_cores) ? `${significant(load.own_cores, 3)} of ${load.cores} cores busy with this row` : null,
    known(load.other_cores) ? `${significant(load.other_cores, 2)} with other work` : "other work unknown",
    load.steal_share ? `${(load.steal_share * 100).toFixed(1)} % of the time taken by the hypervisor` : null,
  ].filter(Boolean).join(", ");
}

function commandOf(row) {
  const code = el("code", {}, row.command);
  const button = el("button", { type: "button", class: "plain", "aria-label": `Copy the command that measures ${nameOf(row)} again` }, "Copy");
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(row.command);
      button.textContent = "Copied";
    } catch {
      // Where the clipboard is refused the command is selected, and the keyboard copies it.
      button.textContent = "Selected";
    }
  });
  return el("div", { class: "command" }, code, button);
}
