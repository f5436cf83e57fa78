"""Which rows to measure: subjects × runtimes × precisions × conditions, as pure functions.

What is left out is data too: what, why, and how to ask for it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from bbx.artifact import SUFFIXES, read_manifest
from bbx.benchmarks.conditions import HOME, Cache, Conditions, LeftOut, Residence, Scenario, combined
from bbx.errors import ArtifactError, UnavailableError, UsageError, did_you_mean
from bbx.models.registry import check_options, resolve, task_of
from bbx.models.spec import ModelSpec, size_text
from bbx.models.trained import named_spec
from bbx.runners.registry import RUNTIMES, Availability
from bbx.types import Format, Precision

RUNNABLE: dict[str, tuple[Precision, ...]] = {
    "eager": ("fp32", "fp16", "bf16"),
    "compile": ("fp32", "fp16", "bf16"),
    "torchscript": ("fp32",),
    "pt2": ("fp32",),
    "ort-cpu": ("fp32", "fp16"),
    "openvino": ("fp32",),
    "ort-cuda": ("fp32", "fp16", "bf16"),
    "tensorrt": ("fp32", "fp16", "bf16"),
    "rtx": ("fp32", "fp16", "bf16"),
    "fake": ("fp32",),
}
"""Precisions that bbx can give each runtime. ONNX Runtime has no BF16 convolution on a CPU."""

NATIVE: dict[str, tuple[Precision, ...]] = {"cpu": ("fp32",), "cuda": ("fp32", "fp16", "bf16")}
"""Precisions that a device computes in itself, measured when none is named."""


class Haste(IntEnum):
    """How little time there is for rows that nobody asked for by the name of their runtime."""

    NONE = 0
    QUICK = 1
    QUICK_ALL = 2

    @classmethod
    def of(cls, *, quick: bool, everything: bool, gpu: bool, named: bool) -> Haste:
        """The haste of a run: none with a GPU, in a longer profile, or when runtimes are named."""
        if named or gpu or not quick:
            return cls.NONE
        return cls.QUICK_ALL if everything else cls.QUICK


@dataclass(frozen=True, slots=True)
class _Slow:
    """Why a runtime takes long on a CPU, and the haste from which on there is no time for its rows.

    Attributes:
        classifiers, dense: that haste for each kind of model; None where there always is time.
    """

    reason: str
    classifiers: Haste | None
    dense: Haste | None


_SLOW = {
    "compile": _Slow("It compiles for about a minute a model.", Haste.QUICK, Haste.QUICK),
    "torchscript": _Slow("Every model needs an export of its own for it.", Haste.QUICK_ALL, Haste.QUICK),
    "eager": _Slow("On a CPU most of them take seconds for one inference.", None, Haste.QUICK_ALL),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a model to be built, or an artefact file.

    Attributes:
        name: as it was asked for; it identifies the subject in a report.
        spec: the model; None for a file.
        file: the artefact; None for a model.
        precision: of the file, by its manifest (`fp32` without one).
    """

    name: str
    spec: ModelSpec | None = None
    file: Path | None = None
    precision: Precision = "fp32"

    @property
    def format(self) -> Format | None:
        """Format of the file; None for a model."""
        return None if self.file is None else format_of(self.file)

    @property
    def is_fixed(self) -> bool:
        """Whether it is what it is: a file that no graph of another precision can be made from."""
        return self.file is not None and (self.format != "onnx" or self.precision != "fp32")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report, before it is measured.

    Attributes:
        scenario, cache, residence: see `conditions`.
        cuda_graph: one inference is captured as a CUDA graph and replayed.
        device: that the runtime computes on.
        threads: intra-op threads; None for the runtime's own choice.
        slo_ns: the limit of the scenario `server`.
    """

    subject: str
    runtime: str
    precision: Precision
    batch: int
    scenario: Scenario = "single"
    cuda_graph: bool = False
    device: str = "cpu"
    threads: int | None = None
    cache: Cache = "hot"
    residence: Residence = "pageable"
    slo_ns: int | None = None

    @property
    def key(self) -> str:
        """Identity of the row within a report; what is as it always is has no part in it."""
        parts = [self.subject, self.runtime, self.precision, f"b{self.batch}", self.scenario]
        parts += [f"slo{self.slo_ns / 1e6:g}ms"] if self.slo_ns else []
        parts += [f"t{self.threads}"] if self.threads else []
        parts += ["cold"] if self.cache == "cold" else []
        parts += [self.residence] if self.residence != HOME[self.device] else []
        parts += ["graph"] if self.cuda_graph else []
        return "/".join(parts)

    def identity(self) -> dict[str, Any]:
        """The key and what it is made of, as a report has them."""
        facts = asdict(self)
        # A report has under `threads` how many there were.
        return {"key": self.key, **facts, "threads_asked": facts.pop("threads")}

    @property
    def stem(self) -> str:
        """The key as a file name: readable, and unique by a few characters of its hash."""
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.key)
        return f"{safe[-100:]}.{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"

    def command(self, *, profile: str, spec: ModelSpec | None) -> str:
        """The command line that measures this row again."""
        words = ["bbx", "bench", self.subject, "--runtime", self.runtime, "--precision", self.precision]
        words += ["--batch", str(self.batch), "--profile", profile]
        words += ["--scenario", self.scenario] if self.scenario != "single" else []
        words += ["--slo", f"{self.slo_ns / 1e6:g}"] if self.slo_ns else []
        words += ["--threads", str(self.threads)] if self.threads else []
        words += ["--cache", self.cache] if self.cache != "hot" else []
        words += ["--residence", self.residence] if self.residence != HOME[self.device] else []
        words += ["--cuda-graph"] if self.cuda_graph else []
        return shlex.join(words + (_spec_options(spec) if spec else []))


def _spec_options(spec: ModelSpec) -> list[str]:
    defaults = asdict(ModelSpec(spec.name))
    words: list[str] = []
    for option, value in asdict(spec).items():
        if option == "image_size" and value is not None:
            words += ["--image-size", size_text(value)]
        elif value is True:
            words.append("--" + option.replace("_", "-"))
        elif value != defaults[option]:
            words += ["--" + option.replace("_", "-"), str(value)]
    return words


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows in the order they are measured, and what was left out."""

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]


