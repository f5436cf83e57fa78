"""Tables of what eight bits cost and gave, from the committed results; used as `docs/generate.py` is."""

from __future__ import annotations

import json
import statistics
from typing import Any

from generate import table
from measured import RESULTS

from bbx.models.registry import presets

_EIGHT_BIT = ("int8", "float8_e4m3fn")


def int8_table() -> str:
    """What quantising gave on networks with real weights, side by side."""
    path = RESULTS / "int8.json"
    if not path.is_file():
        return "Not measured yet: `python -m tests.performance.int8 accuracy`\n"
    rows = [
        (
            row["model"],
            row["way"],
            f"{row['quantised']} of {row['layers']}",
            f"{row['agreement']:.1%}",
            f"{row['rel_l2']:.3f}",
        )
        for row in json.loads(path.read_text())
    ]
    head = ("network", "way", "layers in INT8", "top-1 agreement", "relative L2 of the logits")
    return table(head, rows) + (
        "\n96 calibration crops of photographs, judged on 256 others against FP32; "
        "`python -m tests.performance.int8 accuracy --modelopt PYTHON`, an interpreter that has ModelOpt.\n"
    )


def digits_table() -> str:
    """What quantising cost networks that learnt digits, side by side."""
    path = RESULTS / "int8_digits.json"
    if not path.is_file():
        return "Not measured yet: `make int8-digits`\n"
    found = json.loads(path.read_text())
    plain = {row["model"]: row["right"] for row in found if row["way"] == "FP32"}
    rows = [
        (
            row["model"],
            row["way"],
            "–" if row["way"] == "FP32" else f"{row['quantised']} of {row['layers']}",
            f"{row['right'] / row['of']:.2%}",
            "–" if row["way"] == "FP32" else f"{100 * (row['right'] - plain[row['model']]) / row['of']:+.2f}",
        )
        for row in found
    ]
    head = ("network", "way", "layers in INT8", "top-1", "points")
    return table(head, rows) + (f"\n{found[0]['of']} unseen digits; `make int8-digits`.\n")


def scenes_table() -> str:
    """What quantising cost detectors and a segmenter that learnt scenes of digits."""
    path = RESULTS / "int8_scenes.json"
    if not path.is_file():
        return "Not measured yet: `make int8-scenes`\n"
    rows = [
        (
            f"`{row['model']}`",
            row["metric"],
            f"{row['quantised']} of {row['quantised'] + row['kept']}",
            f"{row['fp32']:.4f}",
            f"{row['int8']:.4f}",
            f"{100 * (row['int8'] - row['fp32']):+.2f}",
        )
        for row in json.loads(path.read_text())
    ]
    head = ("network", "metric", "layers in INT8", "FP32", "INT8", "points")
    return table(head, rows) + (
        "\nCalibrated on 48 scenes of the training part, judged on 48 unseen ones; `make int8-scenes`.\n"
    )


def presets_int8_table() -> str:
    """What became of each preset in eight bits."""
    path = RESULTS / "presets_int8.json"
    if not path.is_file():
        return "Not measured yet: `make presets-int8`\n"
    measured = {row["model"]: row for row in json.loads(path.read_text())}
    names = [each.name for each in presets()]
    engines = ("int8 engine", "fp8 engine", "int8+fp16 engine")
    missing = [f"`{name}`" for name in names if name not in measured]
    found = table(
        ("preset", "weights", "in INT8", "INT8", "stages", "FP8", *engines, "its 16 bits"),
        (
            [
                f"`{row['model']}`" + (f", stopped {row['stopped']}" if "stopped" in row else ""),
                row.get("int8", {}).get("weights", "–"),
                _layers(row.get("int8", {})),
                *(_verdict(row.get(what)) for what in ("int8", "stages", "fp8", *engines)),
                row.get("int8+fp16 engine", {}).get("parity", "–"),
            ]
            for row in (measured[name] for name in names if name in measured)
        ),
    )
    if not missing:
        return found
    return f"{found}\nNot reached yet: {', '.join(missing)}.\n"


def _layers(found: dict[str, Any]) -> str:
    """How many layers are in eight bits, of how many."""
    return f"{found['quantised']} of {found['quantised'] + found['kept']}" if "quantised" in found else "–"


def _verdict(found: dict[str, Any] | None) -> str:
    """A verdict, and for engines the share of weight bytes in eight bits."""
    if found is None:
        return "–"
    weights = found.get("weight_bytes")
    if not weights or not sum(weights.values()):
        return str(found["verdict"])
    share = sum(size for kind, size in weights.items() if kind in _EIGHT_BIT) / sum(weights.values())
    return f"{found['verdict']}, {share:.0%}"


def refine_table() -> str:
    """What each step of refinement gives, alone and after the others."""
    head = ("network", "steps", "undone", "agreement", "relative L2", "seconds")
    rows = (
        [
            f"`{row['model']}`",
            ", ".join(f"`{step}`" for step in row["steps"]) or "none",
            ", ".join(_undone(step, row["judged"]) for step in row["undone"]) or "–",
            f"{row['agreement']:.3f}",
            f"{row['rel_l2']:.4f}",
            f"{row['seconds']:.0f}",
        ]
        for row in json.loads((RESULTS / "refine.json").read_text())
    )
    return table(head, rows)


def _undone(step: str, judged: dict[str, list[float]]) -> str:
    """A step that was undone, with the error before and after it where that was kept."""
    if step not in judged:
        return f"`{step}`"
    before, after = judged[step]
    return f"`{step}` ({before:.3f} to {after:.3f})"


def calibration_cost() -> str:
    """What collecting ranges costs on a ResNet-50: medians over the rounds of a committed run."""
    path = RESULTS / "calibration.json"
    if not path.is_file():
        return "Not measured yet: `python -m tests.performance.int8 cost`\n"
    rows = json.loads(path.read_text())
    plain = statistics.median(row["seconds"] for row in rows if row["way"] == "inference")
    images = next(row["images"] for row in rows if row["way"] == "inference")
    medians = []
    for way, count in dict.fromkeys((row["way"], row["images"]) for row in rows):
        same = [row for row in rows if (row["way"], row["images"]) == (way, count)]
        seconds = statistics.median(row["seconds"] for row in same)
        peak = statistics.median(row["peak_rss_bytes"] for row in same)
        ratio = seconds / (plain * count / images)
        medians.append((way, str(count), f"{ratio:.1f}", f"{peak / 1e6:,.0f} MB"))
    head = ("what", "images", "time, inference alone is 1", "peak memory of the process")
    return table(head, medians) + (
        "\nResNet-50 at 224, entropy, by turns; `python -m tests.performance.int8 cost`.\n"
    )
