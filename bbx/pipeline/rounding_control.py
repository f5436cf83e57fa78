"""How far 16 bits may carry a quantised graph whose answers prove nothing: as far as a control is carried.

Values that 16 bits put on the other side of a quantiser's rounding may change every answer of a network that
nobody trained. The control is the Q/DQ graph itself, with noise of the size of such roundings put before
each of its quantisers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from onnx import ModelProto

from bbx import process
from bbx.exporter.control import stirred
from bbx.exporter.onnx_io import spill_onnx
from bbx.exporter.parts import giving
from bbx.exporter.verify import Arrays, Case, Distance, Parity, distance
from bbx.runners.ort import OrtRunner

STIRRED = 3
"""Controls that are tried, each with other noise: how many answers change is chance too."""

_ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff. Over a tensor the relative error of one rounding is 0.4 of it in the root mean square, and a
value is rounded several times between two quantisers."""

_AS_FAR = 1.5
"""How much farther than the farthest control a graph may be. Networks with random weights were 0.9 to 1.1
times as far; docs/results/presets_int8.json has both distances of presets that needed the excuse."""


def controlled(
    parity: Parity,
    excuse: Parity,
    source: ModelProto,
    precision: Literal["fp16", "bf16"],
    cases: Sequence[Case],
) -> Parity:
    """The excuse where a control is carried as far, else the failure; either says how far that was.

    Args:
        parity: of the graph in 16 bits with `source`: `fail`.
        excuse: the same as `inconclusive`.
        source: the Q/DQ graph.
        precision: of the 16 bits.
        cases: the inputs to run controls on.

    Returns:
        `excuse` as it is where only detections were compared, which no noise carries by a distance.
    """
    own = [case["outputs"] for case in parity.cases if "detections" not in case]
    if not own:
        return excuse
    process.progress("verify", detail="how far as much rounding carries the Q/DQ graph")
    names, apart = tuple(own[0]), _farthest(own)
    amounts = dict.fromkeys(_quantised_tensors(source), _ROUNDING[precision])
    wanted = answers(source, names, cases)
    control = 0.0
    for seed in range(STIRRED):
        moved = answers(stirred(source, amounts, seed=seed), names, cases)
        control = max(control, _farthest(_distances(wanted, moved)))
        if apart <= _AS_FAR * control:
            break
    as_far = apart <= _AS_FAR * control
    found = excuse if as_far else parity
    said = (
        f"Noise of the size of {precision.upper()} rounding carries the Q/DQ graph "
        f"from itself by a relative L2 of {'' if as_far else 'only '}{control:.2e}."
    )
    return replace(found, reasons=(f"{found.reasons[0]} {said}", *found.reasons[1:]))


def answers(model: ModelProto, names: tuple[str, ...], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Some tensors of a graph on every case, by name, numbers in float32."""
    with tempfile.TemporaryDirectory(prefix="bbx-heads-") as folder:
        path = Path(folder) / "graph.onnx"
        spill_onnx(giving(model, names), path)
        with OrtRunner(path, exact=True) as runner:
            dtypes = {spec.name: spec.dtype for spec in runner.inputs}
            given = ({name: feed.astype(dtypes[name]) for name, feed in case.feeds.items()} for case in cases)
            return [
                {
                    name: value if value.dtype.kind in "iu" else value.astype("float32")
                    for name, value in runner.infer(feeds).items()
                }
                for feeds in given
            ]


def _quantised_tensors(source: ModelProto) -> list[str]:
    """What the nodes of a Q/DQ graph give to its quantisers, in the graph's order."""
    made = {name for node in source.graph.node for name in node.output}
    read = [node.input[0] for node in source.graph.node if node.op_type == "QuantizeLinear"]
    return [name for name in dict.fromkeys(read) if name in made]


def _distances(wanted: Sequence[Arrays], given: Sequence[Arrays]) -> list[dict[str, Distance]]:
    return [
        {name: distance(want[name], got[name]) for name in want}
        for want, got in zip(wanted, given, strict=True)
    ]


def _farthest(cases: Iterable[Mapping[str, Distance]]) -> float:
    """The largest relative L2 of any tensor on any case."""
    return max(found.rel_l2 for case in cases for found in case.values())
