"""What TensorRT's engine inspector says a finished engine computes in; needs a GPU that can load it.

The engine must have been built with detailed profiling verbosity, which bbx always asks for. The inspector's
JSON is documented in NVIDIA's developer guide ("Engine Inspector"); layers that it does not describe in
detail are not counted, and an engine without any counted layer gives no evidence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bbx.runners.trt_engine import collecting_logger, engine_from_file
from bbx.runners.trt_flavor import trt_module
from bbx.types import BYTES_PER_ELEMENT, Flavor

_COMPUTE_WORDS = ("conv", "gemm", "matmul", "matrixmultiply", "mha", "attention")
_DTYPE_WORDS = (
    ("bfloat16", "bfloat16"),
    ("bf16", "bfloat16"),
    ("fp8", "float8_e4m3fn"),
    ("e4m3", "float8_e4m3fn"),
    ("int8", "int8"),
    ("half", "float16"),
    ("fp16", "float16"),
    ("float", "float32"),
    ("fp32", "float32"),
)
"""Words of the inspector's formats and types, the more specific ones first."""


def inspect_engine(path: Path, flavor: Flavor) -> dict[str, dict[str, int]]:
    """Compute layers and weight bytes of an engine by dtype, as `inspected_layers` counts them.

    Args:
        path: of an engine that bbx has just built, which is why no trust is asked for.

    Raises:
        ArtifactError, UnavailableError: the engine cannot be loaded here.
    """
    trt = trt_module(flavor)
    engine = engine_from_file(trt, path, collecting_logger(trt))
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return inspected_layers(json.loads(text))


def inspected_layers(information: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Count the compute layers of an inspector's document by dtype.

    Returns:
        By dtype: `layers`, and `weight_bytes` of those whose weights the inspector describes. Empty where
        the document holds names only.
    """
    counted: dict[str, dict[str, int]] = {}
    for layer in information.get("Layers", ()):
        dtype = _compute_dtype(layer) if isinstance(layer, dict) else None
        if dtype is None:
            continue
        entry = counted.setdefault(dtype, {"layers": 0, "weight_bytes": 0})
        entry["layers"] += 1
        entry["weight_bytes"] += int(layer.get("Weights", {}).get("Count", 0)) * BYTES_PER_ELEMENT[dtype]
    return counted


def _compute_dtype(layer: dict[str, Any]) -> str | None:
    """The dtype that a layer computes in; None where it is no compute layer or is not described."""
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
    if not any(word in kind for word in _COMPUTE_WORDS):
        return None
    weights = layer.get("Weights", {}).get("Type")
    described = [weights] if weights else [_format(tensor) for tensor in layer.get("Inputs", ())]
    for text in described:
        for word, dtype in _DTYPE_WORDS:
            if word in str(text).lower():
                return dtype
    return None


def _format(tensor: dict[str, Any]) -> str:
    return str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))
