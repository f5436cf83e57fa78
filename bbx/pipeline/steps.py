"""The three steps, as plain data that can be compared, hashed and sent to a child process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from bbx import artifact
from bbx.artifact import sha256_of
from bbx.errors import ArtifactError, UsageError
from bbx.exporter.onnx_options import OnnxOptions
from bbx.models.caches import named_checkpoint, weights_at_hand
from bbx.models.spec import ModelSpec
from bbx.types import Flavor, Format, Precision


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.")
    return path


@dataclass(frozen=True, slots=True)
class Step(ABC):
    """One arrow of the data flow.

    Attributes:
        command: the command line that asks for it; recorded, and no part of its identity.
    """

    task: ClassVar[str]
    """The function that does it, as `bbx.process.run_task` wants it."""

    command: str

    @property
    @abstractmethod
    def stem(self) -> str:
        """File name of the result, without its suffix."""

    @property
    @abstractmethod
    def result_format(self) -> Format:
        """Format of the result."""

    @property
    @abstractmethod
    def tools(self) -> tuple[str, ...]:
        """Modules whose version the result depends on."""

    @abstractmethod
    def dependencies(self) -> dict[str, Any]:
        """Hashes of the files the result depends on."""

    @property
    def reusable(self) -> bool:
        """Whether `fingerprint` sees everything that the result depends on."""
        return True

    def to_request(self) -> dict[str, Any]:
        """The options as plain JSON; `from_request` gives the step back."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    @classmethod
    def from_request(cls, request: dict[str, Any]) -> Self:
        """The step that `to_request` wrote."""
        return cls(**request)

    def fingerprint(self) -> str:
        """Hash of the options, the files, the libraries and bbx itself; see `bbx.artifact.Manifest`.

        A step that downloads weights changes what it depends on: take it when the step is done.
        """
        options = {key: value for key, value in self.to_request().items() if key != "command"}
        return artifact.fingerprint_of(
            {
                "task": self.task,
                "options": options,
                "files": self.dependencies(),
                "tools": artifact.tool_versions(*self.tools),
                "source": artifact.source_digest(),
            }
        )


@dataclass(frozen=True, slots=True)
class ExportStep(Step):
    """A module to ONNX, TorchScript or pt2.

    Attributes:
        spec: the model.
        format: `onnx`, `torchscript` or `pt2`.
        batch: a fixed batch size, or None for a dynamic one.
        dynamic_size: ONNX only: height and width are dynamic too.
        opset: ONNX only: the opset, or None for the exporter's choice.
        exporter: ONNX only: `auto`, `dynamo` or `torchscript`.
        proven_at: batch sizes that parity is shown at; empty for those of `verify.batches_to_try`. What is
            written does not depend on it.
    """

    task: ClassVar[str] = "bbx.pipeline.export:export_task"

    spec: ModelSpec
    format: Literal["onnx", "torchscript", "pt2"] = "onnx"
    batch: int | None = None
    dynamic_size: bool = False
    opset: int | None = None
    exporter: Literal["auto", "dynamo", "torchscript"] = "auto"
    proven_at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "proven_at", tuple(self.proven_at))
        given = {
            "--dynamic-size": self.dynamic_size,
            "--opset": self.opset,
            "--exporter": self.exporter != "auto",
        }
        extra = [option for option, value in given.items() if value]
        if self.format != "onnx" and extra:
            raise UsageError(f"{', '.join(extra)} belongs to --format onnx, and the format is {self.format}.")
        if self.format != "onnx" and self.spec.lowering == "onnx":
            raise UsageError(
                f"--lowering onnx belongs to --format onnx, and the format is {self.format}.",
                hint="Leave it out.",
            )
        _ = self.onnx_options  # which refuses what cannot be exported

    @property
    def onnx_options(self) -> OnnxOptions:
        """The options of the ONNX graph.

        Raises:
            UsageError: as on their creation.
        """
        return OnnxOptions(self.batch, self.dynamic_size, self.opset, self.exporter)

    @property
    def stem(self) -> str:
        return self.spec.slug

    @property
    def result_format(self) -> Format:
        return self.format

    @property
    def tools(self) -> tuple[str, ...]:
        mine = ("torch", "torchvision", "timm", "numpy", "pillow")
        return (*mine, "onnx", "onnxscript", "onnxruntime") if self.format == "onnx" else mine

    @property
    def reusable(self) -> bool:
        # A factory is code of the user's own, which may have changed in any of its imports.
        return ":" not in self.spec.name or self.spec.name.startswith(("torchvision:", "timm:"))

    def dependencies(self) -> dict[str, Any]:
        if self.spec.weights_are_a_file:
            return {"weights": sha256_of(named_checkpoint(self.spec.weights))}
        if self.spec.weights != "auto":
            return {}
        return {"weights": weights_at_hand(self.spec.name, self.spec.backbone)}

    def to_request(self) -> dict[str, Any]:
        return {**Step.to_request(self), "spec": self.spec.to_request()}

    @classmethod
    def from_request(cls, request: dict[str, Any]) -> Self:
        return cls(**{**request, "spec": ModelSpec.from_request(request["spec"])})


