"""Two questions about an artefact, in Python: where is parity lost, and which nodes lose it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbx import artifact, process
from bbx.artifact import SUFFIXES, out_path
from bbx.errors import ArtifactError, UsageError
from bbx.making import DEFAULT_OUT, command_line
from bbx.models.registry import check_options, lowered
from bbx.models.spec import ModelSpec
from bbx.models.trained import is_checkpoint, named_spec
from bbx.pipeline import ExportStep, ensure
from bbx.pipeline.ancestry import ancestry
from bbx.pipeline.repair import DEFAULT_EVALUATIONS, RepairStep


def parity(
    artefact: Path | str,
    *,
    against: Path | str | None = None,
    images: Path | str | None = None,
    batch: Sequence[int] = (),
    trust: bool = False,
    listener: process.Listener = process.silent,
    **spec_options: Any,
) -> dict[str, Any]:
    """Compare every stage on the way from the module to an artefact, on the same inputs.

    Args:
        artefact: an ONNX graph, TorchScript, pt2 or engine. What it was made from is found by the hashes in
            the manifests.
        against: the reference: an artefact's path, or a model's name; by default the oldest stage that is
            found.
        images: to compare on: a folder, a list or whatever else calibration takes; by default those that the
            calibration of a quantised artefact held out, else bbx's photographs, and noise.
        batch: sizes of the batches to compare at, all images at each; by default the export's and others, or
            8 of `images`.
        trust: load programs that bbx did not make here.
        listener: hears progress and warnings.
        **spec_options: of the model that `against` names; see `ModelSpec`.

    Returns:
        The document of `bbx parity --json`.

    Raises:
        CheckFailed: a stage is out of its tolerance; the error carries the document.
        BbxError: nothing could be compared.
    """
    path = Path(artefact)
    is_path = against is None or _is_path(against)
    if is_path and _changed(spec_options):
        raise UsageError("Options of a model belong to --against MODEL.", hint="Leave them out.")
    if against is not None and is_path:
        _require_file(Path(against))
    _require_file(path)
    spec = None if is_path else _spec(str(against), spec_options)
    if any(each < 1 for each in batch):
        raise UsageError(f"A batch of {min(batch)} images was asked for.", hint="Type 1 or more.")
    shown = {"against": against, **spec_options, "images": images, "batch": tuple(batch), "trust": trust}
    request = {
        "artifact": str(path.absolute()),
        "against": str(Path(against).absolute()) if against is not None and is_path else None,
        "spec": None if spec is None else spec.to_request(),
        "images": None if images is None else str(Path(images).absolute()),
        "batches": list(batch),
        "trust": trust,
        "command": command_line("parity", str(artefact), shown, _defaults(trust=False)),
    }
    return process.run_task("bbx.pipeline.staged:parity_task", request, listener=listener)


def bisect(
    artefact: Path | str,
    *,
    against: Path | str | None = None,
    images: Path | str | None = None,
    tolerance: float | None = None,
    evaluations: int | None = None,
    out: Path | str = DEFAULT_OUT,
    listener: process.Listener = process.silent,
    **spec_options: Any,
) -> dict[str, Any]:
    """Find the smallest set of nodes that breaks an artefact's parity, and write the graph without them.

    Args:
        artefact: an ONNX graph that is quantised (Q/DQ) or of 16 bits.
        against: the FP32 graph's path, or a model's name; by default the FP32 graph that it was made from.
        images: as for `parity`.
        tolerance: largest relative L2, or for a detector the share of detections that may differ; by default
            the tolerance of the artefact's precision.
        evaluations: graphs that are run at most, 3 at least; by default 64.
        out: a folder, or the repaired graph's path.
        listener: hears progress and warnings.
        **spec_options: of the model that `against` names; see `ModelSpec`.

    Returns:
        The document of `bbx bisect --json`; its `artifact` is None when there is nothing to find.

    Raises:
        CheckFailed: it is not the precision: with every node in FP32 the graphs differ still.
        BbxError: the question cannot be asked of these files.
    """
    source = Path(artefact)
    _require_file(source)
    shown = {
        "against": against,
        **spec_options,
        "images": images,
        "tolerance": tolerance,
        "evaluations": evaluations,
    }
    command = command_line("bisect", str(artefact), shown, _defaults())
    folder = Path(out).parent if Path(out).suffix and not Path(out).is_dir() else Path(out)
    step = RepairStep(
        command=command,
        source=source,
        reference=_reference(source, against, spec_options, folder, listener),
        images=None if images is None else Path(images),
        tolerance=tolerance,
        evaluations=DEFAULT_EVALUATIONS if evaluations is None else evaluations,
    )
    path = out_path(Path(out), step.stem, "onnx").absolute()
    if path in (step.source, step.reference):
        raise UsageError(f"--out {path} is the graph that is looked at.", hint="Choose another name.")
    with artifact.locked(path):
        request = {"step": step.to_request(), "path": str(path)}
        return process.run_task(step.task, request, listener=listener)


def _reference(
    source: Path,
    against: Path | str | None,
    spec_options: dict[str, Any],
    folder: Path,
    listener: process.Listener,
) -> Path:
    """The FP32 graph: the one that was named, the artefact's own ancestor, or one that is exported now."""
    if against is not None and _is_path(against):
        if _changed(spec_options):
            raise UsageError("Options of a model belong to --against MODEL.", hint="Leave them out.")
        _require_file(Path(against))
        return Path(against)
    spec = None if against is None else _spec(str(against), spec_options)
    known = ancestry(source) if source.suffix == ".onnx" else []
    modules = {stage.spec for stage in known if stage.spec is not None}
    # The name alone means the model that the artefact was made from, with its options.
    is_own = spec is None or spec in modules or spec in {ModelSpec(each.name) for each in modules}
    graphs = [stage.path for stage in known if stage.stage == "onnx" and stage.path is not None]
    if is_own and graphs and graphs[0] != source:
        return graphs[0]
    if spec is None:
        raise UsageError(
            f"The FP32 graph that {source.name} was made from is not known.",
            hint=f"Type: bbx bisect {source} --against MODEL, or the path of that graph.",
        )
    export = command_line("export", spec.name if against is None else str(against), spec_options, _defaults())
    step = ExportStep(export, lowered(spec, "static"), "onnx")
    return ensure(step, folder, listener=listener).path


def _is_path(against: Path | str) -> bool:
    if is_checkpoint(str(against)):
        return False
    return isinstance(against, Path) or Path(against).suffix in SUFFIXES.values() or Path(against).is_file()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.", hint="`bbx export` makes artefacts.")


def _spec(name: str, options: dict[str, Any]) -> ModelSpec:
    spec = named_spec(name, options)
    check_options(spec)
    return spec


def _changed(options: dict[str, Any]) -> list[str]:
    usual = ModelSpec("any").to_request()
    return [name for name, value in options.items() if value != usual.get(name, value)]


def _defaults(**more: Any) -> dict[str, Any]:
    """What need not stand in a command line."""
    usual = ModelSpec("any").to_request()
    return dict.fromkeys(("against", "images", "tolerance", "evaluations")) | usual | more
