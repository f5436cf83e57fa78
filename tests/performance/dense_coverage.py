"""Every detector and segmenter: ONNX in both lowerings with parity, and RTX engines in FP32 and FP16.

Run by `make coverage`; writes `docs/results/dense.json`, from which the documentation makes its table.
Weights are seeded random ones, whose heads are set to find something. Networks that take any size get images
of `SIDE` pixels: at 320 a model takes up to a quarter of an hour on one core, for the same graph. Each
lowering is compared with torchvision's own model (of a segmenter of bbx, with the module) on bbx's
photographs at batch 1, 2 and 3 when it is exported, and the one for ONNX Runtime on `IMAGES` scenes and
photographs too. Models that are done are kept in the file, so that a run that was stopped goes on where it
was.
"""

from __future__ import annotations

import json
import sys
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
DETECTIONS_WITH_KEYPOINTS = 20


def row(model: Preset, out: Path, images: Path) -> dict[str, Any]:
    """What became of one model, form by form."""
    side = None if model.fixed_size or model.preprocess.height <= SIDE else SIDE
    options: dict[str, Any] = {"weights": "random", "image_size": side, "out": out}
    if model.num_keypoints is not None:  # whose head takes 0.7 TFLOP for the usual 100 detections
        options["detections"] = DETECTIONS_WITH_KEYPOINTS
    found: dict[str, Any] = {"model": model.name, "task": model.task, "side": side or model.preprocess.height}
    lowerings = ("onnx", "static") if model.task == "detection" else ("auto",)
    for lowering in lowerings:
        name = "onnx" if lowering == "auto" else lowering
        document: dict[str, Any] = {}

        def export(lowering: Any = lowering, document: dict[str, Any] = document) -> dict[str, Any]:
            document |= bbx.export(model.name, lowering=lowering, **options)
            return document

        def compare(document: dict[str, Any] = document) -> dict[str, Any]:
            return bbx.parity(document["artifact"], images=images)

        found[name] = verdict(export)
        if document and name == "onnx":
            found["images"] = verdict(compare)
    for precision in ("fp32", "fp16"):

        def build(precision: Any = precision) -> dict[str, Any]:
            return bbx.build_engine(model.name, precision=precision, **options)

        found[precision] = verdict(build)
    return found


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
    asked = [preset(name) for name in sys.argv[1:]]
    models = asked or [*presets("detection"), *presets("segmentation")]
    done = {each["model"]: each for each in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with warm(), tempfile.TemporaryDirectory() as images:
        write_images(Path(images))
        for index, model in enumerate(models):
            if model.name in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                done[model.name] = row(model, Path(folder), Path(images))
            print(f"[{index + 1}/{len(models)}]", json.dumps(done[model.name]), flush=True)
            RESULTS.write_text(json.dumps(list(done.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
