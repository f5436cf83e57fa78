"""One row, measured in a process of its own: open, bind, measure, compare the answers, judge.

Nothing here imports torch unless the runtime does, so that a row on ONNX Runtime starts in a fraction
of a second and its peak memory is its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbx.artifact import Manifest, WeightsOrigin
from bbx.benchmarks.accuracy import accuracy
from bbx.benchmarks.artefacts import manifest_of
from bbx.benchmarks.conditions import HOME
from bbx.benchmarks.environment import describe, essential_unread, peak_rss_bytes
from bbx.benchmarks.feeds import cases_for
from bbx.benchmarks.gpu import GpuWatch, watch_gpu
from bbx.benchmarks.journal import Document, write_samples
from bbx.benchmarks.measure import Measurement, Profile, profile_named
from bbx.benchmarks.parity import against_reference, measured_path, recorded, worst
from bbx.benchmarks.readiness import undone_ns
from bbx.benchmarks.roof import floor_of
from bbx.benchmarks.scenarios.phases import (
    Journey,
    from_memory,
    from_photographs,
    phase_reasons,
    sample_phases,
    summary_of,
)
from bbx.benchmarks.scenarios.take import take
from bbx.benchmarks.scenarios.task import Taken, Task
from bbx.benchmarks.stats import Samples
from bbx.benchmarks.verdicts import judge, verdict_of
from bbx.exporter.verify import Case
from bbx.models.registry import lowered
from bbx.models.spec import ModelSpec
from bbx.process import progress
from bbx.runners.base import Bound, Runner
from bbx.runners.registry import open_runner
from bbx.types import Postprocess, Preprocess

if TYPE_CHECKING:
    from bbx.models.build import Model

_TORCH_RUNTIMES = ("eager", "compile", "torchscript", "pt2")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A runner with what is known of its subject."""

    runner: Runner
    preprocess: Preprocess | None
    postprocess: Postprocess | None
    model: Model | None
    manifest: Manifest | None

    @property
    def weights(self) -> WeightsOrigin | None:
        """Where its weights came from, where that is known."""
        if self.manifest is not None:
            return self.manifest.weights
        return self.model.weights if self.model is not None else None


def row_task(request: dict[str, Any]) -> Document:
    """Measure one row; runs in a child process.

    Args:
        request: as `suite` makes it.

    Returns:
        The row as the JSON contract has it; its raw trace is on disk.

    Raises:
        BbxError: the artefact or model cannot be opened, built or run.
    """
    profile = profile_named(request["profile"])
    with _opened(request) as opened, watch_gpu() as watch:
        runner = opened.runner
        cases = cases_for(runner.inputs, opened.preprocess, request["batch"])
        journey = _journey(request, opened, cases[0])
        bind = journey.bound if journey else partial(runner.bind, cases[0].feeds)
        progress("measure", detail=request["key"])
        task = Task(runner, bind, profile, watch.look)
        taken = take(task, request["scenario"], cache=request["cache"], slo_ns=request["slo_ns"])
        phases = _phases(journey, runner, profile) if journey else None
        median = taken.measured.summary.median
        found = _Found(
            taken=taken,
            phases=phases,
            undone_ns=undone_ns(taken.bound, median, now=runner.now),
            # Read before a reference is loaded beside the runner.
            peak=runner.device_bytes() if runner.device == "cuda" else peak_rss_bytes(),
            parity=_parity(request, opened, taken.bound, _affordable(cases, median, profile)),
            threads=runner.threads,
            accuracy=_accuracy(request, opened),
        )
    measured = taken.measured
    write_samples(Path(request["out"]) / request["samples"], measured.samples, measured.warm_up)
    return _document(request, opened, found, watch)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found out about a row while its runner was open.

    Attributes:
        phases: see `phases.sample_phases`; None where there is only one.
        accuracy: the task's metrics; None where there are no labelled images.
    """

    taken: Taken
    phases: dict[str, Samples] | None
    undone_ns: int
    peak: int | None
    parity: dict[str, Any] | None
    threads: int | None
    accuracy: dict[str, float] | None


def _accuracy(request: dict[str, Any], opened: _Opened) -> dict[str, float] | None:
    """The task's metrics on the labelled images of the request, where it has some."""
    if "data" not in request:
        return None
    means = opened.preprocess, opened.postprocess
    return accuracy(request["data"], opened.runner, *means, batch=request["batch"], label=request["key"])


def _journey(request: dict[str, Any], opened: _Opened, case: Case) -> Journey | None:
    """A request from its source to its answer; None where the input lies where the runtime wants it.

    Raises:
        UsageError: the source is a photograph, and the input is no image.
    """
    runner, residence = opened.runner, request["residence"]
    if residence in (HOME[runner.device], "device"):
        return None
    if residence != "image":
        return from_memory(runner, case.feeds, pinned=residence == "pinned")
    return from_photographs(runner, case.feeds, opened.preprocess, opened.postprocess, request["batch"])


def _phases(journey: Journey, runner: Runner, profile: Profile) -> dict[str, Samples]:
    """The phases of as many requests as a row without them would have been sampled for."""
    return sample_phases(journey, runner.now, at_least_s=profile.at_least_s, cap_s=profile.cap_s)


