"""What refinement gains on networks with real ImageNet weights, on crops that it did not see.

    python -m tests.performance.refine [MODEL ...]

writes `docs/results/refine.json`, from which docs/refine.md has its table. Of 96 calibration crops every
sixth decides whether a step is kept; all numbers are of 256 other crops. Every layer is in INT8.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import bbx
from bbx import images
from bbx.artifact import read_manifest
from bbx.calibration.judged import Batches
from bbx.calibration.methods import RefineStep
from bbx.calibration.quantise import Images, Recipe, quantised_from_onnx
from bbx.calibration.sessions import session
from tests.performance.crops import crops

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "refine.json"
MODELS = ("efficientnet_lite1", "efficientnet_lite2")
TRIED: tuple[tuple[RefineStep, ...], ...] = (
    (),
    ("equalise",),
    ("bias",),
    ("rounding",),
    ("rounding", "bias"),
    ("equalise", "rounding", "bias"),
)
CALIBRATION, EVALUATION, BATCH = 96, 256, 16


def batches(name: str, values: NDArray[np.generic]) -> Batches:
    """Images as feeds of the input `name`."""

    def each() -> Iterator[dict[str, NDArray[np.generic]]]:
        for start in range(0, len(values), BATCH):
            yield {name: values[start : start + BATCH]}

    return each


def answers(model: onnx.ModelProto, feeds: Batches) -> NDArray[np.float64]:
    """Logits, with Q/DQ computed as written."""
    with session(model, "a measurement", exact=True) as opened:
        return np.concatenate([opened.run(batch)[0] for batch in feeds()]).astype(np.float64)


def scores(reference: NDArray[np.float64], found: NDArray[np.float64]) -> dict[str, float]:
    """Top-1 agreement, and relative L2 of the logits."""
    agree = np.mean(reference.argmax(axis=1) == found.argmax(axis=1))
    return {
        "agreement": float(agree),
        "rel_l2": float(np.linalg.norm(found - reference) / np.linalg.norm(reference)),
    }


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """One row for each way to refine a graph that `bbx export` made."""
    model, how = onnx.load(path), read_manifest(path).preprocess
    assert how is not None
    name = model.graph.input[0].name
    calibration = np.stack([images.apply(crop, how) for crop in crops(CALIBRATION, 1)])
    evaluation = batches(name, np.stack([images.apply(crop, how) for crop in crops(EVALUATION, 2)]))
    judged = np.arange(CALIBRATION) % 6 == 5
    given = Images(batches(name, calibration[~judged]), batches(name, calibration[judged]))
    reference = answers(model, evaluation)
    for steps in TRIED:
        began = time.perf_counter()
        found = quantised_from_onnx(model, Recipe(method="mse", refine=steps), given)
        seconds = round(time.perf_counter() - began, 1)
        judged = {gain.step: [gain.before, gain.after] for gain in found.gains}
        undone = [gain.step for gain in found.gains if not gain.kept]
        row = {
            "model": path.stem,
            "steps": list(steps),
            "undone": undone,
            "judged": judged,
            "seconds": seconds,
        }
        yield row | scores(reference, answers(found.model, evaluation))


def main() -> None:
    """Measure the models that are named, or those with real weights."""
    found: list[dict[str, Any]] = []
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(bbx.export(name, out=folder)["artifact"])):
                print(json.dumps(row), flush=True)
                found.append(row)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
