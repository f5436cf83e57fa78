"""What INT8 costs networks that learnt scikit-learn's digits, beside ONNX Runtime's own methods.

    python -m tests.performance.int8_digits [resnet18|mobilenet_v2|efficientnet_b0 ...]

writes `docs/results/int8_digits.json`: top-1 on 600 digits that neither training nor calibration saw, in FP32
and in INT8, computed by ONNX Runtime as the graph is written. All ways are calibrated on the same 128 digits
of the training part. A network that is not in the cache is trained first.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import bbx
from bbx.artifact import read_manifest
from tests.performance.digits import CLASSES, EPOCHS, SIDE, digits, feed, trained
from tests.performance.int8 import ORT_METHODS, by_onnxruntime, counts
from tests.performance.refine import answers, batches

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "int8_digits.json"
CALIBRATION = 128


def rows(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """FP32 and each way to quantise it."""
    seen, _, unseen, labels = digits()
    options: dict[str, Any] = {"weights": str(trained(name)), "num_classes": CLASSES, "image_size": SIDE}
    pictures = folder / "calibration"
    pictures.mkdir()
    for number, picture in enumerate(seen[:CALIBRATION]):
        picture.save(pictures / f"{number:03d}.png")
    plain = Path(bbx.export(name, **options, out=folder)["artifact"])
    manifest = read_manifest(plain)
    assert manifest is not None
    assert manifest.preprocess is not None
    judged = feed(unseen, manifest.preprocess)
    yield _row(name, "FP32", plain, judged, labels)
    ours = bbx.quantize(name, **options, calib=str(pictures), out=folder)
    yield _row(name, "bbx auto", Path(ours["artifact"]), judged, labels)
    calibration = feed(seen[:CALIBRATION], manifest.preprocess)
    for method in ORT_METHODS:
        out = folder / f"onnxruntime-{method}.onnx"
        by_onnxruntime(plain, out, method, iter(batches("images", calibration)()))
        yield _row(name, f"onnxruntime {method}", out, judged, labels)


def _row(name: str, way: str, path: Path, judged: NDArray[np.float32], labels: list[int]) -> dict[str, Any]:
    model = onnx.load(path)
    found = answers(model, batches("images", judged)).argmax(axis=1)
    right = int((found == np.asarray(labels)).sum())
    return {"model": name, "way": way, "right": right, "of": len(labels), **counts(model)}


def main() -> None:
    """Measure the networks that are named, or all."""
    asked = sys.argv[1:] or list(EPOCHS)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    found = [row for row in found if row["model"] not in asked]
    for name in asked:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(name, Path(folder)):
                print(json.dumps(row), flush=True)
                found.append(row)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
