"""Tables of what was measured, from the committed results; used as `docs/generate.py` is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generate import table

from bbx.models.registry import presets

RESULTS = Path(__file__).parent / "results"
"""Measurements that are committed, each written by a command of the `Makefile`."""

_NETWORK = ("convolutions", "matrix products")
"""Parts of a detector's graph that are the network proper. In `static`, suppression adds to the second."""


def transfer_table() -> str:
    """What `make transfer` found."""
    found = json.loads((RESULTS / "transfer.json").read_text())
    titles = {
        "backbone": "the backbone, on 0 to 4",
        "frozen": "all ten, backbone frozen",
        "fine_tuned": "all ten, fine-tuned",
    }
    rows = (
        [
            titles[name],
            f"{run['top1']:.1%}",
            f"{run['epoch']}",
            f"{run['parameters']['trained']:,}",
            f"{run['cpu_s']:.0f} s",
        ]
        for name, run in found["runs"].items()
    )
    return table(("run", "top-1", "best epoch", "parameters learnt", "CPU time"), rows)


def dense_table() -> str:
    """What became of every detector and segmenter: written by `make coverage`."""
    file = RESULTS / "dense.json"
    if not file.exists():
        return "Not measured yet: `make coverage` writes the figures.\n"
    rows = json.loads(file.read_text())
    known = [preset.name for task in ("detection", "segmentation") for preset in presets(task)]
    missing = [name for name in known if name not in {row["model"] for row in rows}]
    said = f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}.\n\n" if missing else ""
    return said + table(
        (
            "model",
            "pixels",
            "ONNX",
            "on 32 images, each at batch 1, 2 and 5",
            "ONNX, `static`",
            "engine FP32",
            "engine FP16",
            "parity of FP16",
        ),
        (
            [
                f"`{row['model']}`",
                str(row["side"]),
                _form(row.get("onnx")),
                _form(row["images"] if "batches" in row.get("images", {}) else None),
                _form(row.get("static")),
                row.get("fp32", {}).get("precision", "–"),
                row.get("fp16", {}).get("precision", "–"),
                _form(row.get("fp16")),
            ]
            for row in rows
        ),
    )


def _form(found: dict[str, Any] | None) -> str:
    """The parity of one form of a detector or a segmenter, with its figure where there is one."""
    if found is None:
        return "–"
    if "matched" in found:
        return f"{found['parity']}, {found['matched']} of {found['matched'] + found['missing']} matched"
    return f"{found['parity']}, {found['rel_l2']:.1e}" if found.get("rel_l2") else found["parity"]


def self_table() -> str:
    """What bbx itself costs, against what it promises: written by `make bench-self`."""
    file = RESULTS / "bench_self.json"
    if not file.exists():
        return "Not measured yet: `make bench-self` writes the figures.\n"
    done = json.loads(file.read_text())
    rows = [
        (what, promised, value, part["measured"][:10], f"{part['load_before']:.1f}")
        for name, part in done.items()
        for what, promised, value in _SELF[name](part["found"])
    ]
    return table(("what", "promised", "measured", "on", "load before"), rows)


Figures = list[tuple[str, str, str]]


def _start_up(found: dict[str, float]) -> Figures:
    return [(f"`{name}`, a whole process", "0.35 s", f"{seconds:.2f} s") for name, seconds in found.items()]


def _export(found: dict[str, Any]) -> Figures:
    return [
        (
            "`bbx export resnet50`, wall time by a bare script's",
            "1.25",
            f"{found['wall_ratio']['median']:.2f}",
        ),
        ("its peak memory by that script's", "1.3", f"{found['peak_memory_ratio']['median']:.2f}"),
        ("the same export again", "2 s", f"{found['second_export_s']['median']:.2f} s"),
    ]


def _harness(found: dict[str, Any]) -> Figures:
    off = [
        (
            f"median of {each['model']} ({each['latency_ms']:.3g} ms), off a tight loop's",
            "0.5%" if each["latency_ms"] < 10 else "0.1%",
            f"{abs(each['median_ratio'] - 1):.2%} ({each['ci95'][0] - 1:+.2%} to {each['ci95'][1] - 1:+.2%})",
        )
        for each in found["models"]
    ]
    return [*off, ("the harness's own cost of a run", "1 µs", f"{found['overhead_ns'] / 1e3:.2f} µs")]


