"""A torch module to an ONNX graph.

The exporter built on `torch.export` comes first. Where it cannot express a module, the older tracing
exporter is used, and the manifest records that it was and why.
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import rewriter
from torch import nn

from bbx.artifact import check_external_data, disk_errors
from bbx.errors import BbxError, ExhaustedError, ExportError
from bbx.exporter.lowerings import translations
from bbx.exporter.module_state import example_inputs, exporting, image_axes, torch_reason
from bbx.exporter.onnx_io import PROTOBUF_LIMIT, graph_specs, spill_onnx
from bbx.exporter.onnx_options import FLOAT32_MARK, OnnxOptions
from bbx.types import TensorSpec

_SCOPES = "pkg.torch.onnx.name_scopes"

TRACING_OPSET = 20
"""The newest opset that the tracing exporter writes."""


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """What was written.

    Attributes:
        exporter: the one that did it.
        opset: of the default domain.
        inputs: as they stand in the graph.
        outputs: as they stand in the graph.
        notes: what the user should know; the reason of a fallback among them.
    """

    exporter: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...]


def onnx_from_module(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    output_names: tuple[str, ...],
    options: OnnxOptions,
    out: Path,
) -> OnnxExport:
    """Export `module` to the ONNX file `out`, with weights over 2 GiB in `out`'s name plus `.data`.

    Args:
        module: in eval mode, on the CPU.
        inputs: the positional inputs of its forward; the leading dimension is the batch.
        output_names: one a tensor that forward returns.

    Raises:
        ExportError: a submodule is training, or no exporter could express the module.
        ExhaustedError: out of memory or disk.
        ArtifactError: `out` cannot be written.
    """
    wanted = ("dynamo", "torchscript") if options.exporter == "auto" else (options.exporter,)
    job = _Job(
        module=module,
        examples=example_inputs(inputs, options.batch),
        input_names=[spec.name for spec in inputs],
        output_names=list(output_names),
        axes=_dynamic_axes(inputs, options),
        opset=options.opset,
    )
    failures: list[str] = []
    for exporter in wanted:
        write = _write_with_dynamo if exporter == "dynamo" else _write_with_tracing
        try:
            with exporting(module), _quiet(), disk_errors(out):
                write(job, out)
        except (BbxError, MemoryError):
            raise
        except Exception as error:  # whatever torch raises, the next exporter is tried
            if "out of memory" in str(error).lower():
                raise ExhaustedError("Out of memory while exporting.", hint="Use a smaller model.") from error
            failures.append(f"The {exporter} exporter failed: {torch_reason(error)}")
            continue
        return _describe(out, exporter, tuple(failures))
    raise ExportError(" ".join(failures), hint="Try --format torchscript, or another --exporter.")


def _dynamic_axes(inputs: tuple[TensorSpec, ...], options: OnnxOptions) -> dict[str, dict[int, str]]:
    axes: dict[str, dict[int, str]] = {}
    for spec in inputs:
        mine = {} if options.batch is not None else {0: "batch"}
        if options.dynamic_size:
            height, width = image_axes(spec)
            mine |= {height: "height", width: "width"}
        axes[spec.name] = mine
    return axes


@dataclass(frozen=True, slots=True)
class _Job:
    """What both exporters are told: `axes` maps an input's name to its dynamic axes and their labels."""

    module: nn.Module
    examples: tuple[torch.Tensor, ...]
    input_names: list[str]
    output_names: list[str]
    axes: dict[str, dict[int, str]]
    opset: int | None

    @property
    def needs_external_data(self) -> bool:
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) > PROTOBUF_LIMIT


def _write_with_dynamo(job: _Job, out: Path) -> None:
    # Only the batch must stay dynamic; a size that the module fixes is found out afterwards.
    shapes = tuple(
        {
            axis: torch.export.Dim("batch") if label == "batch" else torch.export.Dim.AUTO
            for axis, label in job.axes[name].items()
        }
        for name in job.input_names
    )
    with _linear_rewriting():
        program: Any = torch.onnx.export(
            job.module,
            job.examples,
            dynamo=True,
            input_names=job.input_names,
            output_names=job.output_names,
            dynamic_shapes=shapes,
            opset_version=job.opset,
            custom_translation_table=translations(),
            verbose=False,
        )
    _mark_float32(program.model, job.module)
    _strip_traces(program.model)
    _lower_einsum_labels(program.model)
    for value, name in zip(program.model.graph.inputs, job.input_names, strict=True):
        _require_dynamic(name, tuple(value.shape), job.axes[name])
    program.save(str(out), external_data=job.needs_external_data)


