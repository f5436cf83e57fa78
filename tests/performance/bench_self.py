"""What bbx itself costs, as ratios taken in alternating runs, and how often its verdicts are wrong.

    python -m tests.performance.bench_self [--rounds N] [--share X] [PART ...]

Run by `make bench-self`; no test runs it. Each part is written to `docs/results/bench_self.json` when it is
done, from which docs/method.md has its table:

- start-up of `bbx --help` and `bbx models`;
- `bbx export resnet50` against a bare script that builds, exports, checks and compares once (wall time and
  peak memory), and a second, identical export;
- the median latency that the harness reports against a tight loop over the same session, for a model of about
  1 ms and one of about 100 ms, and the harness's own cost an iteration;
- a row in a forked child against one in a fresh interpreter;
- how often `bbx compare` calls equal work different, and finds work that takes 5 % longer;
- the page of 500 rows in Chromium.

The comparisons, 400 of equal and 200 of unequal work, take about half an hour; `--share 0.1` makes a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bbx.process import in_fresh_interpreter, launching
from tests import chromium
from tests.performance import report_page
from tests.sample_reports import written_large

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "bench_self.json"

_TURN_S = 0.05
"""Of the harness, and of the loop that it is compared with: what the machine does meanwhile meets both."""

BARE_EXPORT = """
import sys, numpy as np, onnx, onnxruntime, torch, torchvision
torch.manual_seed(0)
module = torchvision.models.resnet50(weights=None).eval()
images = torch.randn(2, 3, 224, 224)
batch = torch.export.Dim("batch")
program = torch.onnx.export(module, (images,), dynamo=True, input_names=["images"], output_names=["logits"],
                            dynamic_shapes=({0: batch},), verbose=False)
program.save(sys.argv[1])
onnx.checker.check_model(sys.argv[1], full_check=True)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
answer = session.run(None, {"images": images.numpy()})[0]
with torch.inference_mode():
    reference = module(images).numpy()
