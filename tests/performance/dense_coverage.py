"""Every detector and segmenter: ONNX in both lowerings with parity, and RTX engines in FP32 and FP16.

    python -m tests.performance.dense_coverage [--part PART] [MODEL ...]

Run by `make coverage`; writes `docs/results/dense.json`, from which the documentation makes its table.
Weights are seeded random ones, whose heads are set to find something. Networks that take any size get images
of `SIDE` pixels: at 320 a model takes up to a quarter of an hour on one core, for the same graph. Each
lowering is compared with torchvision's own model (of a segmenter of bbx, with the module) on bbx's
photographs when it is exported, and the one for ONNX Runtime on `IMAGES` scenes and photographs too, all of
them at each batch of `BATCHES`. Parts that are done are kept in the file, so that a run that was stopped goes
on where it was; those of models or parts that are named are measured anew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

import bbx
from bbx.errors import BbxError, CheckFailed
from bbx.models.registry import preset, presets
from bbx.models.spec import Preset
from tests.performance.warm import warm
from tests.scenes.compose import scenes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "dense.json"
SIDE = 192
IMAGES = 32
BATCHES = (1, 2, 5)
DETECTIONS_WITH_KEYPOINTS = 20
PARTS = ("onnx", "images", "static", "fp32", "fp16")


def parts_of(model: Preset) -> tuple[str, ...]:
    """What is measured of a model; a segmenter has one lowering."""
    return tuple(part for part in PARTS if part != "static" or model.task == "detection")


def measured(model: Preset, part: str, out: Path, images: Path) -> dict[str, Any]:
    """What became of one part of a model."""
    side = _side(model)
    options: dict[str, Any] = {"weights": "random", "image_size": side, "out": out}
    if model.num_keypoints is not None:  # whose head takes 0.7 TFLOP for the usual 100 detections
        options["detections"] = DETECTIONS_WITH_KEYPOINTS
    if part in ("fp32", "fp16"):
        return verdict(lambda: bbx.build_engine(model.name, precision=part, **options))
    lowering: Any = "auto" if model.task != "detection" else "static" if part == "static" else "onnx"
    if part != "images":
        return verdict(lambda: bbx.export(model.name, lowering=lowering, **options))
    artifact = bbx.export(model.name, lowering=lowering, **options)["artifact"]
    return {"batches": BATCHES} | verdict(lambda: bbx.parity(artifact, images=images, batch=BATCHES))


def _side(model: Preset) -> int | None:
    return None if model.fixed_size or model.preprocess.height <= SIDE else SIDE


def write_images(folder: Path) -> None:
    """Photographs, and scenes of digits on others."""
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    photographs += [data.hubble_deep_field(), data.stereo_motorcycle()[0], *load_sample_images().images]
    composed = [scene.image for scene in scenes(IMAGES - len(photographs), 7, "test", SIDE)]
    for number, picture in enumerate(photographs + composed):
        Image.fromarray(picture).convert("RGB").save(folder / f"{number:02}.png")


def verdict(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Parity and precision of what was made, or why there is nothing."""
    try:
        document = make()
    except CheckFailed as error:
        document = error.document
        if document is None:
            return {"parity": "error", "reason": str(error)}
    except BbxError as error:
        return {"parity": "error", "reason": str(error)}
    parity = document["parity"]
    found: dict[str, Any] = {"parity": parity["verdict"], "reason": " ".join(parity["reasons"])}
    if "precision" in document and "targets" in document:
        found["precision"] = document["precision"]["verdict"]
        found["targets"] = document["targets"]
    counts = [case["detections"] for case in parity["cases"] if "detections" in case]
    if counts:
        found |= {key: sum(each[key] for each in counts) for key in ("matched", "missing", "extra")}
    else:
        distances = [each for case in parity["cases"] for each in case["outputs"].values()]
        found["rel_l2"] = max((each["rel_l2"] for each in distances), default=None)
    return found


def main() -> None:
    """Go through the models named on the command line, or all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=preset)
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    given = parser.parse_args()
    done = {each["model"]: each for each in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    models = given.models or [*presets("detection"), *presets("segmentation")]
    anew = set(given.part or (PARTS if given.models else ()))
    with warm(), tempfile.TemporaryDirectory() as images:
        write_images(Path(images))
        for index, model in enumerate(models):
            row = done.setdefault(
                model.name,
                {"model": model.name, "task": model.task, "side": _side(model) or model.preprocess.height},
            )
            todo = [part for part in parts_of(model) if part in anew or part not in row]
            with tempfile.TemporaryDirectory() as folder:
                for part in todo:
                    row[part] = measured(model, part, Path(folder), Path(images))
                    RESULTS.write_text(json.dumps(list(done.values()), indent=1) + "\n")
            print(f"[{index + 1}/{len(models)}]", json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
