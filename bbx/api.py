"""bbx in Python: the verbs of the command line, with the same options and the same documents.

Every function that makes something returns what the command prints with `--json`, as a dictionary of the
same schema, and raises `bbx.errors.BbxError` where the command would exit with another code than 0. Work
runs in child processes, so that a caller may go on using torch, or never import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bbx import process
from bbx.errors import UsageError
from bbx.making import (
    CALIBRATION_DEFAULTS,
    DEFAULT_OUT,
    GRAPH_DEFAULTS,
    SPEC_DEFAULTS,
    Maker,
    Rest,
    Wanted,
    check_types,
    command_line,
    export_step,
    graph,
    is_onnx_file,
    quantize_step,
)
from bbx.models.trained import named_spec
from bbx.types import Flavor, Precision

if TYPE_CHECKING:
    from bbx.benchmarks.suite import OnRow
    from bbx.models.build import Model

_DEFAULTS = SPEC_DEFAULTS | GRAPH_DEFAULTS | CALIBRATION_DEFAULTS

MOST_SORTED = 3840
"""The largest K of TensorRT's top-K layer."""


def build(model: str, **spec_options: Any) -> Model:
    """Build a model as a torch module, in this process.

    Args:
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a checkpoint that
            `bbx train` wrote.
        **spec_options: the fields of `ModelSpec` other than its name.

    Raises:
        ModelError, WeightsError: the name, an option or the weights do not fit.
    """
    from bbx.models.build import build as build_spec

    return build_spec(named_spec(model, spec_options))


def export(
    model: str,
    *,
    format: Literal["onnx", "torchscript", "pt2"] = "onnx",
    precision: Precision = "fp32",
    out: Path | str = DEFAULT_OUT,
    half_io: bool = False,
    force: bool = False,
    listener: process.Listener = process.silent,
    **options: Any,
) -> dict[str, Any]:
    """Export a model and prove that the artefact computes what the module computes.

    Args:
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, a checkpoint that
            `bbx train` wrote, or a `file.onnx` that is to be retyped to another precision.
        precision: `fp32`, or `fp16` or `bf16` for a typed ONNX graph.
        out: a folder, or the artefact's path.
        half_io: a typed graph takes and gives its own type instead of FP32.
        force: make it again, whatever is on disk.
        listener: hears progress and warnings.
        **options: of the model: the fields of `ModelSpec` other than its name; of the artefact:
            `batch`, `dynamic_size`, `opset`, `exporter` (see `ExportStep`).

    Returns:
        The document of `bbx export --json`.

    Raises:
        CheckFailed: parity failed; the error carries the document.
        BbxError: any other reason why there is no artefact.
    """
    shown = {"format": format, "precision": precision, **options, "half_io": half_io}
    defaults = _DEFAULTS | {"format": "onnx", "half_io": False}
    command = command_line("export", model, shown, defaults)
    maker = Maker(command, Path(out), force, listener)
    if format == "onnx":
        if is_onnx_file(model) and precision == "fp32":
            raise UsageError(
                f"{model} is an FP32 export already.",
                hint="Type --fp16 or --bf16 to retype it, or `bbx build-trt` to compile it.",
            )
        if precision in ("int8", "fp8"):
            raise UsageError(
                f"--{precision} is a matter of calibration.",
                hint=f"Type: bbx quantize {model} --{precision} --calib FOLDER",
            )
        wanted = Wanted(model, precision, half_io=half_io, lowering="onnx", last=True)
        typed = graph(wanted, maker, options)
        assert typed is not None  # only an FP32 file is used as it is, and that was refused above
        return typed.document
    if precision != "fp32" or half_io:
        raise UsageError(
            f"--{precision if precision != 'fp32' else 'half-io'} makes a typed ONNX graph, "
            f"and the format is {format}.",
            hint="Type --format onnx.",
        )
    return maker.make(export_step(model, format, maker, options), last=True).document


