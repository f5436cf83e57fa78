"""What is evaluated: a model or an artefact, on a runtime of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.artifact import SUFFIXES, read_manifest
from bbx.errors import ArtifactError, UnavailableError, UsageError, did_you_mean
from bbx.models.registry import check_options
from bbx.models.spec import ModelSpec
from bbx.models.trained import named_spec
from bbx.runners.base import Arrays, Runner
from bbx.runners.registry import RUNTIMES, Availability, availability, open_runner
from bbx.types import Format, Postprocess, Precision, Preprocess

_FIRST_CHOICE: dict[Format | None, tuple[str, ...]] = {
    None: ("eager",),
    "onnx": ("ort-cuda", "ort-cpu"),
    "torchscript": ("torchscript",),
    "pt2": ("pt2",),
    "engine": ("tensorrt", "rtx"),
}
"""Runtimes of a format, those with a GPU first; torch's use one themselves where there is one."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model or an artefact, and what runs it.

    Attributes:
        name: as it was asked for.
        runtime: what runs it.
        spec: the model; None for a file.
        file: the artefact; None for a model.
        precision: of the file, by its manifest.
    """

    name: str
    runtime: str
    spec: ModelSpec | None = None
    file: Path | None = None
    precision: Precision = "fp32"

    def to_request(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "runtime": self.runtime,
            "spec": None if self.spec is None else self.spec.to_request(),
            "file": None if self.file is None else str(self.file),
            "precision": self.precision,
        }

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Subject:
        """The subject that `to_request` wrote."""
        spec, file = request["spec"], request["file"]
        return cls(
            request["name"],
            request["runtime"],
            None if spec is None else ModelSpec.from_request(spec),
            None if file is None else Path(file),
            request["precision"],
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """A subject that is ready to run.

    Attributes:
        preprocess: how an image becomes a row of its input.
        postprocess: what its outputs mean.
    """

    runner: Runner
    preprocess: Preprocess
    postprocess: Postprocess

    @property
    def fixed_batch(self) -> int | None:
        """The number of images that it takes at a time; None where it takes any."""
        return self.runner.inputs[0].shape[0]

    def infer(self, rows: NDArray[np.generic]) -> Arrays:
        """The outputs for rows of the input, of which a fixed batch may have fewer than it takes."""
        spec, count = self.runner.inputs[0], len(rows)
        if self.fixed_batch is not None and count < self.fixed_batch:
            rows = np.concatenate([rows, np.repeat(rows[-1:], self.fixed_batch - count, axis=0)])
        outputs = self.runner.infer({spec.name: rows.astype(_dtype(spec.dtype), copy=False)})
        return {name: values[:count] for name, values in outputs.items()}


def subjects_named(
    names: Sequence[str], runtimes: Sequence[str], options: Mapping[str, Any]
) -> tuple[Subject, ...]:
    """What words on the command line stand for, each on all runtimes named that take it.

    Args:
        names: models, trained checkpoints and artefacts.
        runtimes: empty for what suits each best.
        options: of `ModelSpec`, for the models among them.

    Raises:
        UsageError: there is no such runtime, or one takes nothing of what was named.
        UnavailableError: this machine cannot run one of them.
        ArtifactError: there is no such file.
        ModelError: there is no such model.
    """
    found = availability()
    for runtime in runtimes:
        if runtime not in found:
            raise UsageError(f"There is no runtime {runtime!r}.", hint=did_you_mean(runtime, found))
    made = tuple(
        subject
        for name in names
        for subject in _subjects(name, list(dict.fromkeys(runtimes)), options, found)
    )
    idle = [runtime for runtime in runtimes if runtime not in {subject.runtime for subject in made}]
    if idle:
        takes = RUNTIMES[idle[0]].format
        raise UsageError(
            f"{idle[0]} takes {f'a file in the format {takes}' if takes else 'a model'}, and none was named.",
            hint=f"Leave --runtime {idle[0]} out.",
        )
    return made


def _subjects(
    name: str, runtimes: Sequence[str], options: Mapping[str, Any], found: Mapping[str, Availability]
) -> list[Subject]:
    path = Path(name)
    format = next((each for each, suffix in SUFFIXES.items() if path.suffix == suffix), None)
    if format is None:
        spec = named_spec(name, options)
        check_options(spec)
        return [Subject(name, each, spec=spec) for each in _runtimes(name, None, runtimes, found)]
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.", hint="`bbx export` makes artefacts.")
    manifest = read_manifest(path)
    flavor = manifest.document.get("flavor") if manifest is not None and format == "engine" else None
    asked = [each for each in runtimes if flavor is None or each == flavor] or ([flavor] if flavor else [])
    precision = manifest.precision if manifest else "fp32"
    return [
        Subject(name, each, file=path.absolute(), precision=precision)
        for each in _runtimes(name, format, asked, found)
    ]


def _runtimes(
    name: str, format: Format | None, asked: Sequence[str], found: Mapping[str, Availability]
) -> list[str]:
    """The runtimes that were asked for and take this format; else the first that this machine has."""
    fitting = [runtime for runtime in asked if RUNTIMES[runtime].format == format]
    if not fitting:
        usual = _FIRST_CHOICE[format]
        fitting = [next((runtime for runtime in usual if found[runtime].ok), usual[-1])]
    for runtime in fitting:
        if not found[runtime].ok:
            raise UnavailableError(
                f"{name} cannot run here: {runtime}: {found[runtime].reason}", hint=found[runtime].fix
            )
    return fitting


@contextmanager
def opened(subject: Subject, *, trust: bool, threads: int | None) -> Iterator[Opened]:
    """Build or load a subject.

    Args:
        trust: load a program that bbx did not make here.
        threads: intra-op threads on the CPU.

    Raises:
        ArtifactError: it has no manifest, or one that does not say how images become its input or what its
            outputs mean.
        BbxError: it cannot be built or loaded.
    """
    target: Any = subject.file
    if subject.file is not None:
        manifest = read_manifest(subject.file)
        how, means = (manifest.preprocess, manifest.postprocess) if manifest else (None, None)
    else:
        from bbx.models.build import build

        assert subject.spec is not None  # it is a file or a model
        target = build(subject.spec)
        how, means = target.preprocess, target.postprocess
    if how is None or means is None:
        raise ArtifactError(
            f"Nothing says how images become the input of {subject.name}, and what its outputs mean.",
            hint="The manifests that `bbx export` and `bbx build-trt` write do.",
        )
    with open_runner(subject.runtime, target, threads=threads, trust=trust, shared_cores=True) as runner:
        yield Opened(runner, how, means)


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(name)
    return found
