"""How much of a runner's own speed `bbx eval` has, with images decoded on other threads meanwhile.

    python -m tests.performance.eval_throughput [--images 400] [--rounds 7] [--out FILE]

The runner's own speed is that of `infer` on batches that are in memory; the other is that of the whole way:
JPEG files decoded, resized, computed, judged. Both are measured in turns, on one runner in one process,
so that what else the machine does meets both; the answer is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bbx import export, images
from bbx.benchmarks.environment import describe
from bbx.datasets import Dataset, open_dataset
from bbx.evaluation.passes import passed
from bbx.evaluation.subjects import Opened, opened, subjects_named

MODELS = ("resnet18", "resnet50")
BATCH = 8
SIDE = 320
"""Pixels of a side of the JPEG files: somewhat more than the 256 that they are resized to."""


def main() -> None:
    """Measure all models and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/results/eval_throughput.json"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "data", asked.images)
        rows = [measured(model, folder, asked.rounds) for model in MODELS]
    document = {"environment": describe(), "images": asked.images, "batch": BATCH, "rows": rows}
    asked.out.write_text(json.dumps(document, indent=2) + "\n")


def write_pictures(folder: Path, count: int) -> None:
    """JPEG crops of the bundled photographs, in two class folders."""
    photographs = [images.decode(path) for path in images.photographs()]
    generator = np.random.default_rng(0)
    for name in ("even", "odd"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(generator.integers(160, min(photograph.size) + 1))
        left, top = (int(generator.integers(length - side + 1)) for length in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        crop.save(folder / ("even", "odd")[number % 2] / f"{number:04d}.jpg", quality=90)


def measured(model: str, folder: Path, rounds: int) -> dict[str, Any]:
    """One model: the two speeds by turns, and their ratio."""
    made = export(model, format="onnx", weights="random", num_classes=2, out=folder / "artefacts")
    [subject] = subjects_named([made["artifact"]], [], {})
    dataset = open_dataset(str(folder / "data"), "classification")
    own: list[float] = []
    whole: list[float] = []
    with opened(subject, trust=False, threads=None) as ready:
        own_speed(ready, BATCH * 4)  # so that neither is the first
        for turn in range(rounds):
            for kind in ("own", "whole") if turn % 2 else ("whole", "own"):
                if kind == "own":
                    own.append(own_speed(ready, len(dataset)))
                else:
                    whole.append(whole_speed(ready, dataset))
                print(f"{model} {kind} {(own if kind == 'own' else whole)[-1]:.1f} images/s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(whole, own, strict=True)]
    return {
        "model": model,
        "runtime": subject.runtime,
        "own_per_s": own,
        "eval_per_s": whole,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "cpus": len(os.sched_getaffinity(0)),
    }


def own_speed(ready: Opened, count: int) -> float:
    """Images a second of inference alone."""
    rows = images.photograph_batch(ready.preprocess, BATCH)
    begun = time.perf_counter()
    for _ in range(count // BATCH):
        ready.infer(rows)
    return count // BATCH * BATCH / (time.perf_counter() - begun)


def whole_speed(ready: Opened, dataset: Dataset) -> float:
    """Images a second of an evaluation, from before the first image is decoded until the last is judged."""
    begun = time.perf_counter()
    passed(ready, dataset, batch=BATCH, label="", classes=dataset.classes)
    return len(dataset) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