def build_engine(
    model: str,
    *,
    precision: Precision = "fp32",
    rest: Rest = "fp32",
    flavor: Flavor | Literal["auto"] = "auto",
    targets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    workspace_mib: int | None = None,
    refit: bool = False,
    strip: bool = False,
    tf32: bool = False,
    out: Path | str = DEFAULT_OUT,
    force: bool = False,
    listener: process.Listener = process.silent,
    **options: Any,
) -> dict[str, Any]:
    """Compile a model to a TensorRT engine and prove which precision the engine contains.

    Args:
        model: as for `export`; a `file.onnx` may come from anybody.
        precision: what the engine is to contain. INT8 and FP8 need images to calibrate on, or a graph that
            has Q/DQ nodes.
        rest: of everything that is not quantised, with INT8 and FP8.
        flavor: `tensorrt`, `rtx`, or `auto` for the one that can build here.
        targets: GPU architectures such as `sm_86`; by default this machine's GPU, or without one all that
            TensorRT for RTX supports.
        profiles: `min,opt,max`, of batch sizes or of whole shapes; see `bbx.exporter.engine_options`.
        workspace_mib: limit of scratch memory in MiB.
        refit, strip, tf32: see `EngineStep`.
        out: a folder, or the engine's path.
        force: make everything again, whatever is on disk.
        listener: hears progress and warnings.
        **options: of the model, its graph and its calibration, as for `quantize`.

    Returns:
        The document of `bbx build-trt --json`.

    Raises:
        CheckFailed: the graph's parity failed, or the engine has another precision than was asked for.
        UnavailableError: no flavour of TensorRT can build here.
        BbxError: any other reason why there is no engine.
    """
    from bbx.exporter.engine_options import fp8_targets, resolve_flavor
    from bbx.pipeline import EngineStep

    check_types(options)
    compile_options: dict[str, Any] = {
        "flavor": flavor,
        "target": tuple(targets),
        "profile": tuple(profiles),
        "workspace_mib": workspace_mib,
        "refit": refit,
        "strip": strip,
        "tf32": tf32,
    }
    shown = {"precision": precision, "rest": rest, **options, **compile_options}
    defaults = _DEFAULTS | {"flavor": "auto", "workspace_mib": None}
    flags = {name: value for name, value in shown.items() if value is not False}
    maker = Maker(command_line("build-trt", model, flags, defaults), Path(out), force, listener)
    chosen = resolve_flavor(flavor)
    _refuse_what_cannot_be_built(chosen, options)
    targets = fp8_targets(chosen, targets) if precision == "fp8" else tuple(targets)
    source = graph(Wanted(model, precision, rest), maker, options)
    step = EngineStep(
        command=maker.command,
        source=Path(model) if source is None else source.path,
        precision=precision,
        flavor=chosen,
        targets=targets,
        profiles=tuple(profiles),
        workspace_bytes=None if workspace_mib is None else workspace_mib * 1024**2,
        refit=refit,
        strip=strip,
        tf32=tf32,
    )
    return maker.make(step, last=True).document


def _refuse_what_cannot_be_built(flavor: Flavor, options: dict[str, Any]) -> None:
    """Find before any work what TensorRT would refuse after it."""
    if flavor == "rtx" and options.get("lowering") == "onnx":
        raise UsageError(
            "--lowering onnx makes a graph with NonMaxSuppression, which TensorRT for RTX cannot build.",
            hint="Leave it out: engines are built from the static lowering.",
        )
    if (options.get("candidates") or 0) > MOST_SORTED:
        raise UsageError(
            f"--candidates {options['candidates']} cannot be built: TensorRT sorts {MOST_SORTED} at most.",
            hint=f"Type: --candidates {MOST_SORTED}, or fewer.",
        )