def _forked(found: dict[str, Any]) -> Figures:
    return [
        (
            f"a row on {runtime} in a forked child by one in a fresh interpreter",
            "",
            f"{each['median_ratio']:.3f}",
        )
        for runtime, each in found.items()
    ]


def _compare(found: list[dict[str, Any]]) -> Figures:
    rows: Figures = []
    for each in found:
        length = f"{each['milliseconds']:g} ms"
        alike, longer = sum(each["equal"].values()), sum(each["slower_by_5_percent"].values())
        if alike >= 20:  # fewer are there for their duration
            rows += [
                (
                    f"false alarms in {alike} comparisons of equal work of {length}",
                    "0.5%",
                    f"{each['false_alarm_rate']:.1%}",
                ),
                (f"+5 % found in {longer} comparisons of {length}", "95%", f"{each['found_rate']:.0%}"),
            ]
        rows.append((f"a comparison of {length}", "10 s", f"{each['seconds']:.1f} s"))
    return rows


def _page(found: dict[str, Any]) -> Figures:
    return [
        (f"`report.html` of {found['rows']} rows", "5 MB", f"{found['page_bytes'] / 1e6:.2f} MB"),
        ("opening it", "1 s", f"{found['open_ms']['clock'] / 1e3:.2f} s"),
        ("sorting it", "1 s", f"{found['sort_ms']['clock'] / 1e3:.2f} s"),
    ]


_SELF: dict[str, Callable[[Any], Figures]] = {
    "start_up_s": _start_up,
    "export": _export,
    "harness": _harness,
    "forked_rows": _forked,
    "compare": _compare,
    "page": _page,
}


def detectors_tables() -> str:
    """Faster R-CNN side by side, as a whole and by part: written by `make detectors`."""
    file = RESULTS / "detectors.json"
    if not file.exists():
        return "Not measured yet: `make detectors` writes the figures.\n"
    found = json.loads(file.read_text())
    batches = [key for key in found if key.startswith("batch ")]
    titles = list(dict.fromkeys(title for batch in batches for title in found[batch]))
    whole = table(
        ("", "nodes", *(f"seconds an image, {batch}" for batch in batches)),
        (
            [
                title,
                str(found["graphs"].get(title, {}).get("nodes", "–")),
                *(_seconds(found[batch].get(title)) for batch in batches),
            ]
            for title in titles
        ),
    )
    made = ", ".join(f"{library} {version}" for library, version in found["versions"].items())
    return "\n".join(
        [
            f"Median of the rounds, {found['threads']} threads, {made}:\n",
            whole,
            *(_parts_table(batch, found[batch]) for batch in batches),
        ]
    )


def _seconds(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['seconds_an_image']:.3f}"


def _parts_table(batch: str, rows: dict[str, Any]) -> str:
    """Seconds an inference and nodes that ran, by part of the graph."""
    graphs = {title: row["parts"] for title, row in rows.items() if "parts" in row}
    parts = sorted({part for of_graph in graphs.values() for part in of_graph}, key=_network_first)
    rest = [_part(_sum(of_graph)) for of_graph in graphs.values()]
    return table(
        (f"{batch}: seconds an inference (nodes run)", *graphs),
        [
            *([part, *(_part(of_graph.get(part)) for of_graph in graphs.values())] for part in parts),
            ["all but convolutions and matrix products", *rest],
        ],
    )


def _network_first(part: str) -> tuple[bool, str]:
    """Sort key: the network proper first."""
    return part not in _NETWORK, part


def _sum(parts: dict[str, Any]) -> dict[str, Any]:
    """What is not the network proper, as one part."""
    small = [found for part, found in parts.items() if part not in _NETWORK]
    return {key: sum(found[key] for found in small) for key in ("seconds", "nodes")}


def _part(found: dict[str, Any] | None) -> str:
    return "–" if found is None else f"{found['seconds']:.3f} ({found['nodes']})"
