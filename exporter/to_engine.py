"""ONNX graph to TensorRT engine, strongly typed: the builder compiles and decides nothing about precision.

Both flavours go through Polygraphy's loaders on one path. Polygraphy's `fp16=` and `int8=` flags are never
used: under TensorRT for RTX they are accepted and silently produce an FP32 engine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bbx import artifact
from bbx.errors import BuildError, UnavailableError, UsageError
from bbx.exporter.engine_log import Stop, interruptible, progress_monitor, quiet_polygraphy, refused_node
from bbx.exporter.engine_options import (
    EngineOptions,
    ShapeProfile,
    capability_of,
    current_target,
    default_profile,
    resolve_targets,
)
from bbx.exporter.network_facts import NetworkFacts, network_facts
from bbx.process import progress, warn
from bbx.runners.trt_flavor import trt_module


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """An engine that was written, and what it was made of.

    Attributes:
        version: of the TensorRT that built it; the engine loads in no other.
        targets: GPUs it was compiled for.
        left_out: default targets that cannot compile this graph, with TensorRT's reason.
        profiles: as given to TensorRT, the default one included; empty for a static graph.
        network: the parsed network, for the precision proof.
        seconds: of `parse` and `build`.
        plan_bytes: size of the file.
    """

    version: str
    targets: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    profiles: tuple[ShapeProfile, ...]
    network: NetworkFacts
    seconds: dict[str, float]
    plan_bytes: int


def engine_from_onnx(path: Path, options: EngineOptions, out: Path) -> EngineBuild:
    """Compile an ONNX graph into an engine.

    Args:
        path: the graph; its external data must be safe to open (`bbx.artifact.check_external_data`).
        out: where to write the plan; nothing is written unless the build succeeds.

    Raises:
        ArtifactError: the graph cannot be read, or its external data breaks the rule.
        UsageError: a target or a profile does not fit.
        UnavailableError: the flavour is not here, or what was asked needs a GPU.
        BuildError: TensorRT refused the graph; names the node where it can, and carries TensorRT's words.
        Cancelled: SIGINT arrived (handled only in the main thread).
        ExhaustedError: the disk is full.
    """
    artifact.check_external_data(path)
    targets = resolve_targets(options)
    trt = trt_module(options.flavor)
    log = quiet_polygraphy(trt)
    left_out: list[tuple[str, str]] = []
    with interruptible() as stop:
        while True:
            log.lines.clear()
            parsed, parse_seconds, network = _parse(trt, path, log)
            stop.check()
            profiles = _profiles(options, network)
            start = time.perf_counter()
            plan = _compile(trt, parsed, options, targets=targets, profiles=profiles, stop=stop)
            build_seconds = time.perf_counter() - start
            stop.check()
            if plan is not None:
                break
            refused = _refused_target(log.lines, targets)
            if refused is None or options.targets or len(targets) == 1:
                raise _build_error(path, options, log.lines)
            targets = tuple(target for target in targets if target != refused[0])
            left_out.append(refused)
            warn(f"The engine will not run on {refused[0]}: {refused[1]}")
    with artifact.disk_errors(out):
        out.write_bytes(plan)
    return EngineBuild(
        version=str(trt.__version__),
        targets=targets,
        left_out=tuple(left_out),
        profiles=profiles,
        network=network,
        seconds={"parse": parse_seconds, "build": build_seconds},
        plan_bytes=out.stat().st_size,
    )


def _parse(trt: ModuleType, path: Path, log: Any) -> tuple[Any, float, NetworkFacts]:
    """Builder, network and parser; the seconds it took; what the network holds."""
    from polygraphy.backend.trt import network_from_onnx_path
    from polygraphy.exception import PolygraphyException

    progress("parse graph", None, path.name)
    start = time.perf_counter()
    # TensorRT 11 has no such flag: there every network is strongly typed.
    typed = True if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") else None
    try:
        parsed = network_from_onnx_path(str(path), strongly_typed=typed)
    except PolygraphyException as error:
        node = refused_node(log.lines)
        if node is None:
            raise BuildError(f"TensorRT cannot parse {path}: {_words(log.lines) or error}") from error
        raise BuildError(
            f"TensorRT cannot parse {path}: it refuses node {node[0]!r}, operator {node[1]}: {node[2]}"
        ) from error
    return parsed, time.perf_counter() - start, network_facts(trt, parsed[1])


def _profiles(options: EngineOptions, network: NetworkFacts) -> tuple[ShapeProfile, ...]:
    dynamic = {spec.name for spec in network.inputs if None in spec.shape}
    if not options.profiles:
        return (default_profile(network.inputs, batch=options.batch),) if dynamic else ()
    for profile in options.profiles:
        named = {entry.name for entry in profile.inputs}
        if named != dynamic:
            raise UsageError(
                f"The profile is for {sorted(named)}; the inputs with a dynamic shape are {sorted(dynamic)}."
            )
    return options.profiles


def _compile(
    trt: ModuleType,
    parsed: Any,
    options: EngineOptions,
    *,
    targets: Sequence[str],
    profiles: Sequence[ShapeProfile],
    stop: Stop,
) -> Any | None:
    """The plan, as a buffer; None when TensorRT refused (its log says why) or was stopped."""
    from polygraphy.backend.trt import PostprocessConfig, Profile, engine_bytes_from_network
    from polygraphy.exception import PolygraphyException

    shapes = []
    for profile in profiles:
        shapes.append(Profile())
        for entry in profile.inputs:
            shapes[-1].add(entry.name, entry.min, entry.opt, entry.max)
    limit = options.workspace_bytes
    common: dict[str, Any] = {
        "profiles": shapes,
        "memory_pool_limits": None if limit is None else {trt.MemoryPoolType.WORKSPACE: limit},
        "refittable": options.refit,
        "strip_plan": options.strip,
        "builder_optimization_level": options.optimization_level,
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,  # or the inspector tells names only
        "progress_monitor": progress_monitor(trt, stop),
    }
    config = PostprocessConfig(_config_loader(options, targets, common), func=_tf32_setter(trt, options.tf32))
    progress("build engine", 0.0, ", ".join(targets))
    try:
        return engine_bytes_from_network(parsed, config=config)
    except PolygraphyException:
        return None


def _config_loader(options: EngineOptions, targets: Sequence[str], common: dict[str, Any]) -> Any:
    if options.flavor == "rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(compute_capabilities=[capability_of(target) for target in targets], **common)
    from polygraphy.backend.trt import CreateConfig

    return CreateConfig(**common)


def _tf32_setter(trt: ModuleType, wanted: bool) -> Any:
    """TensorRT allows TF32 by default; FP32 means FP32 here, unless asked."""

    def set_tf32(builder: Any, network: Any, config: Any) -> None:
        (config.set_flag if wanted else config.clear_flag)(trt.BuilderFlag.TF32)

    return set_tf32


def _words(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())[:1000]


def _refused_target(lines: Sequence[str], targets: Sequence[str]) -> tuple[str, str] | None:
    """The target that TensorRT says it cannot compile an operation for, and its words."""
    for line in lines:
        match = re.search(r"Cannot compile (?:operation .*?\(SM|for target\(s\) sm)(\d+)[^.]*\.", line)
        if match and f"sm_{match[1]}" in targets:
            return f"sm_{match[1]}", match[0]
    return None


def _build_error(path: Path, options: EngineOptions, lines: Sequence[str]) -> BuildError | UnavailableError:
    words = _words(lines) or "it gave no reason"
    if (options.refit or options.strip) and current_target() is None and "CUDA_SUCCESS" in words:
        return UnavailableError(
            f"TensorRT needs a GPU to make the engine of {path} refittable or stripped.",
            hint="Build it on a machine with a GPU, or without --refit and --strip.",
        )
    refused = _refused_target(lines, options.targets)
    hint = f"Leave {refused[0]} out of the targets." if refused and len(options.targets) > 1 else ""
    return BuildError(f"TensorRT cannot build an engine of {path}: {words}", hint=hint)
