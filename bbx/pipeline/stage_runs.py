"""Running the stages of an ancestry, each on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest
from bbx.calibration.agreement import opened, typed_infer
from bbx.errors import ArtifactError, BbxError, UnavailableError, UsageError
from bbx.exporter import verify
from bbx.exporter.engine_options import current_target
from bbx.exporter.verify import Arrays, Case, Infer
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.pipeline.ancestry import Ancestor
from bbx.pipeline.cases import fixed_batch
from bbx.pipeline.export import module_outputs
from bbx.pipeline.held_out import held_out_of
from bbx.pipeline.image_cases import comparison_cases
from bbx.runners.base import Runner
from bbx.runners.registry import open_runner
from bbx.types import Postprocess, Preprocess, Task, TensorSpec


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the manifests say of a network; nothing where there is none."""

    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    random_weights: bool = False

    @property
    def task(self) -> Task:
        """A network of which nobody said anything counts as a classifier."""
        return self.postprocess.task if self.postprocess else "classification"


@dataclass(frozen=True, slots=True)
class Ran:
    """A stage and its outputs, one mapping a case."""

    stage: Ancestor
    outputs: tuple[Arrays, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """What became of the stages.

    Attributes:
        ran: those that ran, in order.
        not_run: why the others did not, by their place among all stages.
    """

    cases: tuple[Case, ...]
    ran: tuple[Ran, ...]
    not_run: dict[int, str]


def meaning_of(stages: Sequence[Ancestor]) -> Meaning:
    """What the youngest manifest says, and whether nobody trained the network."""
    manifests = [stage.manifest for stage in stages if stage.manifest is not None]
    if not manifests:
        return Meaning()
    own = manifests[-1]
    return Meaning(own.preprocess, own.postprocess, own.weights == "random")


def run_stages(
    stages: Sequence[Ancestor],
    meaning: Meaning,
    *,
    images: Path | None,
    batches: tuple[int, ...],
    trust: bool,
) -> Runs:
    """Run what can run here.

    Args:
        images: the user's images, a folder for example; None for photographs.
        batches: sizes to compare at; empty for those that parity is always shown at.
        trust: load programs that bbx did not make here.

    Raises:
        ArtifactError: the artefact itself, the last stage, cannot be run; or a stage has other inputs or
            outputs than the first.
        UsageError: a stage does not take these batches.
    """
    cases: tuple[Case, ...] = ()
    wanted: tuple[TensorSpec, ...] = ()
    ran: list[Ran] = []
    not_run: dict[int, str] = {}
    for place, stage in enumerate(stages):
        process.progress("verify", place / len(stages), stage.label)
        try:
            with _opened(stage, trust=trust) as (inputs, infer):
                wanted = wanted or inputs
                _require_inputs(stage, wanted, inputs)
                cases = cases or tuple(_cases(stages, inputs, meaning, images, batches))
                outputs = tuple(verify.reference_outputs(cases, infer))
        except BbxError as error:
            if place == len(stages) - 1 and not isinstance(error, UnavailableError):
                raise
            not_run[place] = str(error)
            continue
        if ran:
            _require_outputs(stage, ran[0], outputs)
        ran.append(Ran(stage, outputs))
    return Runs(cases, tuple(ran), not_run)


@contextmanager
def _opened(stage: Ancestor, *, trust: bool) -> Iterator[tuple[tuple[TensorSpec, ...], Infer]]:
    """Inputs and inference of a stage.

    Raises:
        UnavailableError: this machine cannot run it.
        BbxError: it cannot be built or loaded.
    """
    if stage.spec is not None:
        model = build(stage.spec)
        yield model.inputs, lambda feeds: module_outputs(model, feeds)
        return
    if stage.path is None:
        raise ArtifactError(stage.missing)
    with _runner(stage.path, stage, trust=trust) as runner:
        yield runner.inputs, typed_infer(runner)


@contextmanager
def _runner(path: Path, stage: Ancestor, *, trust: bool) -> Iterator[Runner]:
    if stage.stage == "engine":
        with open_runner(_flavor(stage), path, trust=trust) as runner:
            yield runner
    elif stage.stage in ("torchscript", "pt2"):
        with open_runner(stage.stage, path, trust=trust) as runner:
            yield runner
    else:
        artifact.check_external_data(path)
        with opened(onnx.load(str(path))) as runner:
            yield runner


def _flavor(stage: Ancestor) -> str:
    """The runtime of an engine, which has to be one for this machine's GPU."""
    manifest = stage.manifest
    if manifest is None:
        raise ArtifactError(f"{stage.path} has no manifest, so it is not known which TensorRT runs it.")
    if current_target() not in manifest.targets:
        here = current_target() or "no GPU"
        raise UnavailableError(
            f"The engine is for {' '.join(manifest.targets)}, and this machine has {here}.",
            hint="Run the command on the target.",
        )
    flavor = str(manifest.document["flavor"])
    return "rtx" if flavor == "rtx" else "tensorrt"


def _cases(
    stages: Sequence[Ancestor],
    inputs: tuple[TensorSpec, ...],
    meaning: Meaning,
    images: Path | None,
    asked: tuple[int, ...],
) -> list[Case]:
    """Inputs that every stage takes: of the batches that were asked for, else of the one that a stage fixes,
    or of those of an engine's first profile.
    """
    manifests = [stage.manifest for stage in stages if stage.manifest is not None]
    fixed = [fixed_batch(each) for each in (inputs, *(manifest.inputs for manifest in manifests))]
    batch = next((each for each in fixed if each is not None), None)
    profiled = [sizes for manifest in manifests if (sizes := _profiled_batches(manifest))]
    if asked:
        _require_batches(asked, batch, profiled[-1] if profiled else None)
    taken = tuple(TensorSpec(each.name, each.dtype, (batch, *each.shape[1:])) for each in inputs)
    wanted = asked or (profiled[-1] if profiled and batch is None else ())
    if images is None and (held_out := _held_out(stages, taken, wanted)):
        return held_out
    sizes = verify.batches_to_try(batch or verify.EXAMPLE_BATCH, fixed=batch is not None)
    return comparison_cases(
        taken,
        meaning.preprocess,
        wanted or sizes,
        images=images,
        task=meaning.task,
        noise=not any(stage.stage == "qdq" for stage in stages),
        image_batches=asked,
    )


def _held_out(stages: Sequence[Ancestor], inputs: tuple[TensorSpec, ...], sizes: Sequence[int]) -> list[Case]:
    """The held-out images of the youngest calibration."""
    for stage in reversed(stages):
        if stage.path is not None and stage.manifest is not None and "calibration" in stage.manifest.document:
            return held_out_of(stage.path, stage.manifest, inputs, sizes)
    return []


def _require_batches(asked: tuple[int, ...], fixed: int | None, profiled: tuple[int, ...] | None) -> None:
    """Refuse before running what a stage cannot take.

    Raises:
        UsageError: names what it takes.
    """
    if fixed is not None:
        least, most, what = fixed, fixed, f"{fixed} images a run, and no other number"
    elif profiled is not None:
        least, most = min(profiled), max(profiled)
        what = f"{least} to {most} images a run"
    else:
        return
    if not all(least <= each <= most for each in asked):
        raise UsageError(
            f"A batch of {', '.join(map(str, asked))} was asked for, and this takes {what}.",
            hint="Leave --batch out.",
        )


def _profiled_batches(manifest: Manifest) -> tuple[int, ...]:
    """Smallest, best and largest batch of an engine's first profile."""
    profiles = manifest.document.get("profiles") or [{}]
    first = next(iter(profiles[0].values()), None)
    return tuple(dict.fromkeys(first[key][0] for key in ("min", "opt", "max"))) if first else ()


def _require_inputs(stage: Ancestor, wanted: tuple[TensorSpec, ...], given: tuple[TensorSpec, ...]) -> None:
    """Refuse before running what has other inputs than the first stage, whatever the batch."""
    here, there = ({spec.name: spec.shape[1:] for spec in specs} for specs in (given, wanted))
    fits = here.keys() == there.keys() and all(
        len(here[name]) == len(there[name])
        and all(None in pair or pair[0] == pair[1] for pair in zip(here[name], there[name], strict=True))
        for name in here
    )
    if not fits:
        raise ArtifactError(
            f"{stage.label} takes {_shapes(here)}, and the stage it is compared with {_shapes(there)}.",
            hint="They are not the same network; name the right one with --against.",
        )


def _shapes(shapes: dict[str, tuple[int | None, ...]]) -> str:
    return ", ".join(
        f"{name} ({'×'.join('?' if size is None else str(size) for size in shape)})"
        for name, shape in shapes.items()
    )


def _require_outputs(stage: Ancestor, first: Ran, outputs: tuple[Arrays, ...]) -> None:
    wanted, given = sorted(first.outputs[0]), sorted(outputs[0])
    if not set(wanted) <= set(given):
        raise ArtifactError(
            f"{stage.label} gives {', '.join(given)}, and {first.stage.label} gives {', '.join(wanted)}.",
            hint="They are not the same network; name the right one with --against.",
        )


def reference_stage(spec: ModelSpec, stages: Sequence[Ancestor]) -> Ancestor:
    """The stage of a model that was named, as the artefact's own ancestor where it is that one.

    Args:
        spec: what was named; where no option was given, the options of the ancestor of that name are meant.
    """
    for stage in stages:
        if stage.spec is not None and stage.spec.name == spec.name and spec == ModelSpec(spec.name):
            return stage
    return Ancestor("torch", None, "fp32", spec=spec)
