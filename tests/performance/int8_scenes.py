"""What eight bits cost the detectors and the segmenter that learnt scenes of digits.

    python -m tests.performance.int8_scenes [fasterrcnn|ssdlite|segmenter ...]

writes `docs/results/int8_scenes.json`: mAP@0.5 or mIoU on 48 unseen scenes, FP32 and INT8 (`--method auto`),
calibrated on 48 scenes of the training part. A model that is not in the cache is trained first.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import bbx
from bbx.artifact import read_manifest
from bbx.errors import CheckFailed
from bbx.images import apply
from bbx.outputs import Detected, Segmented, restore
from bbx.runners.ort import OrtRunner
from tests.scenes.coco import mean_ap
from tests.scenes.compose import Scene, coco_dataset, scenes
from tests.scenes.evaluate import mean_iou
from tests.scenes.train import CLASSES, NAMES, RECIPES, Name, trained

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "int8_scenes.json"
PRESETS: dict[Name, str] = {
    "fasterrcnn": "fasterrcnn_r18_fpn",
    "ssdlite": "ssdlite320_mobilenet_v3_large",
    "segmenter": "lraspp_mobilenet_v3_large",
}
SCENES, BATCH = 48, 8


def score(path: Path, composed: list[Scene]) -> float:
    """MAP@0.5 of a detector's graph, mIoU of a segmenter's."""
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest.preprocess is not None
    assert manifest.postprocess is not None
    feed = np.stack([apply(Image.fromarray(scene.image), manifest.preprocess) for scene in composed])
    parts: list[dict[str, Any]] = []
    with OrtRunner(path, exact=True) as runner:
        for start in range(0, len(feed), BATCH):
            answer = runner.infer({"images": feed[start : start + BATCH]})
            parts.append({name: np.array(value) for name, value in answer.items()})
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sizes = [(scene.image.shape[1], scene.image.shape[0]) for scene in composed]
    found = restore(outputs, manifest.preprocess, manifest.postprocess, sizes)
    if manifest.postprocess.task == "segmentation":
        labels = np.stack([each.labels for each in found if isinstance(each, Segmented)])
        return mean_iou(np.stack([scene.mask for scene in composed]), labels)
    results = [
        {"boxes": each.boxes, "scores": each.scores, "labels": each.labels}
        for each in found
        if isinstance(each, Detected)
    ]
    return float(mean_ap(coco_dataset(composed), results)["mAP50"])


def measured(name: Name, folder: Path) -> dict[str, Any]:
    """One model's row."""
    size = RECIPES[name].size
    options: dict[str, Any] = {"weights": str(trained(name)[1]), "num_classes": CLASSES}
    options |= {} if name == "ssdlite" else {"image_size": size}
    options |= {} if name == "segmenter" else {"lowering": "onnx"}
    pictures = folder / "calibration"
    pictures.mkdir()
    for number, scene in enumerate(scenes(SCENES, 1000, "train", size)):
        Image.fromarray(scene.image).save(pictures / f"{number:03d}.png")
    unseen = scenes(SCENES, 0, "test", size)
    plain = bbx.export(PRESETS[name], **options, out=folder)
    try:
        eight = bbx.quantize(PRESETS[name], **options, calib=str(pictures), out=folder)
    except CheckFailed as error:
        if error.document is None:  # nothing was made, so there is nothing to score
            raise
        eight = error.document
    fp32, int8 = (score(Path(document["artifact"]), unseen) for document in (plain, eight))
    return {
        "model": PRESETS[name],
        "metric": "mIoU" if name == "segmenter" else "mAP50",
        "fp32": fp32,
        "int8": int8,
        "parity": eight["parity"]["verdict"],
        "quantised": len(eight["quantized_nodes"]),
        "kept": len(eight["kept_nodes"]),
    }


def main() -> None:
    """Measure the models that are named, or all; the rows of the others stay."""
    asked = sys.argv[1:] or NAMES
    rows = {row["model"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for name in NAMES:
        if name in asked:
            with tempfile.TemporaryDirectory() as folder:
                rows[PRESETS[name]] = measured(name, Path(folder))
            print(json.dumps(rows[PRESETS[name]]), flush=True)
            RESULTS.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