@dataclass(frozen=True, slots=True)
class TypedStep(Step):
    """An FP32 ONNX graph to one whose tensors are FP16 or BF16.

    Attributes:
        source: the FP32 graph.
        precision: `fp16` or `bf16`.
        half_io: inputs and outputs take that type too, instead of staying FP32.
    """

    task: ClassVar[str] = "bbx.pipeline.typed:typed_task"

    source: Path
    precision: Literal["fp16", "bf16"]
    half_io: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", Path(self.source).absolute())

    @property
    def stem(self) -> str:
        return f"{self.source.stem}.{self.precision}"

    @property
    def result_format(self) -> Format:
        return "onnx"

    @property
    def tools(self) -> tuple[str, ...]:
        return ("onnx", "onnxscript", "onnxruntime", "numpy", "pillow")

    def dependencies(self) -> dict[str, Any]:
        return graph_hashes(self.source)


@dataclass(frozen=True, slots=True)
class EngineStep(Step):
    """An ONNX graph to a TensorRT engine.

    Attributes:
        source: the graph; its tensor types decide the engine's precision.
        precision: what was asked for; read back from the engine and compared.
        flavor: `tensorrt` or `rtx`.
        targets: GPU architectures, such as `sm_86`; empty for the flavour's default.
        profiles: optimisation profiles as typed, `min,opt,max`; empty for the default.
        workspace_bytes: limit of scratch memory, or None for the builder's own.
        refit: weights can be exchanged in the finished engine.
        strip: the engine is written without its weights.
        tf32: FP32 products may use TF32 tensor cores.
    """

    task: ClassVar[str] = "bbx.pipeline.engine:engine_task"

    source: Path
    precision: Precision
    flavor: Flavor
    targets: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    refit: bool = False
    strip: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", Path(self.source).absolute())
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "profiles", tuple(self.profiles))

    @property
    def stem(self) -> str:
        return self.source.stem

    @property
    def result_format(self) -> Format:
        return "engine"

    @property
    def tools(self) -> tuple[str, ...]:
        return ("tensorrt_rtx" if self.flavor == "rtx" else "tensorrt", "polygraphy", "onnx")

    def dependencies(self) -> dict[str, Any]:
        return graph_hashes(self.source)


def graph_hashes(path: Path) -> dict[str, Any]:
    """Hashes of an ONNX graph and of its external data.

    Where a manifest beside the graph is true to it, the manifest's list is used; otherwise the graph is
    parsed to find its data files.

    Raises:
        ArtifactError: there is no such graph, it is truncated, or its data is not safe to open.
    """
    digest = sha256_of(_existing(path))
    try:
        manifest = artifact.read_manifest(path)
    except ArtifactError:
        manifest = None  # Somebody else's JSON beside the graph says nothing about it.
    if manifest is not None and manifest.sha256 == digest:
        names = [data.file for data in manifest.external_data]
        return {"graph": digest, "data": {name: sha256_of(_existing(path.parent / name)) for name in names}}
    data = artifact.check_external_data(path)
    return {"graph": digest, "data": {file.name: sha256_of(file) for file in data}}