def quantize(
    model: str,
    *,
    precision: Literal["int8", "fp8"] = "int8",
    rest: Rest = "fp32",
    worth: bool = False,
    out: Path | str = DEFAULT_OUT,
    force: bool = False,
    listener: process.Listener = process.silent,
    **options: Any,
) -> dict[str, Any]:
    """Calibrate a model on images and put Q/DQ nodes into its ONNX graph.

    Args:
        model: as for `export`; a `file.onnx` may come from anybody.
        precision: `int8`, or `fp8` for E4M3.
        rest: of everything that is not quantised.
        worth: measure the graph against FP32 on this machine too, and say whether it is worth it.
        out: a folder, or the artefact's path.
        force: make everything again, whatever is on disk.
        listener: hears progress and warnings.
        **options: of the model and its graph, as for `export`; of the calibration: `calib` (a folder of
            images, a list, an `.npy` or `.npz`, a COCO file or the record of an earlier calibration),
            `calib_images`, `calib_batch`, `calib_seed`, `eval_data`, `allow_random`, `method`, `max_drop`
            (0..1), `keep`, `scales`; see `bbx.pipeline.QuantizeStep`.

    Returns:
        The document of `bbx quantize --json`.

    Raises:
        CheckFailed: parity failed, or the accuracy budget cannot be met.
        BbxError: any other reason why there is no artefact.
    """
    check_types(options)
    shown = {"precision": precision, "rest": rest, **options}
    maker = Maker(command_line("quantize", model, shown, _DEFAULTS), Path(out), force, listener)
    wanted = Wanted(model, precision, rest, lowering="onnx", last=True)
    if is_onnx_file(model) and options.get("calib") is None and not options.get("allow_random"):
        quantize_step(wanted, Path(model), maker, options)  # which says that there are no images
    made = graph(wanted, maker, options)
    assert made is not None  # a file that is taken as it is was refused above
    if not worth:
        return made.document
    from bbx.worth import worth as judged

    return made.document | {"worth": judged(made.document, listener)}


def bench(
    subjects: Sequence[str] = (),
    *,
    everything: bool = False,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[Precision] = (),
    batches: Sequence[int] = (),
    scenarios: Sequence[str] = (),
    slo_ms: float | None = None,
    threads: Sequence[int] | int | None = None,
    caches: Sequence[str] = (),
    residences: Sequence[str] = (),
    cuda_graph: bool = False,
    profile: str = "quick",
    out: Path | str = DEFAULT_OUT,
    resume: bool = False,
    trust: bool = False,
    budget_s: float | None = None,
    shard: tuple[int, int] | None = None,
    data: str | None = None,
    split: str | None = None,
    classes: str | None = None,
    listener: process.Listener = process.silent,
    on_row: OnRow | None = None,
    **spec_options: Any,
) -> dict[str, Any]:
    """Measure models or artefacts on the runtimes of this machine, and write a report into `out`.

    Args:
        subjects, everything, runtimes, profile, resume, trust, budget_s, shard, data, split, classes: see
            `bbx.benchmarks.bench.bench`.
        precisions, batches, scenarios, slo_ms, threads, caches, residences, cuda_graph: see
            `bbx.benchmarks.conditions`; empty for what suits the scenario and the device.
        listener: hears progress and warnings.
        on_row: told of each row as it ends.
        **spec_options: of every model; see `ModelSpec`.

    Returns:
        The document of `bbx bench --json`, which is also `report.json`.

    Raises:
        BbxError: nothing could be measured; a row that fails is a row of the report.
    """
    from bbx.benchmarks.bench import bench as measure_all
    from bbx.benchmarks.suite import nobody

    return measure_all(
        subjects,
        everything=everything,
        runtimes=runtimes,
        precisions=precisions,
        batches=batches,
        scenarios=scenarios,
        slo_ms=slo_ms,
        threads=threads,
        caches=caches,
        residences=residences,
        cuda_graph=cuda_graph,
        profile=profile,
        out=Path(out),
        resume=resume,
        trust=trust,
        budget_s=budget_s,
        shard=shard,
        data=data,
        split=split,
        classes=classes,
        spec_options=spec_options,
        listener=listener,
        on_row=on_row or nobody,
    )
