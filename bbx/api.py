"""bbx in Python: the verbs of the command line, with the same options and the same documents.

Every function that makes something returns what the command prints with `--json`, as a dictionary of the
same schema, and raises `bbx.errors.BbxError` where the command would exit with another code than 0. Work
runs in child processes, so that a caller may go on using torch, or never import it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bbx import process
from bbx.errors import UsageError
from bbx.models.registry import check_options, lowered, task_of
from bbx.models.spec import ModelSpec, size_text
from bbx.types import Flavor, Precision

if TYPE_CHECKING:
    from bbx.benchmarks.suite import OnRow
    from bbx.models.build import Model
    from bbx.pipeline import Made, Step

DEFAULT_OUT = Path("artifacts")

MOST_SORTED = 3840
"""The largest K of TensorRT's top-K layer."""

_SPEC_DEFAULTS = {field.name: field.default for field in fields(ModelSpec) if field.name != "name"}
_GRAPH_DEFAULTS: dict[str, Any] = {"batch": None, "dynamic_size": False, "opset": None, "exporter": "auto"}


@dataclass(frozen=True, slots=True)
class _Maker:
    """How steps are carried out for one call."""

    command: str
    out: Path
    force: bool
    listener: process.Listener

    def make(self, step: Step, *, last: bool) -> Made:
        """The artefact of a step; one that is only on the way goes into the folder of the last."""
        from bbx.pipeline import ensure

        out = self.out
        if not last and out.suffix and not out.is_dir():
            out = out.parent
        return ensure(step, out, force=self.force, listener=self.listener)


