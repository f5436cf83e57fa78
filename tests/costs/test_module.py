"""Costs of torch modules: against torch's own counter, and against numbers worked out by hand."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bbx.costs.layers import Costs, Volume
from bbx.costs.module import module_costs
from bbx.models.build import Model
from bbx.models.outline import outline
from bbx.models.registry import lowered, presets
from bbx.models.spec import ModelSpec
from bbx.types import TensorSpec

IMAGES = TensorSpec("images", "float32", (2, 3, 8, 8))

SAMPLE = (
    "alexnet",
    "googlenet",
    "resnet18",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "vit_b_16",
    "swin_t",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssdlite320_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
    "unet_resnet34",
)


def counted(model: Model, batch: int = 1) -> Costs:
    inputs = [TensorSpec(spec.name, spec.dtype, spec.concrete(batch)) for spec in model.inputs]
    return module_costs(model.module, inputs, [spec.name for spec in model.outputs])


def by_torch(model: Model, batch: int = 1) -> int:
    (spec,) = model.inputs
    images = torch.zeros(spec.concrete(batch), dtype=getattr(torch, spec.dtype), device="meta")
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.module(images)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", [preset.name for preset in presets() if preset.name in SAMPLE])
def test_presets_cost_what_torch_counts(name: str) -> None:
    model = outline(lowered(ModelSpec(name), "static"))
    assert all(parameter.is_meta for parameter in model.module.parameters())
    costs = counted(model)
    assert costs.flops == by_torch(model) > 0
    assert costs.parameters == sum(parameter.numel() for parameter in model.module.parameters())
    assert [spec.name for spec in costs.outputs] == [spec.name for spec in model.outputs]
    for found, promised in zip(costs.outputs, model.outputs, strict=True):
        assert found == TensorSpec(promised.name, promised.dtype, promised.concrete(1))


class Residual(nn.Module):
    """A convolution whose result is added to its input, twice through the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.unused = nn.Linear(4, 5)
        for parameter in self.unused.parameters():
            parameter.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(images) + images).flatten(1)


def test_a_small_network_by_hand() -> None:
    costs = module_costs(Residual().eval(), [IMAGES], ["features"])
    elements = 2 * 3 * 8 * 8
    root, conv, unused = costs.layers
    assert (root.name, root.type, root.output_shape, root.flops) == ("", "Residual", (2, 192), 0)
    assert root.moved == Volume(floats=3 * elements)  # the sum: two read, one written; flatten is a view
    assert (conv.name, conv.type, conv.calls, conv.parameters) == ("conv", "Conv2d", 2, 81)
    assert conv.flops == 2 * (2 * elements * 27)
    assert conv.written == Volume(floats=2 * elements)
    assert conv.moved == Volume(floats=2 * (2 * elements + 81))
    assert (unused.name, unused.calls, unused.output_shape) == ("unused", 0, None)
    assert (unused.parameters, unused.trainable) == (25, 0)
    assert costs.parameters == 81 + 25
    assert costs.outputs == (TensorSpec("features", "float32", (2, 192)),)
    # While the sum is made: the input, the convolution's result and the sum.
    assert costs.peak("fp32") == 3 * elements * 4
    assert costs.peak("int8") == 3 * elements
    assert costs.boundary == Volume(floats=2 * elements + 106)


def test_parameters_that_are_shared_count_once() -> None:
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight
    costs = module_costs(tied, [TensorSpec("x", "float32", (1, 8))], ["y"])
    assert [layer.parameters for layer in costs.layers] == [64, 0]
    assert costs.flops == 2 * 2 * 64


def test_costs_grow_with_the_batch_and_parameters_do_not() -> None:
    model = outline(ModelSpec("resnet18", image_size=64))
    one, four = counted(model, 1), counted(model, 4)
    assert four.flops == 4 * one.flops
    assert four.parameters == one.parameters
    assert four.peak("fp32") == 4 * one.peak("fp32")


def test_bytes_are_counted_in_the_networks_own_type() -> None:
    model = outline(ModelSpec("resnet18", image_size=64, input="uint8"))
    costs = counted(model)
    assert costs.inputs[0].dtype == "uint8"
    assert costs.boundary.other == 64 * 64 * 3
    assert costs.boundary.nbytes("fp16") - costs.boundary.other == 2 * costs.boundary.floats


class Curious(nn.Module):
    """Looks at its numbers, as no network on the meta device can."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1)) * float(images.max() + 1)


def test_a_network_that_looks_at_its_numbers_is_run_for_real() -> None:
    module = Curious()
    costs = module_costs(module, [IMAGES], ["logits"])
    assert costs.flops == 2 * 2 * 192 * 4
    assert not module.head.weight.is_meta


def test_the_module_is_left_as_it_was(nets: ModuleType) -> None:
    module = nets.Tiny().eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module_costs(module, [TensorSpec("images", "float32", (1, 3, 16, 16))], ["logits"])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_attention_in_one_fused_operator_is_counted_too() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    costs = module_costs(layer, [TensorSpec("x", "float32", (1, 10, 16))], ["y"])
    projections = 2 * 10 * 16 * (4 * 16 + 2 * 32)
    assert costs.flops == projections + 2 * (2 * 10 * 10 * 16)
    assert costs.parameters == sum(parameter.numel() for parameter in layer.parameters())
