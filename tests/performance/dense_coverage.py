"""Every detector and segmenter: ONNX in both lowerings with parity, and RTX engines in FP32 and FP16.

Run by `make coverage`; writes `docs/results/dense.json`, from which the documentation makes its table. Models
have their own image size and seeded random weights, whose heads are set to find something. Models that are
done are kept in the file, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import bbx
from bbx.errors import BbxError, CheckFailed
from bbx.models.registry import preset, presets
from bbx.models.spec import Preset

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "dense.json"


def row(model: Preset, out: Path) -> dict[str, Any]:
    """What became of one model, form by form."""
    found: dict[str, Any] = {"model": model.name, "task": model.task}
    lowerings = ("onnx", "static") if model.task == "detection" else ("auto",)
    for lowering in lowerings:
        name = "onnx" if lowering == "auto" else lowering
        found[name] = verdict(
            lambda lowering=lowering: bbx.export(model.name, weights="random", lowering=lowering, out=out)
        )
    for precision in ("fp32", "fp16"):
        found[precision] = verdict(
            lambda precision=precision: bbx.build_engine(
                model.name, precision=precision, weights="random", out=out
            )
        )
    return found


def verdict(make: Any) -> dict[str, Any]:
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
    for index, model in enumerate(models):
        if model.name in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            done[model.name] = row(model, Path(folder))
        print(f"[{index + 1}/{len(models)}]", json.dumps(done[model.name]), flush=True)
        RESULTS.write_text(json.dumps(list(done.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