def command_line(verb: str, subject: str, options: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The command that asks for `options`; those at their default are left out."""
    words = ["bbx", verb, subject]
    for name, value in options.items():
        # An option that is given several times is called by the plural here.
        several = isinstance(value, tuple | list)
        flag = "--" + (name.removesuffix("s") if several else name).replace("_", "-")
        if name == "image_size" and isinstance(value, int | tuple | list):
            words += ["--image-size", size_text(value if isinstance(value, int) else (value[0], value[1]))]
        elif name == "precision":
            words += [] if value == "fp32" else [f"--{value}"]
        elif value is True:
            words.append(flag)
        elif several:
            words += [word for item in value for word in (flag, str(item))]
        elif value != defaults.get(name):
            words += [flag, str(value)]
    return shlex.join(words)


def build(model: str, **spec_options: Any) -> Model:
    """Build a model as a torch module, in this process.

    Args:
        model: a preset, `torchvision:NAME`, `timm:NAME` or `package.module:factory`.
        **spec_options: the fields of `ModelSpec` other than its name.

    Raises:
        ModelError, WeightsError: the name, an option or the weights do not fit.
    """
    from bbx.models.build import build as build_spec

    return build_spec(ModelSpec(name=model, **spec_options))


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
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a `file.onnx` that
            is to be retyped to another precision.
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
    defaults = _SPEC_DEFAULTS | _GRAPH_DEFAULTS | {"format": "onnx", "half_io": False}
    command = command_line("export", model, shown, defaults)
    maker = _Maker(command, Path(out), force, listener)
    if format == "onnx":
        if is_onnx_file(model) and precision == "fp32":
            raise UsageError(
                f"{model} is an FP32 export already.",
                hint="Type --fp16 or --bf16 to retype it, or `bbx build-trt` to compile it.",
            )
        typed = _graph(model, precision, maker, options, half_io=half_io, last=True)
        assert typed is not None  # only an FP32 file is used as it is, and that was refused above
        return typed.document
    if precision != "fp32" or half_io:
        raise UsageError(
            f"--{precision if precision != 'fp32' else 'half-io'} makes a typed ONNX graph, "
            f"and the format is {format}.",
            hint="Type --format onnx.",
        )
    return maker.make(_export_step(model, format, maker, options), last=True).document


def build_engine(
    model: str,
    *,
    precision: Precision = "fp32",
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
        precision: what the engine is to contain. INT8 and FP8 need a graph that has Q/DQ nodes.
        flavor: `tensorrt`, `rtx`, or `auto` for the one that can build here.
        targets: GPU architectures such as `sm_86`; by default this machine's GPU, or without one all that
            TensorRT for RTX supports.
        profiles: `min,opt,max`, of batch sizes or of whole shapes; see `bbx.exporter.engine_options`.
        workspace_mib: limit of scratch memory in MiB.
        refit, strip, tf32: see `EngineStep`.
        out: a folder, or the engine's path.
        force: make everything again, whatever is on disk.
        listener: hears progress and warnings.
        **options: of the model and its graph, as for `export`.

    Returns:
        The document of `bbx build-trt --json`.

    Raises:
        CheckFailed: the graph's parity failed, or the engine has another precision than was asked for.
        UnavailableError: no flavour of TensorRT can build here.
        BbxError: any other reason why there is no engine.
    """
    from bbx.exporter.engine_options import resolve_flavor
    from bbx.pipeline import EngineStep

    compile_options: dict[str, Any] = {
        "flavor": flavor,
        "target": tuple(targets),
        "profile": tuple(profiles),
        "workspace_mib": workspace_mib,
        "refit": refit,
        "strip": strip,
        "tf32": tf32,
    }
    shown = {"precision": precision, **options, **compile_options}
    defaults = _SPEC_DEFAULTS | _GRAPH_DEFAULTS | {"flavor": "auto", "workspace_mib": None}
    flags = {name: value for name, value in shown.items() if value is not False}
    maker = _Maker(command_line("build-trt", model, flags, defaults), Path(out), force, listener)
    chosen = resolve_flavor(flavor)
    if chosen == "rtx" and options.get("lowering") == "onnx":
        raise UsageError(
            "--lowering onnx makes a graph with NonMaxSuppression, which TensorRT for RTX cannot build.",
            hint="Leave it out: engines are built from the static lowering.",
        )
    if (options.get("candidates") or 0) > MOST_SORTED:
        raise UsageError(
            f"--candidates {options['candidates']} cannot be built: TensorRT sorts {MOST_SORTED} at most.",
            hint=f"Type: --candidates {MOST_SORTED}, or fewer.",
        )
    graph = _graph(model, precision, maker, options, half_io=False, last=False)
    step = EngineStep(
        command=maker.command,
        source=Path(model) if graph is None else graph.path,
        precision=precision,
        flavor=chosen,
        targets=tuple(targets),
        profiles=tuple(profiles),
        workspace_bytes=None if workspace_mib is None else workspace_mib * 1024**2,
        refit=refit,
        strip=strip,
        tf32=tf32,
    )
    return maker.make(step, last=True).document


def is_onnx_file(model: str) -> bool:
    """Whether a model is named by the path of an ONNX graph."""
    return model.endswith(".onnx")


def _export_step(
    model: str,
    format: Literal["onnx", "torchscript", "pt2"],
    maker: _Maker,
    options: dict[str, Any],
    lowering: Literal["static", "onnx"] = "static",
) -> Step:
    """A validated step; a wrong name fails here, before a child process is started.

    Args:
        lowering: of a detector, where none was asked for.
    """
    from bbx.pipeline import ExportStep

    of_spec = {name: value for name, value in options.items() if name not in _GRAPH_DEFAULTS}
    of_graph = {name: value for name, value in options.items() if name in _GRAPH_DEFAULTS}
    spec = ModelSpec.from_request({"name": model, **of_spec})
    task = task_of(check_options(spec))
    if of_graph.get("dynamic_size") and task != "classification":
        raise UsageError(
            f"{model} has one image size an artefact: --dynamic-size belongs to classifiers.",
            hint="Name the size: --image-size HEIGHTxWIDTH",
        )
    return ExportStep(maker.command, lowered(spec, lowering), format, **of_graph)


def _graph(
    model: str, precision: Precision, maker: _Maker, options: dict[str, Any], *, half_io: bool, last: bool
) -> Made | None:
    """The ONNX graph of a model in a precision, or None where it is the file that `model` names.

    Args:
        last: it is what the caller wants, and not only on the way to an engine.

    Raises:
        UsageError: the precision cannot be had from this model, or an option comes too late for a file.
    """
    from bbx.pipeline import TypedStep

    half: Literal["fp16", "bf16"] | None = precision if precision in ("fp16", "bf16") else None
    if half is None and half_io:
        raise UsageError("--half-io belongs to --fp16 or --bf16.")
    if is_onnx_file(model):
        changed = [n for n, v in options.items() if v != (_SPEC_DEFAULTS | _GRAPH_DEFAULTS).get(n, v)]
        if changed:
            flag = "--" + changed[0].replace("_", "-")
            raise UsageError(f"{model} is a graph already, so {flag} comes too late.", hint="Leave it out.")
        source = Path(model)
        if half is None:
            return None
    elif precision in ("int8", "fp8"):
        raise UsageError(
            f"--{precision} needs a graph with Q/DQ nodes, and bbx does not place them yet.",
            hint="Quantise the exported graph and type: bbx build-trt FILE.onnx --" + precision,
        )
    else:
        step = _export_step(model, "onnx", maker, options, lowering="onnx" if last else "static")
        made = maker.make(step, last=last and half is None)
        if half is None:
            return made
        source = made.path
    return maker.make(TypedStep(maker.command, source, half, half_io), last=last)


def bench(
    subjects: Sequence[str] = (),
    *,
    everything: bool = False,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[Precision] = (),
    batches: Sequence[int] = (1,),
    profile: str = "quick",
    out: Path | str = DEFAULT_OUT,
    resume: bool = False,
    threads: int | None = None,
    cuda_graph: bool = False,
    trust: bool = False,
    listener: process.Listener = process.silent,
    on_row: OnRow | None = None,
    **spec_options: Any,
) -> dict[str, Any]:
    """Measure models or artefacts on the runtimes of this machine, and write a report into `out`.

    Args:
        subjects, everything, runtimes, precisions, batches, profile, resume, threads, cuda_graph, trust: see
            `bbx.benchmarks.bench.bench`.
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
        profile=profile,
        out=Path(out),
        resume=resume,
        threads=threads,
        cuda_graph=cuda_graph,
        trust=trust,
        spec_options=spec_options,
        listener=listener,
        on_row=on_row or nobody,
    )