@contextlib.contextmanager
def _opened(request: dict[str, Any]) -> Iterator[_Opened]:
    """Open the row's runner on its artefact, or on a module built here."""
    options = {name: request[name] for name in ("precision", "threads", "trust", "cuda_graph")}
    if request["artefact"] is None:
        model = _built(request)
        with open_runner(request["runtime"], model, **options) as runner:
            yield _Opened(runner, model.preprocess, model.postprocess, model, None)
        return
    path = Path(request["artefact"])
    manifest = manifest_of(path, request["artefact_sha256"])
    with open_runner(request["runtime"], path, **options) as runner:
        means = manifest.postprocess if manifest else None
        yield _Opened(runner, manifest.preprocess if manifest else None, means, None, manifest)


def _built(request: dict[str, Any]) -> Model:
    """The row's model; a detector with torchvision's own operators where nothing has to be captured."""
    from bbx.models.build import build  # torch

    captured = request["runtime"] != "eager" or request["cuda_graph"]
    return build(lowered(ModelSpec.from_request(request["spec"]), "static" if captured else "onnx"))


def _affordable(cases: list[Case], median_ns: float, profile: Profile) -> list[Case]:
    """As many inputs, the measured one first, as the answers can be compared on while a row may be sampled.

    Each costs an inference of the runner and one of its reference.
    """
    each_s = 2 * median_ns / 1e9
    return cases[: max(1, min(len(cases), int(profile.cap_s / each_s)))]


def _parity(
    request: dict[str, Any], opened: _Opened, bound: Bound, cases: list[Case]
) -> dict[str, Any] | None:
    """Whether the answers are right: the gravest of what was compared now and when the artefact was made."""
    found = [made := recorded(opened.manifest)]
    precision = request["precision"]
    reference = _reference(request, opened)
    if reference is None:
        proven = made is not None and made["verdict"] == "pass"
        found.append(
            measured_path(opened.runner, bound, cases[:2], precision, opened.postprocess, proven=proven)
        )
    else:
        with reference as against:
            live = against_reference(
                against,
                opened.runner,
                bound,
                cases,
                precision=precision,
                postprocess=opened.postprocess,
                random_weights=opened.weights == "random",
            )
        found.insert(0, live)
    return worst(found)


def _reference(request: dict[str, Any], opened: _Opened) -> Runner | None:
    """What the answers are compared with, on the CPU: torch, or ONNX Runtime on the FP32 graph.

    None where all that is left to show is that the measured path gives what the runner gives: on a CPU, the
    manifest has the comparison of this very file with torch, or the row is torch's own module as it is.
    """
    if request["reference"] is not None:
        return open_runner("ort-cpu", Path(request["reference"]))
    if request["runtime"] not in _TORCH_RUNTIMES or request["spec"] is None:
        return None
    if opened.runner.device == "cpu" and recorded(opened.manifest) is not None:
        return None
    model = opened.model or _built(request)
    plain = request["runtime"] == "eager" and opened.runner.device == "cpu" and request["precision"] == "fp32"
    if plain and model.reference is None:
        return None
    from bbx.runners.eager import EagerRunner  # torch

    return EagerRunner(model.reference or model.module, model.inputs, model.outputs)


_IDENTITY = (
    *("key", "subject", "runtime", "precision", "batch", "scenario", "cuda_graph"),
    *("threads_asked", "cache", "residence", "slo_ns"),
)


def _document(request: dict[str, Any], opened: _Opened, found: _Found, watch: GpuWatch) -> Document:
    device, taken = opened.runner.device, found.taken
    facts = describe()
    reasons = judge(
        taken.measured,
        parity=found.parity,
        throttled=watch.throttled,
        unread=essential_unread(facts, device=device),
        floor=floor_of(request, facts, device),
        undone_ns=found.undone_ns,
        device=device,
        one_at_a_time=taken.one_at_a_time,
        own=(*taken.reasons, *(phase_reasons(found.phases) if found.phases else ())),
    )
    weights = opened.weights
    rate = taken.requests_per_s
    return {
        **{name: request[name] for name in _IDENTITY},
        "verdict": verdict_of(reasons),
        "reasons": [reason.to_json() for reason in reasons],
        **_measured(taken.measured),
        "throughput_per_s": None if rate is None else rate * request["batch"],
        "samples": request["samples"],
        "peak_bytes": found.peak,
        "parity": found.parity,
        "device": device,
        "threads": found.threads,
        "gpu": {"throttled": watch.throttled, "lowest_mhz": watch.lowest_mhz} if device == "cuda" else None,
        "weights": weights if isinstance(weights, str | None) else weights.model_dump(),
        "artefact_sha256": request["artefact_sha256"],
        "profile": request["profile"],
        "command": request["command"],
        **taken.facts,
        **({"accuracy": found.accuracy} if "data" in request else {}),
        **({"phases_ns": summary_of(found.phases)} if found.phases else {}),
    }


def _measured(measured: Measurement) -> Document:
    """A measurement as a row has it."""
    summary = asdict(measured.summary)
    runs = summary.pop("n")
    if measured.summary.ci95 is not None:
        summary["ci95"] = [measured.summary.ci95.low, measured.summary.ci95.high]
    return {
        "latency_ns": summary,
        "runs": runs,
        "clock": measured.clock,
        "stopped": measured.stopped,
        "target": measured.target,
        "warm_up": {
            "runs": measured.warm_up.size,
            "seconds": float(measured.warm_up.sum()) / 1e9,
            "settled": measured.settled,
        },
        "load": asdict(measured.load),
    }
