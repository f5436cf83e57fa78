"""What precision an engine has, compared with what was asked: proven, not requested.

The engine is compiled strongly typed, so the types of the parsed network are the types it computes in; the
plan's weight bytes are the independent witness that the file on disk agrees.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bbx.exporter.network_facts import LayerFacts, NetworkFacts
from bbx.exporter.plan_weights import PlanWeights
from bbx.types import Precision, PrecisionVerdict

DTYPE_OF: dict[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "fp8": "float8_e4m3fn",
}
LEAST_SHARE = 0.5
"""Share of the compute layers, and of weight bytes, that must be in the type that was asked for."""
_NAMED = 4


@dataclass(frozen=True, slots=True)
class PrecisionProof:
    """What was asked, what the engine holds, and whether the two agree.

    Attributes:
        achieved: by dtype, `layers` (convolutions, matrix products, attention) and `weight_bytes`.
        evidence: where `achieved` was read.
        reasons: why the verdict is `fail`; empty for `pass`.
    """

    requested: Precision
    verdict: PrecisionVerdict
    achieved: dict[str, dict[str, int]]
    evidence: str
    reasons: tuple[str, ...]


def precision_proof(
    requested: Precision,
    network: NetworkFacts,
    weights: PlanWeights | None = None,
    *,
    kept: Collection[str] = (),
    inspected: Mapping[str, Mapping[str, int]] | None = None,
) -> PrecisionProof:
    """Compare an engine with the precision that was asked for.

    FP32 passes when every compute layer is FP32 and no weight is stored in fewer bits. Any other precision
    passes when at least half of the compute layers and half of the weight bytes are in its type, and every
    compute layer in a wider type is one of `kept`; those of `kept` that have no weights are not counted
    (the products of box suppression). For INT8 and FP8, FP16 or BF16 is as good as kept
    (the unquantised rest of the graph). A network without a compute layer passes FP32 only.

    Args:
        network: from `bbx.exporter.to_engine.EngineBuild`.
        weights: from `bbx.exporter.plan_weights.weights_in_plan`; None for a stripped plan, which has none.
        kept: names of ONNX nodes that were left in FP32 on purpose (`TypedGraph.kept`).
        inspected: from `bbx.exporter.inspector.inspect_engine`, where the engine could be loaded: at least
            half of the compute layers that TensorRT finished with must be in the type too.
    """
    layers = network.compute_layers
    stored = weights.found if weights is not None else {}
    achieved = _achieved(layers, stored, counted_in_plan=bool(stored))
    wanted = DTYPE_OF[requested]
    reasons = [
        *_layer_reasons(requested, layers, set(kept)),
        *_weight_reasons(wanted, achieved),
        *_inspector_reasons(wanted, inspected or {}),
    ]
    return PrecisionProof(
        requested=requested,
        verdict="fail" if reasons else "pass",
        achieved=achieved,
        evidence=_evidence(weights) + ("; TensorRT's engine inspector" if inspected else ""),
        reasons=tuple(reasons),
    )


def _achieved(
    layers: tuple[LayerFacts, ...], stored: dict[str, int], *, counted_in_plan: bool
) -> dict[str, dict[str, int]]:
    achieved: dict[str, dict[str, int]] = {}
    for layer in layers:
        entry = achieved.setdefault(layer.dtype, {"layers": 0, "weight_bytes": 0})
        entry["layers"] += 1
        entry["weight_bytes"] += 0 if counted_in_plan else layer.weight_bytes
    for dtype, count in stored.items():
        achieved.setdefault(dtype, {"layers": 0, "weight_bytes": 0})["weight_bytes"] += count
    return dict(sorted(achieved.items()))


def _evidence(weights: PlanWeights | None) -> str:
    read = "tensor types of the strongly typed network that was compiled"
    if weights is None or not weights.found:
        return f"{read}; its weights, since none were found in the plan"
    total = sum(weights.found.values()) + weights.missing
    share = sum(weights.found.values()) / total
    return f"{read}; weight bytes found in the plan ({share:.1%} of the graph's large weights)"


def _layer_reasons(requested: Precision, layers: tuple[LayerFacts, ...], kept: set[str]) -> list[str]:
    wanted = DTYPE_OF[requested]
    allowed = {wanted} | ({"float16", "bfloat16"} if requested in ("int8", "fp8") else set())
    others = [layer for layer in layers if layer.dtype not in allowed]
    if requested != "fp32":
        if not layers:
            return [f"the network has no compute layer, so nothing is in {wanted}"]
        others = [layer for layer in others if not {layer.node, layer.name} & kept]
    reasons = []
    if others:
        named = ", ".join(f"{layer.node} ({layer.dtype})" for layer in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        reasons.append(f"{len(others)} of {len(layers)} compute layers are not in {wanted}: {named}{more}")
    # A product without weights that was kept on purpose, as in suppression, is no part of the network proper.
    counted = [layer for layer in layers if layer.weight_bytes or not {layer.node, layer.name} & kept]
    reached = sum(layer.dtype == wanted for layer in counted)
    if reached < LEAST_SHARE * len(counted):
        reasons.append(f"only {reached} of {len(counted)} compute layers are in {wanted}")
    return reasons


def _inspector_reasons(wanted: str, inspected: Mapping[str, Mapping[str, int]]) -> list[str]:
    total = sum(entry["layers"] for entry in inspected.values())
    reached = inspected[wanted]["layers"] if wanted in inspected else 0
    if reached >= LEAST_SHARE * total:
        return []
    return [f"the engine inspector finds {reached} of {total} compute layers in {wanted}"]


def _weight_reasons(wanted: str, achieved: dict[str, dict[str, int]]) -> list[str]:
    total = sum(entry["weight_bytes"] for entry in achieved.values())
    reached = achieved.get(wanted, {"weight_bytes": 0})["weight_bytes"]
    least = total if wanted == "float32" else LEAST_SHARE * total
    if reached >= least:
        return []
    return [f"{reached} of {total} weight bytes are stored in {wanted}"]
