"""INT8 side by side: bbx, ONNX Runtime's quantiser, and NVIDIA's ModelOpt where it is named.

    python -m tests.performance.int8 accuracy [--modelopt PYTHON] [MODEL ...]
    python -m tests.performance.int8 cost

`accuracy` writes `docs/results/int8.json`: networks with real ImageNet weights, 96 calibration crops, judged
on 256 other crops against the FP32 network. ModelOpt pins other versions of onnx and onnxruntime, so it has
an environment of its own, whose interpreter is named. `cost` writes `docs/results/calibration.json`: time and
peak memory of collecting ranges on a ResNet-50, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import bbx
from bbx import images
from bbx.artifact import read_manifest
from bbx.calibration.quantise import Images, Recipe, quantised_from_onnx
from tests.performance.crops import crops
from tests.performance.refine import CALIBRATION, EVALUATION, MODELS, answers, batches, scores

RESULTS = Path(__file__).parents[2] / "docs" / "results"
OURS: dict[str, dict[str, Any]] = {
    "bbx auto": {},
    "bbx auto --refine": {"refine": ("equalise", "rounding", "bias")},
}
ORT_METHODS = ("MinMax", "Entropy", "Percentile")
MODELOPT_METHODS = ("max", "entropy")
_MODELOPT = """
import sys, numpy
from modelopt.onnx.quantization import quantize
source, data, method, out = sys.argv[1:]
quantize(source, quantize_mode="int8", calibration_data={"images": numpy.load(data)},
         calibration_method=method, output_path=out, calibration_eps=["cpu"], high_precision_dtype="fp32")
"""


# --- accuracy ---------------------------------------------------------------------------------------


def accuracy_rows(path: Path, folder: Path, modelopt: str | None) -> Iterator[dict[str, Any]]:
    """One row for each way to quantise a graph that `bbx export` made."""
    model, how = onnx.load(path), read_manifest(path).preprocess
    assert how is not None
    name = model.graph.input[0].name
    calibration = np.stack([images.apply(crop, how) for crop in crops(CALIBRATION, 1)])
    evaluation = batches(name, np.stack([images.apply(crop, how) for crop in crops(EVALUATION, 2)]))
    reference = answers(model, evaluation)
    for way, quantised, seconds in _ways(model, path, folder, calibration, modelopt):
        row = {"model": path.stem, "way": way, "seconds": round(seconds, 1)}
        yield row | scores(reference, answers(quantised, evaluation)) | counts(quantised)


def _ways(
    model: onnx.ModelProto, path: Path, folder: Path, calibration: NDArray[Any], modelopt: str | None
) -> Iterator[tuple[str, onnx.ModelProto, float]]:
    name = model.graph.input[0].name
    judged = np.arange(len(calibration)) % 4 == 3
    given = Images(batches(name, calibration[~judged]), batches(name, calibration[judged]))
    for way, options in OURS.items():
        began = time.perf_counter()
        yield way, quantised_from_onnx(model, Recipe(**options), given).model, time.perf_counter() - began
    for method in ORT_METHODS:
        began = time.perf_counter()
        out = folder / f"ort-{method}.onnx"
        by_onnxruntime(path, out, method, iter(batches(name, calibration)()))
        yield f"onnxruntime {method}", onnx.load(out), time.perf_counter() - began
    if modelopt is None:
        return
    np.save(folder / "calibration.npy", calibration)
    for method in MODELOPT_METHODS:
        began = time.perf_counter()
        out = folder / f"modelopt-{method}.onnx"
        arguments = [str(path), str(folder / "calibration.npy"), method, str(out)]
        subprocess.run([modelopt, "-c", _MODELOPT, *arguments], check=True, capture_output=True)
        yield f"modelopt {method}", onnx.load(out), time.perf_counter() - began


def by_onnxruntime(source: Path, out: Path, method: str, feeds: Iterator[Mapping[str, Any]]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def get_next(self) -> dict[str, Any] | None:
            row = next(feeds, None)
            return None if row is None else dict(row)

    quantize_static(
        str(source),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
        # TensorRT takes symmetric activations only.
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )


def counts(model: onnx.ModelProto) -> dict[str, int]:
    """How many convolutions and matrix products read a dequantised weight, of how many."""
    restored = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return {"layers": len(layers), "quantised": sum(n.input[1] in restored for n in layers)}


# --- cost -------------------------------------------------------------------------------------------

_SIDE = 224


def noise(count: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Batches of `count` noise images in all, made one at a time: what is measured is not decoding."""
    for start in range(0, count, 8):
        rows = min(8, count - start)
        shape = (rows, 3, _SIDE, _SIDE)
        yield {"images": np.random.default_rng(start).standard_normal(shape, dtype=np.float32)}


def cost_task(way: str, count: int, path: str) -> dict[str, Any]:
    """One measurement; runs in a process of its own, whose peak memory is then that of this alone."""
    import resource

    from bbx.calibration.collect import collect
    from bbx.calibration.placement import place
    from bbx.calibration.quantise import prepared_for
    from bbx.calibration.sessions import session
    from bbx.calibration.thresholds import threshold

    model = onnx.load(path)
    began = time.perf_counter()
    if way == "inference":
        with session(model, "a measurement") as opened:
            for feeds in noise(count):
                opened.run(feeds)
    elif way == "bbx":
        source = prepared_for(model, "int8")
        histograms = collect(source, place(source).activations, noise(count))
        for histogram in histograms.values():
            threshold(histogram, "entropy")
    else:
        with tempfile.TemporaryDirectory() as folder:
            by_onnxruntime(Path(path), Path(folder) / "out.onnx", "Entropy", noise(count))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"way": way, "images": count, "seconds": time.perf_counter() - began, "peak_rss_bytes": peak}


def cost_rows(path: Path, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """Each way by turns, so that a noisy machine is noisy for all of them."""
    pairs = [("inference", 512), ("bbx", 512), ("bbx", 32), ("bbx", 24), ("onnxruntime", 24)]
    for turn in range(rounds):
        for way, count in pairs:
            command = [
                sys.executable,
                "-m",
                "tests.performance.int8",
                "cost-task",
                way,
                str(count),
                str(path),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            yield {"round": turn, **json.loads(done.stdout.splitlines()[-1])}


# --- the command ------------------------------------------------------------------------------------


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("accuracy", "cost", "cost-task"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--modelopt")
    given = parser.parse_intermixed_args()
    if given.what == "cost-task":
        way, count, path = given.names
        print(json.dumps(cost_task(way, int(count), path)))
        return
    target = RESULTS / ("int8.json" if given.what == "accuracy" else "calibration.json")
    found = []
    for name in given.names or (MODELS if given.what == "accuracy" else ("resnet50",)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(bbx.export(name, out=folder)["artifact"])
            accuracy = given.what == "accuracy"
            rows = accuracy_rows(path, Path(folder), given.modelopt) if accuracy else cost_rows(path)
            for row in rows:
                print(json.dumps(row), flush=True)
                found.append(row)
                target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
