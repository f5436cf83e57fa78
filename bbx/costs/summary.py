"""`bbx summary`: what a model or a graph consists of, what it costs, and how fast a GPU could be at most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bbx import process
from bbx.artifact import read_manifest, specs_to_json
from bbx.costs.gpus import GpuPeaks, gpu_named
from bbx.costs.layers import BYTES_OF, Costs, Layer
from bbx.costs.roofline import Roofs
from bbx.errors import UsageError
from bbx.models.registry import check_options, lowered
from bbx.models.spec import ModelSpec
from bbx.models.trained import named_spec
from bbx.types import PRECISIONS, SCHEMA, Precision, TensorSpec

Document = dict[str, Any]


def summary(
    model: str,
    *,
    batch: int = 1,
    precision: Precision | None = None,
    gpu: str | None = None,
    listener: process.Listener = process.silent,
    **spec_options: Any,
) -> Document:
    """Count what a model consists of and what one inference costs; nothing is downloaded.

    Args:
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, a checkpoint that
            `bbx train` wrote, or a `file.onnx`.
        batch: rows of the input.
        precision: of weights and activations, for bytes and the roofline; by default FP32, or what the
            graph's manifest says.
        gpu: a name of `bbx.costs.gpus.GPUS`, for the roofline.
        listener: hears warnings.
        **spec_options: of the model, as for `bbx.export`; of a `file.onnx` only `image_size`, for one whose
            height and width are dynamic.

    Returns:
        The document of `bbx summary --json`: `model`, `kind` (`module` or `onnx`), `batch`, `precision`,
        `inputs`, `outputs`, `layers`, `totals` and `roofline` (null without a GPU).

    Raises:
        UsageError: no such GPU or precision, or one that the GPU does not compute in.
        BbxError: any other reason why the model cannot be built or the graph read.
    """
    if batch < 1:
        raise UsageError(f"--batch must be at least 1, and is {batch}.")
    named_gpu = gpu_named(gpu) if gpu is not None else None
    if model.endswith(".onnx"):
        request = {"graph": model, "size": _only_size(model, spec_options)}
        precision = precision or _recorded_precision(Path(model))
    else:
        spec = lowered(named_spec(model, spec_options), "static")
        check_options(spec)
        request = {"spec": spec.to_request()}
    precision = precision or "fp32"
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r}.", hint=f"Known: {', '.join(PRECISIONS)}.")
    request |= {"model": model, "batch": batch, "precision": precision}
    request["gpu"] = None if named_gpu is None else _checked(named_gpu, precision).name
    return process.run_task("bbx.costs.summary:summary_task", request, listener=listener)


def _only_size(model: str, options: dict[str, Any]) -> Any:
    """The one option that a graph takes."""
    given = ModelSpec.from_request({"name": model, **options})
    if replace(given, image_size=None) != ModelSpec(model):
        raise UsageError(
            f"{model} is a graph, and options of a model do not apply to it.",
            hint="Leave out all but --image-size, or name the model.",
        )
    return given.size


def _recorded_precision(path: Path) -> Precision | None:
    manifest = read_manifest(path)
    return None if manifest is None else manifest.precision


def _checked(gpu: GpuPeaks, precision: Precision) -> GpuPeaks:
    if precision not in gpu.flops:
        raise UsageError(
            f"{gpu.product} does not compute in {precision}.", hint=f"It does in {', '.join(gpu.flops)}."
        )
    return gpu


def summary_task(request: Document) -> Document:
    """Count; runs in a child process.

    Args:
        request: `model`, `batch`, `precision`, `gpu`, and `spec`, or `graph` with `size`.

    Returns:
        As `summary`.
    """
    if "graph" in request:
        from bbx.costs.graph import graph_costs  # onnx

        size = tuple(request["size"]) if request["size"] else None
        costs = graph_costs(Path(request["graph"]), request["batch"], size)
    else:
        costs = _module_costs(request)
    precision: Precision = request["precision"]
    gpu = None if request["gpu"] is None else gpu_named(request["gpu"])
    return {
        "schema": SCHEMA,
        "model": request["model"],
        "kind": "onnx" if "graph" in request else "module",
        "batch": request["batch"],
        "precision": precision,
        "inputs": specs_to_json(costs.inputs),
        "outputs": specs_to_json(costs.outputs),
        "layers": [_layer(layer, precision, gpu) for layer in costs.layers],
        "totals": _totals(costs, precision),
        "roofline": None if gpu is None else _roofline(costs, precision, gpu),
        "not_counted": list(costs.not_counted),
        "unknown_shapes": costs.unknown_shapes,
    }


def _module_costs(request: Document) -> Costs:
    from bbx.costs.module import module_costs  # torch
    from bbx.models.outline import outline

    model = outline(ModelSpec.from_request(request["spec"]))
    inputs = [TensorSpec(spec.name, spec.dtype, spec.concrete(request["batch"])) for spec in model.inputs]
    return module_costs(model.module, inputs, [spec.name for spec in model.outputs])


def _layer(layer: Layer, precision: Precision, gpu: GpuPeaks | None) -> Document:
    moved = layer.moved.nbytes(precision)
    document: Document = {
        "name": layer.name,
        "type": layer.type,
        "output_shape": None if layer.output_shape is None else list(layer.output_shape),
        "calls": layer.calls,
        "parameters": layer.parameters,
        "trainable": layer.trainable,
        "flops": layer.flops,
        "activation_bytes": layer.written.nbytes(precision),
        "moved_bytes": moved,
    }
    if gpu is not None:
        roofs = _roofs(gpu, precision)
        document["bound"] = roofs.bound(layer.flops, moved)
        document["seconds_at_least"] = roofs.seconds(layer.flops, moved)
    return document


def _totals(costs: Costs, precision: Precision) -> Document:
    boundary = costs.boundary.nbytes(precision)
    moved = _moved(costs.layers, precision)
    return {
        "parameters": costs.parameters,
        "trainable": sum(layer.trainable for layer in costs.layers),
        "parameter_bytes": {each: costs.parameters * BYTES_OF[each] for each in PRECISIONS},
        "buffer_bytes": costs.buffers.nbytes(precision),
        "flops": costs.flops,
        "activation_bytes": sum(layer.written.nbytes(precision) for layer in costs.layers),
        "peak_activation_bytes": costs.peak(precision),
        "moved_bytes": moved,
        "boundary_bytes": boundary,
        "intensity": costs.flops / moved if moved else 0.0,
    }


def _moved(layers: Iterable[Layer], precision: Precision) -> int:
    return sum(layer.moved.nbytes(precision) for layer in layers)


def _roofs(gpu: GpuPeaks, precision: Precision) -> Roofs:
    return Roofs(gpu.flops[precision], gpu.bandwidth)


def _roofline(costs: Costs, precision: Precision, gpu: GpuPeaks) -> Document:
    """The least time layer by layer, and the least of any way to compute the same operations."""
    roofs = _roofs(gpu, precision)
    boundary = costs.boundary.nbytes(precision)
    seconds = {"compute": 0.0, "memory": 0.0}
    for layer in costs.layers:
        moved = layer.moved.nbytes(precision)
        seconds[roofs.bound(layer.flops, moved)] += roofs.seconds(layer.flops, moved)
    total = sum(seconds.values())
    at_least = roofs.seconds(costs.flops, boundary)
    return {
        "gpu": gpu.name,
        "product": gpu.product,
        "source": gpu.source,
        "precision": precision,
        "peak_flops": roofs.flops,
        "bandwidth": roofs.bandwidth,
        "ridge": roofs.ridge,
        "seconds_layer_by_layer": total,
        "memory_bound_share": seconds["memory"] / total if total else 0.0,
        "seconds_at_least": at_least,
        "bound": roofs.bound(costs.flops, boundary),
    }
