"""Reports as `bbx bench` writes them, of rows with literal numbers or of traces from a seed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bbx.benchmarks import reports
from bbx.benchmarks.environment import describe
from bbx.benchmarks.journal import Document, write_samples
from bbx.benchmarks.stats import summarise

ENVIRONMENT = describe()

LEFT_OUT = [{"what": "rtx", "reason": "No | GPU.", "include": "Buy one."}]

UNSTABLE = {"verdict": "unstable", "text": "There are two speeds.", "remedy": "Pin the threads."}


def row(**changes: Any) -> Document:
    """A valid row of 12.35 ms, with some fields changed; its key follows from them."""
    found = {
        "subject": "resnet18",
        "runtime": "ort-cpu",
        "precision": "fp32",
        "batch": 1,
        "scenario": "single",
        "verdict": "valid",
        "reasons": [],
        "latency_ns": {
            "median": 12_345_678.0,
            "ci95": [12_300_000, 12_400_000],
            "mean": 12_400_000.0,
            "min": 12_000_000,
            "p90": 12_500_000,
            "p95": 12_600_000,
            "p99": None,
            "iqr": 100_000,
        },
        "throughput_per_s": 80.6451,
        "samples": None,
        "peak_bytes": 256 << 20,
        "parity": {"verdict": "pass", "cases": []},
        "weights": "pretrained",
        "load": {"seconds": 3.25, "cores": 2, "own_cores": 1.98, "other_cores": 0.015, "steal_share": 0.0},
        "command": "bbx bench resnet18",
    } | changes
    key = f"{found['subject']}/{found['runtime']}/{found['precision']}/b{found['batch']}/single"
    return {"key": key} | found


def failed(verdict: str = "failed", text: str = "BuildError: no\nparser", **changes: Any) -> Document:
    """A row without a measurement."""
    nothing = dict.fromkeys(("latency_ns", "throughput_per_s", "samples", "peak_bytes", "parity"))
    reason = {"verdict": verdict, "text": text, "remedy": ""}
    return row(**{"runtime": "rtx", "verdict": verdict, "reasons": [reason], **nothing, **changes})


def made(*rows: Document, planned: list[str] | None = None, **environment: Any) -> Document:
    """A report of rows, on this machine with some facts of it changed."""
    return reports.document(
        rows,
        environment=ENVIRONMENT | environment,
        left_out=LEFT_OUT,
        profile="quick",
        planned=[each["key"] for each in rows] if planned is None else planned,
    )


def distance(value: float) -> dict[str, Any]:
    """The parity of a row whose answers are so far from the reference."""
    outputs = {"logits": {"max_abs": value, "rel_l2": value, "cosine": 1.0}}
    return {"verdict": "pass", "cases": [{"batch": 1, "input": "noise", "outputs": outputs}]}


def measured(folder: Path, samples: np.ndarray[Any, Any], **changes: Any) -> Document:
    """A row with a trace, whose file is written into the folder of its report."""
    summary = asdict(summarise(samples))
    runs, interval = summary.pop("n"), summary["ci95"]
    found = row(**changes)
    stem = found["key"].replace("/", "-").replace("<", "-")
    write_samples(folder / f"samples/{stem}.npz", samples, samples[:3])
    return found | {
        "latency_ns": summary | {"ci95": interval and [interval["low"], interval["high"]]},
        "throughput_per_s": found["batch"] * 1e9 / float(samples.mean()),
        "samples": f"samples/{stem}.npz",
        "runs": runs,
        "stopped": "converged",
        "clock": "perf_counter_ns",
    }


MODELS = ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_lite1", "convnext_tiny", "swin_t")
RUNTIMES = ("eager", "torchscript", "ort-cpu")


def written(folder: Path, *, rows: int, runs: int = 200) -> Document:
    """A report of so many rows with traces of so many runs, written into a folder: models, runtimes, batches.

    Every 9th row is unstable, with two speeds.
    """
    random = np.random.default_rng(0)
    found = []
    for index in range(rows):
        model, rest = index % len(MODELS), index // len(MODELS)
        runtime, batch = rest % len(RUNTIMES), (1, 4, 16)[rest // len(RUNTIMES) % 3]
        again = rest // len(RUNTIMES) // 3
        speed = 1e6 * (1 + 2.5 * model**1.3) * (2.1, 1.6, 1.0)[runtime] * batch**0.8
        trace = speed * (1 + random.gamma(1.5, 0.012, runs)) * (1 + 0.15 * (random.random(runs) < 0.02))
        bad = index % 9 == 4
        if bad:
            trace *= np.where(random.random(runs) < 0.4, 1.25, 1.0)
        found.append(
            measured(
                folder,
                trace.astype(np.int64),
                subject=MODELS[model] + (f"_{again}" if again else ""),
                runtime=RUNTIMES[runtime],
                batch=batch,
                parity=distance(0.0 if runtime == 0 else 10 ** random.uniform(-7, -5.5)),
                verdict="unstable" if bad else "valid",
                reasons=[UNSTABLE] if bad else [],
                weights="random" if model == 1 else "pretrained",
                command=f"bbx bench {MODELS[model]} --runtime {RUNTIMES[runtime]} --batch {batch}",
            )
        )
    document = made(*found)
    reports.write(document, folder)
    return document


def written_large(folder: Path, *, rows: int = 500, runs: int = 3000) -> Path:
    """A report of many rows, every 20 of which share their traces; gives its folder."""
    few = written(folder, rows=20, runs=runs)["results"]
    copies = (few[number % 20] | _copied(few[number % 20], number // 20) for number in range(rows))
    reports.write(made(*copies), folder)
    return folder


def _copied(original: Document, copy: int) -> Document:
    return {name: f"{original[name]}_{copy}" for name in ("key", "subject")}