def format_of(path: Path) -> Format | None:
    """The artefact format that a file's suffix stands for; None for any other suffix."""
    return next((format for format, suffix in SUFFIXES.items() if path.suffix == suffix), None)


def subject_named(name: str, spec_options: Mapping[str, Any]) -> Subject:
    """What a word on the command line stands for.

    Args:
        spec_options: options of `ModelSpec` other than its name; they do not apply to a file.

    Raises:
        ModelError: there is no such model, or an option does not fit it.
        ArtifactError: it is a file name with an artefact's suffix, and there is no such file.
    """
    path = Path(name)
    if format_of(path) is None:
        spec = named_spec(name, spec_options)
        check_options(spec)
        return Subject(name, spec=spec)
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.", hint="`bbx models` lists what can be built.")
    manifest = read_manifest(path)
    return Subject(name, file=path.absolute(), precision=manifest.precision if manifest else "fp32")


def choose_runtimes(
    asked: Sequence[str] | None, availability: Mapping[str, Availability]
) -> tuple[list[str], list[LeftOut]]:
    """The runtimes that a run has rows of.

    Those that were asked for, whether this machine has them or not (see `lacking`). With none asked for (None
    or empty): all that this machine can run, except the fake, `openvino` and `pt2`.

    Raises:
        UsageError: one that was asked for does not exist.
    """
    if asked:
        for name in asked:
            if name not in availability:
                raise UsageError(f"There is no runtime {name!r}.", hint=did_you_mean(name, availability))
        return list(dict.fromkeys(asked)), []
    chosen: list[str] = []
    left_out: list[LeftOut] = []
    for name, found in availability.items():
        if name == "fake":
            continue
        if not found.ok:
            left_out.append(LeftOut(name, found.reason, found.fix))
        elif name == "pt2":
            left_out.append(LeftOut(name, "It runs the same operations as eager.", "--runtime pt2"))
        elif name == "openvino":
            left_out.append(LeftOut(name, "It is here to be compared with.", "--runtime openvino"))
        else:
            chosen.append(name)
    return chosen, left_out