assert np.linalg.norm(answer - reference) <= 1e-4 * np.linalg.norm(reference)
"""

MEASURED_CHILD = """
import resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(code, time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(command: list[str]) -> tuple[float, int]:
    """Wall seconds of a command, and the peak KiB of its largest process.

    Raises:
        RuntimeError: it failed.
    """
    answer = subprocess.run(
        [sys.executable, "-c", MEASURED_CHILD, *command], capture_output=True, text=True, check=True
    )
    code, seconds, kib = answer.stdout.split()
    if code != "0":
        raise RuntimeError(f"{command} ended with code {code}")
    return float(seconds), int(kib)


def bbx(*arguments: str) -> list[str]:
    """The command line of this environment's bbx."""
    return [str(Path(sys.executable).with_name("bbx")), *arguments]


def start_up(rounds: int = 11) -> dict[str, float]:
    """Median wall seconds of whole processes, taken in turns."""
    commands = {"bbx --help": bbx("--help"), "bbx models": bbx("models")}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds[name].append(run(command)[0])
    return {name: statistics.median(values) for name, values in seconds.items()}


def export_against_bare_script(folder: Path, rounds: int) -> dict[str, Any]:
    """Ratios of `bbx export resnet50` to the bare script, one a round, in alternating order."""
    script = folder / "bare.py"
    script.write_text(BARE_EXPORT)
    time_ratios, memory_ratios, again = [], [], []
    for index in range(rounds):
        out = folder / f"round{index}"
        commands: dict[str, list[str]] = {
            "bare": [sys.executable, str(script), str(folder / "bare.onnx")],
            "bbx": bbx("export", "resnet50", "--format", "onnx", "--weights", "random", "--out", str(out)),
        }
        order = list(commands) if index % 2 == 0 else list(reversed(commands))
        found = {name: run(commands[name]) for name in order}
        time_ratios.append(found["bbx"][0] / found["bare"][0])
        memory_ratios.append(found["bbx"][1] / found["bare"][1])
        again.append(run(commands["bbx"])[0])
        shutil.rmtree(out)
    return {
        "wall_ratio": {"median": statistics.median(time_ratios), "rounds": time_ratios},
        "peak_memory_ratio": {"median": statistics.median(memory_ratios), "rounds": memory_ratios},
        "second_export_s": {"median": statistics.median(again), "rounds": again},
    }


def harness_against_tight_loop(folder: Path, model: str, size: int, batch: int, pairs: int) -> dict[str, Any]:
    """Median latency by the harness over that of a hand-written loop on the same session, in turns."""
    from bbx import api
    from bbx.runners.ort import OrtRunner

    document = api.export(model, weights="random", image_size=size, out=folder / f"{model}-{size}.onnx")
    feeds = {"images": np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)}
    ratios: list[float] = []
    with OrtRunner(Path(document["artifact"])) as runner:
        bound = runner.bind(feeds)
        latency_s = statistics.median(bound.sample(20).tolist()) / 1e9
        count = max(1, round(_TURN_S / latency_s))
        for index in range(pairs):
            medians: dict[str, float] = {}
            takers: list[tuple[str, Callable[[], Any]]] = [
                ("harness", lambda: float(np.median(bound.sample(count)))),
                ("loop", lambda: tight_loop(bound.step, count)),
            ]
            for name, take in takers if index % 2 == 0 else reversed(takers):
                medians[name] = take()
            ratios.append(medians["harness"] / medians["loop"])
    return {
        "model": f"{model} at {size}, batch {batch}",
        "latency_ms": latency_s * 1e3,
        "median_ratio": statistics.median(ratios),
        "ci95": interval_of_median(ratios),
    }


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Of independent values, the two between which their median is in 95 of 100 samples (Conover, 1999)."""
    ordered, reach = sorted(values), 0.98 * len(values) ** 0.5
    last = len(ordered) - 1
    low, high = math.floor(last / 2 - reach), math.ceil(last / 2 + reach)
    return ordered[max(0, low)], ordered[min(last, high)]


def tight_loop(step: Callable[[], object], count: int) -> float:
    """Median nanoseconds of a loop as one would write it by hand."""
    samples = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        step()
        samples.append(time.perf_counter_ns() - begun)
    return float(np.median(samples))


def forked_against_fresh(folder: Path, pairs: int) -> dict[str, Any]:
    """Ratios of the median latency of rows in forked children to those in fresh interpreters, in turns."""
    from bbx import api
    from bbx.artifact import sha256_of
    from bbx.benchmarks.crew import ROW_TASK, imports_for
    from bbx.models.spec import ModelSpec
    from bbx.process import run_task
    from bbx.warm import warm_children

    spec = ModelSpec("mobilenet_v3_small", weights="random", image_size=128)
    onnx = Path(api.export(spec.name, weights="random", image_size=128, out=folder / "fork.onnx")["artifact"])
    found = {}
    for runtime in ("eager", "ort-cpu"):
        request = {
            **{"key": "row", "subject": "row", "runtime": runtime, "precision": "fp32", "batch": 1},
            **{"scenario": "single", "cuda_graph": False, "trust": False, "spec": spec.to_request()},
            **{"artefact": None, "artefact_sha256": None, "reference": None, "profile": "quick"},
            **{"cache": "hot", "residence": "pageable", "threads_asked": 1, "slo_ns": None},
            **{"threads": 1, "out": str(folder), "samples": "row.npz", "command": ""},
        }
        if runtime == "ort-cpu":
            request |= {"artefact": str(onnx), "artefact_sha256": sha256_of(onnx)}
        ratios = []
        with warm_children(imports_for):
            run_task(ROW_TASK, request)
            for index in range(pairs):
                medians = {}
                for kind in ("forked", "fresh") if index % 2 == 0 else ("fresh", "forked"):
                    with launching(in_fresh_interpreter) if kind == "fresh" else contextlib.nullcontext():
                        medians[kind] = run_task(ROW_TASK, request)["latency_ns"]["median"]
                ratios.append(medians["forked"] / medians["fresh"])
        found[runtime] = {"median_ratio": statistics.median(ratios), "ratios": ratios}
    return found


def work(loops: int) -> Callable[[], None]:
    """A step that keeps one CPU busy, always with the same work."""

    def step() -> None:
        total = 0
        for number in range(loops):
            total += number

    return step


def comparisons(milliseconds: float, equal: int, slower: int) -> dict[str, Any]:
    """How `bbx compare` judges work of this length against the same work, and against 5 % more.

    Every comparison has a control, which is one more comparison of equals.
    """
    from bbx.benchmarks.duet import duet
    from bbx.runners.base import Bound, sample_host_clock

    def bound(loops: int) -> Bound:
        step = work(loops)
        return Bound(step, lambda count: sample_host_clock(step, count), "perf_counter_ns", dict)

    per_loop = float(np.median(sample_host_clock(work(10_000), 50))) / 10_000
    loops = round(milliseconds * 1e6 / per_loop)
    alike: Counter[str] = Counter()
    longer: Counter[str] = Counter()
    seconds = []
    for factor, count, verdicts in ((1.0, equal // 2, alike), (1.05, slower, longer)):
        for _ in range(count):
            begun = time.perf_counter()
            found = duet(bound(loops), bound(loops), bound(round(factor * loops)))
            seconds.append(time.perf_counter() - begun)
            verdicts[found.head.finding(effect=0.02).change] += 1
            alike[found.control.finding(effect=0.02).change] += 1
    return {
        "milliseconds": milliseconds,
        "equal": dict(alike),
        "false_alarm_rate": (alike["slower"] + alike["faster"]) / max(1, sum(alike.values())),
        "slower_by_5_percent": dict(longer),
        "found_rate": longer["slower"] / max(1, sum(longer.values())),
        "seconds": statistics.median(seconds),
    }


def judged(share: float) -> list[dict[str, Any]]:
    """Comparisons of work of 1 and of 10 milliseconds, and a few of 2, for how long one takes."""
    count = round(100 * share)
    return [
        comparisons(milliseconds, equal=number, slower=number)
        for milliseconds, number in ((1.0, count), (2.0, min(count, 4)), (10.0, count))
    ]


def harness(folder: Path) -> dict[str, Any]:
    """The harness against loops that are written by hand."""
    from bbx.benchmarks.measure import harness_overhead_ns

    return {
        "models": [
            harness_against_tight_loop(folder, "mobilenet_v3_small", 224, 1, pairs=800),
            harness_against_tight_loop(folder, "resnet50", 224, 3, pairs=800),
        ],
        "overhead_ns": harness_overhead_ns(),
    }


def page(folder: Path) -> dict[str, Any]:
    """The report of 500 rows; see `report_page`.

    Raises:
        RuntimeError: there is no Chromium.
    """
    browser = chromium.found()
    if browser is None:
        raise RuntimeError(f"needs Chromium: there is no {', '.join(chromium.NAMES)}")
    return report_page.measured(written_large(folder), browser)


def parts(rounds: int, share: float) -> Mapping[str, Callable[[Path], Any]]:
    """What there is to measure, by name; each is given an empty folder."""
    return {
        "start_up_s": lambda _: start_up(),
        "export": lambda folder: export_against_bare_script(folder, rounds),
        "harness": harness,
        "forked_rows": lambda folder: forked_against_fresh(folder, pairs=rounds),
        "compare": lambda _: judged(share),
        "page": page,
    }


def main() -> None:
    """Measure the parts that are named, by default all, and keep each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs of whole commands")
    parser.add_argument("--share", type=float, default=1.0, help="of the 600 comparisons")
    parser.add_argument("parts", nargs="*", metavar="PART")
    asked = parser.parse_args()
    known = parts(asked.rounds, asked.share)
    if unknown := sorted(set(asked.parts) - set(known)):
        parser.error(f"There is no part {unknown[0]!r}. Known: {', '.join(known)}.")
    for name in asked.parts or known:
        with tempfile.TemporaryDirectory() as folder:
            load = os.getloadavg()[0]
            found = known[name](Path(folder))
        now = datetime.now(UTC).isoformat(timespec="minutes")
        done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        done[name] = {"measured": now, "cpus": os.cpu_count(), "load_before": round(load, 2), "found": found}
        RESULTS.write_text(json.dumps(done, indent=1) + "\n")
        print(name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