@contextmanager
def _linear_rewriting() -> Iterator[None]:
    """Leave out the one rule of onnxscript's optimiser whose time is quadratic in the graph's size.

    `SlicesSplit` joins two slices of the last axis into a split, which makes no runtime faster. Its pattern
    has two outputs, and for such a pattern the matcher of onnxscript 0.7.2 lists all nodes of the graph at
    every node: a quarter of the time that a Faster R-CNN takes to export. The optimiser that torch calls
    takes no list of rules, only this one, which later releases may not have.
    """
    name = "_DEFAULT_REWRITE_RULES"
    rules = getattr(rewriter, name, ())
    kept = tuple(rule for rule in rules if rule.name != "SlicesSplit")
    if len(kept) == len(rules):
        yield
        return
    setattr(rewriter, name, kept)
    try:
        yield
    finally:
        setattr(rewriter, name, rules)


def _write_with_tracing(job: _Job, out: Path) -> None:
    axes = {name: mine for name, mine in job.axes.items() if mine}
    if any("batch" in mine.values() for mine in axes.values()):
        axes |= {name: {0: "batch"} for name in job.output_names}
    torch.onnx.export(
        job.module,
        job.examples,
        str(out),
        dynamo=False,
        input_names=job.input_names,
        output_names=job.output_names,
        dynamic_axes=axes,
        opset_version=job.opset or TRACING_OPSET,
        external_data=job.needs_external_data,
    )
    if job.needs_external_data:
        _gather_external_data(out)


def _gather_external_data(out: Path) -> None:
    """One data file instead of the tracing exporter's one for each tensor."""
    parts = check_external_data(out)
    model = onnx.load(str(out))
    for part in parts:
        part.unlink()
    spill_onnx(model, out)


def _require_dynamic(name: str, shape: tuple[Any, ...], axes: dict[int, str]) -> None:
    fixed = {label: shape[axis] for axis, label in axes.items() if isinstance(shape[axis], int)}
    if fixed:
        found = ", ".join(f"{label} to {size}" for label, size in fixed.items())
        raise ExportError(
            f"The model fixes {found} of input {name!r}, so it has no dynamic size.",
            hint="Leave --dynamic-size out, or set --image-size.",
        )


def _mark_float32(model: Any, module: nn.Module) -> None:
    """Write on the nodes of a module's own forward, and not of its parts, that and why they stay in FP32.

    A module asks for it by the attribute `float32_because`; `bbx.exporter.typed_policy` reads the mark.
    """
    reasons = {
        path: reason
        for path, part in module.named_modules()
        if (reason := getattr(part, "float32_because", None)) is not None
    }
    for node in model.graph.all_nodes() if reasons else ():
        # From the outermost module to the operation: ['', 'backbone', 'backbone.body', 'relu'].
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        if len(scopes) > 1 and scopes[-2] in reasons:
            node.metadata_props[FLOAT32_MARK] = reasons[scopes[-2]]


def _strip_traces(model: Any) -> None:
    """Drop per-node stack traces: they hold paths of the exporting machine and change from run to run."""
    for node in model.graph.all_nodes():
        kept = {
            key: node.metadata_props[key] for key in (_SCOPES, FLOAT32_MARK) if key in node.metadata_props
        }
        node.metadata_props.clear()
        node.metadata_props.update(kept)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _lower_einsum_labels(model: Any) -> None:
    """Give Einsum equations lower-case labels: ONNX allows both cases, TensorRT's parser only this one."""
    for node in model.graph.all_nodes():
        equation = node.attributes.get("equation") if node.op_type == "Einsum" else None
        if equation is None:
            continue
        labels = dict.fromkeys(label for label in equation.as_string() if label.isalpha())
        if len(labels) <= len(ascii_lowercase):
            table = str.maketrans(dict(zip(labels, ascii_lowercase, strict=False)))
            node.attributes.add(ir.AttrString("equation", equation.as_string().translate(table)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice to their own developers away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _describe(out: Path, exporter: str, notes: tuple[str, ...]) -> OnnxExport:
    model = onnx.load(str(out), load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return OnnxExport(exporter, opset, *graph_specs(model), notes)
