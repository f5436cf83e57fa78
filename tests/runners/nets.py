"""A small convolutional network and its artefacts, made with the exporters of torch and TensorRT."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from bbx.types import TensorSpec

INPUTS = (TensorSpec("images", "float32", (None, 3, 32, 32)),)
OUTPUTS = (TensorSpec("logits", "float32", (None, 10)),)


def net(seed: int = 0) -> nn.Module:
    """Convolution, batch norm, ReLU, pooling, linear; seeded."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def feeds(batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded noise."""
    generator = np.random.default_rng(seed)
    return {"images": generator.standard_normal((batch, 3, 32, 32), dtype=np.float32)}


def reference(given: dict[str, np.ndarray]) -> np.ndarray:
    """What the module itself says."""
    with torch.inference_mode():
        return net()(torch.from_numpy(given["images"])).numpy()


def relative(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(actual.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def save_onnx(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net(),
            (torch.zeros(2, 3, 32, 32),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return path


def save_torchscript(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net(), torch.zeros(2, 3, 32, 32)).save(str(path))
    return path


def save_pt2(path: Path) -> Path:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes)
    torch.export.save(program, str(path))
    return path


def engine(trt: ModuleType, onnx: Path, targets: list[tuple[int, int]]) -> bytes:
    """An engine for batches 1 to 8.

    Args:
        trt: the module of either flavour.
        targets: compute capabilities (RTX only); empty for the GPU of this machine.
    """
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(onnx.read_bytes()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, (major, minor) in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), index)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 3, 32, 32), (2, 3, 32, 32), (8, 3, 32, 32))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))
