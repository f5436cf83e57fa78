"""Two artefacts compared live, in a process of their own."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bbx.artifact import Manifest
from bbx.benchmarks.artefacts import manifest_of
from bbx.benchmarks.decide import fired
from bbx.benchmarks.duet import PAIRS, duet
from bbx.benchmarks.feeds import cases_for
from bbx.benchmarks.journal import Document
from bbx.benchmarks.plan import format_of
from bbx.errors import ArtifactError, UsageError
from bbx.exporter.judging import judge
from bbx.exporter.verify import reference_outputs
from bbx.process import progress
from bbx.runners.base import Runner
from bbx.runners.registry import RUNTIMES, open_runner
from bbx.types import TensorSpec

LIVE_TASK = "bbx.benchmarks.live:live_task"

VOID = "The control, base against itself, found a change, so nothing measured beside it counts."


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two artefacts, and how it is run."""

    path: Path
    runtime: str
    manifest: Manifest | None

    def facts(self) -> Document:
        """What the document says of it."""
        return {
            "artifact": str(self.path),
            "sha256": self.manifest.sha256 if self.manifest else None,
            "runtime": self.runtime,
            "precision": self.manifest.precision if self.manifest else None,
        }


def side(path: Path, runtime: str | None) -> Side:
    """How an artefact is run.

    Args:
        runtime: None for the one that takes its format and runs on every machine that has it.

    Raises:
        ArtifactError: there is no such file, or it is no artefact.
        UsageError: the runtime does not take it.
    """
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.", hint="Name an artefact, or a report's folder.")
    format = format_of(path)
    if format is None:
        raise ArtifactError(
            f"{path} is neither an artefact nor a report.",
            hint="Artefacts end in .onnx, .torchscript, .pt2 or .engine; reports are report.json.",
        )
    manifest = manifest_of(path)
    if runtime is None:
        runtime = _own_runtime(path, manifest)
    elif runtime not in RUNTIMES or RUNTIMES[runtime].format != format:
        fitting = ", ".join(name for name, each in RUNTIMES.items() if each.format == format)
        raise UsageError(f"{runtime} does not run {path}.", hint=f"These do: {fitting}.")
    return Side(path.absolute(), runtime, manifest)


def _own_runtime(path: Path, manifest: Manifest | None) -> str:
    format = format_of(path)
    if format != "engine":
        return {"onnx": "ort-cpu", "torchscript": "torchscript", "pt2": "pt2"}[str(format)]
    if manifest is None:
        raise ArtifactError(
            f"{path} has no manifest, so nobody knows which TensorRT made it.",
            hint="Type --runtime tensorrt or --runtime rtx.",
        )
    return str(manifest.document["flavor"])


def live_task(request: dict[str, Any]) -> Document:
    """Compare two artefacts in turns; see `bbx.process.run_task`.

    Raises:
        UsageError: they do not take the same inputs, or run on different devices.
        BbxError: one of them cannot be opened or run.
    """
    base, head = (side(Path(request[name]), request[f"{name}_runtime"]) for name in ("base", "head"))
    options = {"threads": request["threads"], "trust": request["trust"]}
    with contextlib.ExitStack() as stack:
        progress("open", detail=base.path.name)
        runners = [
            stack.enter_context(open_runner(each.runtime, each.path, **options))
            for each in (base, base, head)
        ]
        _require_comparable(runners[0], runners[2])
        how = next((each.manifest.preprocess for each in (base, head) if each.manifest), None)
        [case, *_] = cases_for(runners[0].inputs, how, request["batch"])
        bounds = [runner.bind(case.feeds) for runner in runners]

        def told(done: int) -> None:
            progress("compare", done / PAIRS, f"pair {done} of {PAIRS}")

        found = duet(*bounds, now=runners[0].now, after_pair=told)
        wanted = reference_outputs([case], runners[0].infer)
        looser = head if (head.manifest and head.manifest.precision != "fp32") else base
        precision = looser.manifest.precision if looser.manifest else "fp32"
        means = base.manifest.postprocess if base.manifest else None
        answers = judge([case], wanted, lambda _: bounds[2].outputs(), precision, means, against="base")
    main, control = (each.finding(effect=request["effect"]) for each in (found.head, found.control))
    if fired(control):
        main = main.doubted(VOID)
    return {
        "finding": asdict(main),
        "control": asdict(control),
        "base_ns": found.base_ns,
        "block_runs": found.runs,
        "log_ratios": asdict(found.head),
        "control_log_ratios": asdict(found.control),
        "answers": answers.to_json(),
    }


def _require_comparable(base: Runner, head: Runner) -> None:
    """Refuse artefacts that cannot be given the same input in the same place."""
    differences = []
    if base.device != head.device:
        differences.append(f"base runs on {base.device} and head on {head.device}")
    if _signature(base.inputs) != _signature(head.inputs):
        differences.append(f"base takes {_text(base.inputs)} and head {_text(head.inputs)}")
    if differences:
        raise UsageError(
            f"These artefacts are not comparable: {'; '.join(differences)}.",
            hint="Export both for the same inputs, and name runtimes of one device.",
        )


def _signature(inputs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int | None, ...]]]:
    """Names, dtypes and sizes behind the batch: a fixed batch meets a dynamic one."""
    return [(spec.name, spec.dtype, spec.shape[1:]) for spec in inputs]


def _text(inputs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in inputs)