def lacking(runtimes: Iterable[str], availability: Mapping[str, Availability]) -> dict[str, UnavailableError]:
    """Of some runtimes those that this machine does not have, and why; their rows cannot be measured."""
    return {
        name: UnavailableError(f"{name}: {found.reason}", hint=found.fix)
        for name in runtimes
        if not (found := availability[name]).ok
    }


def plan(
    subjects: Iterable[Subject],
    runtimes: Sequence[str],
    asked: Conditions,
    *,
    gpu: bool,
    haste: Haste = Haste.NONE,
) -> Plan:
    """All rows, those of one subject together, so that an artefact serves its rows one after another.

    Args:
        gpu: whether torch's runtimes run on a GPU here.
        haste: rows that there is no time for are left out.
    """
    rows: list[Row] = []
    left_out: dict[str, LeftOut] = {}
    for subject in subjects:
        for runtime in runtimes:
            if reason := _no_time(subject, runtime, haste):
                left_out.setdefault(reason.what, reason)
                continue
            if reason := misfit(subject, runtime):
                left_out.setdefault(f"{subject.name} {runtime}", reason)
                continue
            rows += _rows(subject, runtime, asked, left_out, gpu=gpu)
    return Plan(tuple(rows), tuple(left_out.values()))


def _rows(
    subject: Subject, runtime: str, asked: Conditions, left_out: dict[str, LeftOut], *, gpu: bool
) -> Iterator[Row]:
    """The rows of a subject on a runtime that takes it."""
    device = device_of(runtime, gpu=gpu)
    possible = (subject.precision,) if subject.is_fixed else RUNNABLE[runtime]
    for precision in asked.precisions or (possible if subject.is_fixed else NATIVE[device]):
        if precision not in possible:
            if subject.is_fixed:
                what = f"{subject.name} in {precision}"
                reason = f"It is a file in {subject.precision}."
                left_out.setdefault(what, LeftOut(what, reason, "Name the model instead of the file."))
            elif asked.precisions:
                left_out.setdefault(f"{runtime} {precision}", _cannot(runtime, precision))
            continue
        for each in combined(asked, runtime, device, left_out):
            # A captured inference has its input where it was captured.
            graph = asked.cuda_graph and RUNTIMES[runtime].cuda_graph and each.residence == "device"
            yield Row(subject.name, runtime, precision, cuda_graph=graph, device=device, **asdict(each))


def _is_dense(subject: Subject) -> bool:
    """Whether it is a model that finds boxes or labels pixels."""
    return subject.spec is not None and task_of(resolve(subject.spec.name)) != "classification"


def _no_time(subject: Subject, runtime: str, haste: Haste) -> LeftOut | None:
    """That a subject's rows on a runtime are left out for want of time; None where they are measured."""
    if subject.spec is None or (slow := _SLOW.get(runtime)) is None:
        return None
    since = slow.dense if _is_dense(subject) else slow.classifiers
    if since is None or haste < since:
        return None
    whole = slow.classifiers is not None and haste >= slow.classifiers
    what = runtime if whole else f"detectors and segmenters on {runtime}"
    return LeftOut(what, slow.reason, f"--runtime {runtime}")


def device_of(runtime: str, *, gpu: bool) -> str:
    """The device that a runtime computes on: `cpu` or `cuda`."""
    device = RUNTIMES[runtime].device
    return device if device in NATIVE else "cuda" if gpu else "cpu"


def misfit(subject: Subject, runtime: str) -> LeftOut | None:
    """Why a file cannot be measured on a runtime; None where it can, and for every model."""
    wants = RUNTIMES[runtime].format
    if subject.format is None or subject.format == wants or (subject.format == "onnx" and wants == "engine"):
        return None
    return LeftOut(
        f"{subject.name} on {runtime}",
        f"It is a file in the format {subject.format}, and {runtime} takes {wants or 'a model'}.",
        "Name the model instead of the file.",
    )


def _cannot(runtime: str, precision: Precision) -> LeftOut:
    known = ", ".join(RUNNABLE[runtime])
    return LeftOut(f"{runtime} {precision}", f"bbx runs {runtime} in {known}.", "Choose another precision.")
