// The page: what to know first, filters, the table and the charts, all of one selection of rows.

const filters = { words: [], chosen: {} };
const WHAT_TO_FILTER = [
  ["runtime", (row) => row.runtime],
  ["precision", (row) => row.precision],
  ["batch", (row) => String(row.batch)],
  ["scenario", (row) => row.scenario],
  ["threads", (row) => String(row.threads_asked ?? "default")],
  ["cache", (row) => row.cache ?? "hot"],
  ["residence", (row) => row.residence ?? NONE],
  ["verdict", (row) => row.verdict],
  ["machine", (row) => report.machines[row.machine].name],
];

function matches(row) {
  const text = [row.key, row.verdict, row.random ? "random weights" : ""].join(" ").toLowerCase();
  if (!filters.words.every((word) => text.includes(word))) return false;
  return WHAT_TO_FILTER.every(([name, value]) => !filters.chosen[name] || filters.chosen[name] === value(row));
}

function buildFilters() {
  const search = el("input", { type: "search", name: "search", autocomplete: "off", spellcheck: "false", placeholder: "words of a row" });
  search.addEventListener("input", () => {
    filters.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    refresh();
  });
  const form = byId("filters");
  form.append(el("label", {}, "search", search));
  for (const [name, value] of WHAT_TO_FILTER) {
    const values = [...new Set(report.rows.map(value))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    if (values.length < 2) continue;
    const label = chooser(name, [["", "all"], ...values.map((each) => [each, each])], (chosen) => {
      filters.chosen[name] = chosen;
      refresh();
    });
    label.querySelector("select").name = name;
    form.append(label);
  }
  form.append(el("output", { "aria-live": "polite" }));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function refresh() {
  const rows = inOrder(report.rows.filter(matches));
  showLines(rows);
  byId("filters").querySelector("output").textContent = `${rows.length} of ${report.rows.length} rows`;
  drawQuality(rows);
  drawBatches(rows);
  drawLatency(rows);
  if (!byId("phases").hidden) drawPhases(rows);
}

function buildHead() {
  const valid = report.rows.filter((row) => row.grade === "valid").length;
  const when = report.created.replace("T", " ").replace(/:\d\dZ$/, " UTC");
  const machine = report.machines.map((each) => each.name).join("; ");
  byId("summary").append(el("strong", {}, `${valid} of ${report.rows.length} rows are valid.`), ` Profile ${report.profile}, ${when}. ${machine}.`);
  const parts = report.cautions.map((each) => el("p", { class: each.severity }, el("b", {}, each.text), ` ${each.remedy}`));
  byId("cautions").append(...parts);
  byId("samples-note").textContent = report.decimated
    ? `Of ${report.decimated} rows not every sample is here, so that the page stays small: evenly spaced ones, with the fastest and the slowest. All raw samples are in samples.npz.`
    : "Every sample is here, rounded to 1/65,535 of its row’s range. The raw samples are in samples.npz.";
}

function buildFoot() {
  for (const machine of report.machines) {
    const facts = machine.facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]);
    byId("machines").append(report.machines.length > 1 ? el("h3", {}, machine.name) : "", el("dl", {}, ...facts));
  }
  if (!report.leftOut.length) return;
  const lines = report.leftOut.map((each) => el("tr", {}, el("th", { scope: "row" }, each.what), el("td", {}, each.reason), el("td", {}, each.include)));
  const heads = ["what", "why", "to include it"].map((name) => el("th", { scope: "col" }, el("small", {}, name)));
  byId("left-out").append(el("table", { class: "left" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...lines)));
  byId("left-out").hidden = false;
}

// Charts are as wide as the window and in the colours of its mode, so either change draws them again.
function redrawOnChange() {
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth !== width) {
      width = document.documentElement.clientWidth;
      refresh();
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
}

buildHead();
buildFilters();
buildTable();
buildQuality();
buildBatches();
buildLatency();
buildPhases();
buildFoot();
refresh();
redrawOnChange();
