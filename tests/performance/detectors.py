"""Faster R-CNN R50-FPN at 800 pixels on the CPU: bbx's lowerings, the older exporter's graph, eager torch.

Run by `make detectors`; writes `docs/results/detectors.json`. All runners are measured in one run, in turns,
and each ONNX graph once more with ONNX Runtime's profiler, whose times are summed by part. Weights are seeded
random ones whose heads find some hundred candidates, and the same for all.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

import bbx
from bbx.images import photograph_batch
from bbx.models.build import Model

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "detectors.json"
MODEL = "fasterrcnn_r50_fpn"
ROUNDS = 5
BATCHES = (1, 4)

PARTS = {
    "convolutions": {"Conv", "FusedConv", "ConvTranspose"},
    "matrix products": {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"},
    "RoIAlign": {"RoiAlign"},
    "suppression": {"NonMaxSuppression"},
    "sorting": {"TopK"},
    "gathering": {"Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "NonZero"},
}
"""Operators of each part of a graph; what is none of them is `other`."""


def part_of(operator: str) -> str:
    """The part that an operator belongs to."""
    return next((part for part, operators in PARTS.items() if operator in operators), "other")


def session(path: Path, *, profile: Path | None = None) -> ort.InferenceSession:
    """A graph on the CPU, as bbx's own runner opens it."""
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def older_graph(model: Model, out: Path) -> Path:
    """torchvision's own model through the exporter that traces, as the web's tutorials do it: one image."""
    network = model.reference.network  # type: ignore[union-attr]

    class OneImage(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            (found,) = self.network([images[0]])
            return found["boxes"], found["labels"], found["scores"]

    example = torch.from_numpy(photograph_batch(model.preprocess, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            OneImage().eval(),
            (example,),
            str(out),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["boxes", "labels", "scores"],
        )
    return out


def seconds(run: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def by_part(path: Path, feed: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    """Seconds an inference and executed nodes of every part, the fastest of three runs."""
    profiled = session(path, profile=folder / path.stem)
    profiled.run(None, feed)
    for _ in range(3):
        profiled.run(None, feed)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    runs: list[dict[str, float]] = []
    nodes: Counter[str] = Counter()
    for event in events:
        if event["name"] == "model_run":
            runs.append(defaultdict(float))
            nodes = Counter()
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run"]
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        number = next(i for i, (begin, end) in enumerate(spans) if begin <= event["ts"] <= end)
        part = part_of(event["args"]["op_name"])
        runs[number][part] += event["dur"] / 1e6
        nodes[part] += number == len(spans) - 1
    best = min(runs[1:], key=lambda parts: sum(parts.values()))
    return {part: {"seconds": round(best[part], 4), "nodes": nodes[part]} for part in sorted(best)}


def main() -> None:
    """Export, measure in turns, profile, write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = bbx.build(MODEL, weights="random")
        graphs = {
            lowering: Path(bbx.export(MODEL, weights="random", lowering=lowering, out=folder)["artifact"])
            for lowering in ("onnx", "static")
        }
        graphs["older exporter"] = older_graph(model, folder / "older.onnx")
        found: dict[str, Any] = {"model": MODEL, "image_size": model.preprocess.height, "graphs": {}}
        for title, path in graphs.items():
            found["graphs"][title] = {"nodes": len(onnx.load(path, load_external_data=False).graph.node)}
        for batch in BATCHES:
            print(f"measuring at batch {batch}", flush=True)
            found[f"batch {batch}"] = measured(model, graphs, batch, folder)
        found["versions"] = {"torch": torch.__version__, "onnxruntime": ort.__version__}
        found["threads"] = torch.get_num_threads()
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2))


def measured(model: Model, graphs: dict[str, Path], batch: int, folder: Path) -> dict[str, Any]:
    """Median seconds an image of every runner, in turns, and the parts of every graph."""
    pictures = photograph_batch(model.preprocess, batch)
    tensor = torch.from_numpy(np.asarray(pictures))
    feed = {"images": pictures}
    # The older exporter's graph takes one image.
    usable = {title: path for title, path in graphs.items() if batch == 1 or title != "older exporter"}
    sessions = {title: session(path) for title, path in usable.items()}
    runs: dict[str, Callable[[], Any]] = {
        title: (lambda opened=opened: opened.run(None, feed)) for title, opened in sessions.items()
    }
    with torch.inference_mode():
        runs["eager torchvision"] = lambda: model.reference(tensor)  # type: ignore[misc]
        for run in runs.values():
            run()
        took: dict[str, list[float]] = {title: [] for title in runs}
        for _ in range(ROUNDS):
            for title, run in runs.items():
                took[title].append(seconds(run) / batch)
    return {
        title: {
            "seconds_an_image": round(statistics.median(times), 4),
            "rounds": [round(value, 4) for value in times],
            **({"parts": by_part(usable[title], feed, folder)} if title in usable else {}),
        }
        for title, times in took.items()
    }


if __name__ == "__main__":
    main()
