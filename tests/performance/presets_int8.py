"""Every preset in eight bits: quantised, compared stage by stage, and built as TensorRT-for-RTX engines.

    python -m tests.performance.presets_int8 [--cap SECONDS] [--until HH:MM] [PRESET ...]

writes `docs/results/presets_int8.json`, one row a preset, from which docs/presets-int8.md has its table. Each
is calibrated on 16 crops of photographs, in a process of its own with a time limit; what was done by then is
kept. Presets that have a row are left out, so that a run that was stopped goes on where it was; those that
are named are measured anew. The cheapest come first.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bbx
from bbx.errors import BbxError, Cancelled, CheckFailed
from bbx.models.registry import preset, presets
from bbx.models.spec import Preset
from tests.performance.crops import crops
from tests.performance.warm import warm

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "presets_int8.json"
CROPS, BATCH = 16, 4
DENSE_SIZE = 320
"""Side of the images of detectors and segmenters that take any; their own take an hour each on a CPU."""
CAP_S = 900


# --- one preset, in a process of its own -------------------------------------------------------------


def measure(name: str, folder: Path, target: Path) -> None:
    """Write what becomes of one preset, after every part of it."""
    model = preset(name)
    row: dict[str, Any] = {"model": name, "task": model.task, **_options(model)}
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, crop in enumerate(crops(CROPS, 1)):
        crop.save(pictures / f"{number:02d}.png")
    given = {**_options(model), "calib": str(pictures), "calib_batch": BATCH}
    given |= {"lowering": "static"} if model.task == "detection" else {}

    def did(what: str, make: Callable[[], dict[str, Any]], told: Callable[[dict[str, Any]], Any]) -> Any:
        """Do one thing, and say what came of it; returns its document, or None."""
        began = time.perf_counter()
        document, error = None, ""
        try:
            document = make()
        except Cancelled:
            raise
        except CheckFailed as failure:
            document, error = failure.document, str(failure)
        except BbxError as failure:
            error = str(failure)
        found = {"verdict": "error"} if document is None else told(document)
        row[what] = found | ({"error": error} if error else {})
        row[what]["seconds"] = round(time.perf_counter() - began, 1)
        target.write_text(json.dumps(row))
        return document

    for kind in ("int8", "fp8"):
        made = did(
            kind, lambda kind=kind: bbx.quantize(name, precision=kind, out=folder, **given), _quantised
        )
        if made is None:
            continue
        graph = made["artifact"]
        for rest in ("fp32", "fp16") if kind == "int8" else ("fp32",):
            label = f"{kind} engine" if rest == "fp32" else f"{kind}+{rest} engine"
            did(
                label,
                lambda kind=kind, rest=rest, graph=graph: bbx.build_engine(
                    graph, precision=kind, rest=rest, flavor="rtx", out=folder
                ),
                _engine,
            )
        if kind == "int8":
            did("stages", lambda graph=graph: bbx.parity(graph, images=pictures), _stages)


def _options(model: Preset) -> dict[str, Any]:
    """A smaller image where the network takes any."""
    free = model.task != "classification" and not model.fixed_size
    return {"image_size": DENSE_SIZE} if free else {}


def _quantised(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": document["parity"]["verdict"],
        "reason": " ".join(document["parity"]["reasons"][:1]),
        "quantised": len(document["quantized_nodes"]),
        "kept": len(document["kept_nodes"]),
        "weights": document["weights"] if isinstance(document["weights"], str) else "file",
    }


def _engine(document: dict[str, Any]) -> dict[str, Any]:
    if "targets" not in document:  # the graph in 16 bits lost parity, and nothing was compiled
        return {"verdict": "error"}
    precision = document["precision"]
    weights = {kind: found["weight_bytes"] for kind, found in precision["achieved"].items()}
    return {
        "verdict": precision["verdict"],
        "targets": document["targets"],
        "weight_bytes": weights,
        "parity": document["parity"]["verdict"],
        "reason": " ".join(document["parity"]["reasons"][:1]),
    }


def _stages(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": document["verdict"],
        "pinned": document["pinned"],
        "stages": {each["stage"]: each["verdict"] for each in document["stages"] if each["ran"]},
    }


# --- all of them -------------------------------------------------------------------------------------


def by_cost() -> list[str]:
    """Names of all presets, those of the fewest operations first, as torchvision has counted them.

    What torchvision does not have comes after the rest.
    """
    from torchvision.models import get_model_weights

    def operations(model: Preset) -> float:
        kind, _, name = model.source.partition(":")
        return get_model_weights(name).DEFAULT.meta["_ops"] if kind == "torchvision" else float("inf")

    return [model.name for model in sorted(presets(), key=operations)]


def in_a_child(name: str, cap_s: float) -> dict[str, Any]:
    """The row of a preset; of one that took too long, what was done by then."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "row.json"
        command = [sys.executable, "-m", "tests.performance.presets_int8", "--one", name, "--folder", folder]
        child = subprocess.Popen(command)
        try:
            code: int | None = child.wait(timeout=cap_s)
        except subprocess.TimeoutExpired:
            child.terminate()  # which ends what it started, too
            child.wait()
            code = None
        row: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {"model": name}
        if code != 0:
            row["stopped"] = f"after {cap_s:g} s" if code is None else f"with exit code {code}"
        return row


def main() -> None:
    """Go through the presets that are named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--cap", type=float, default=CAP_S)
    parser.add_argument("--until", help="UTC time of the day after which no further preset is begun")
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.one:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with warm():
            measure(given.one, given.folder, given.folder / "row.json")
        return
    done = {row["model"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for name in given.names or [name for name in by_cost() if name not in done]:
        if given.until and datetime.now(UTC).strftime("%H:%M") >= given.until:
            break
        done[name] = in_a_child(name, given.cap)
        print(json.dumps(done[name]), flush=True)
        RESULTS.write_text(json.dumps(list(done.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
