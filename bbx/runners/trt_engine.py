"""Loading a TensorRT engine, and saying why it could not be loaded.

TensorRT answers only with nothing; its log is the one place where it tells a damaged plan from one of
another version and from a machine without a GPU. So the log is kept and read, with TensorRT's own runtime
rather than Polygraphy's loader, whose logger prints.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

from bbx.errors import ArtifactError, BbxError, UnavailableError

_FOREIGN = re.compile(r"Serialization|API Usage|compute capabilit", re.IGNORECASE)
_NO_DEVICE = re.compile(r"cudaError (35|100|999|803|804)\b|Error reading CUDA GPU properties")


def collecting_logger(trt: ModuleType) -> Any:
    """A TensorRT logger that prints nothing and keeps errors, and notes about a plan that does not fit."""

    class Collector(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.misfits: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            elif severity <= trt.ILogger.Severity.INFO and message.startswith("The engine "):
                self.misfits.append(message)

        def last_error(self) -> str:
            return self.errors[-1].splitlines()[0] if self.errors else "it gave no reason."

    return Collector()


def engine_from_file(trt: ModuleType, path: Path, log: Any) -> Any:
    """Deserialise an engine.

    Args:
        trt: the flavour's module.
        log: from `collecting_logger`.

    Raises:
        ArtifactError: the plan is damaged, of another version or flavour, or made for another GPU.
        UnavailableError: there is no usable GPU.
    """
    engine = _deserialised(trt, path.read_bytes(), log)
    if engine is None:
        raise _why_not_loaded(path, log)
    return engine


def _deserialised(trt: ModuleType, plan: bytes, log: Any) -> Any:
    """The engine, or None.

    The runtime must be gone when an error is raised: kept alive by a traceback, it would be collected at any
    time, and when that is inside a call of our logger, TensorRT waits for a lock that it holds itself.
    """
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # how the binding says that it got no runtime
        raise UnavailableError(f"TensorRT cannot start: {log.last_error()}") from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None and hasattr(runtime, "get_engine_validity"):
        runtime.get_engine_validity(plan)  # says in the log what does not fit
    return engine


def _why_not_loaded(path: Path, log: Any) -> BbxError:
    hint = "Build it again on this machine: bbx build-trt"
    if log.misfits:
        return ArtifactError(f"{path} does not fit this TensorRT: {_readable(log.misfits[0])}", hint=hint)
    foreign = next((text for text in log.errors if _FOREIGN.search(text)), None)
    if foreign is not None:
        return ArtifactError(f"{path} is damaged or no engine of this TensorRT: {_core(foreign)}", hint=hint)
    if any(_NO_DEVICE.search(text) for text in log.errors):
        return UnavailableError(f"{path} cannot be loaded: there is no usable NVIDIA GPU.")
    return ArtifactError(f"{path} cannot be loaded: {log.last_error()}", hint=hint)


def _core(message: str) -> str:
    """What stands in the parentheses of TensorRT's `Function: Error Code N: Kind (reason)`."""
    found = re.search(r"\((.*?)(?: In \w+ at |\)$)", message)
    return found.group(1) if found else message


def _readable(message: str) -> str:
    """TensorRT for RTX prints the numbers of a version as the characters of those codes."""
    return re.sub(r"[\x00-\x1f]", lambda found: str(ord(found.group())), message)
