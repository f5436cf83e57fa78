"""Auxiliary classifiers: part of training, and of nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import inception_v3

from bbx.images import PHOTOGRAPHS
from bbx.models.build import build
from bbx.models.classic.auxiliary import HasAuxiliaries, summed_loss
from bbx.models.construct import seeded
from bbx.models.features import feature_maps
from bbx.models.heads import classifier_path
from bbx.models.spec import ModelSpec
from tests.conftest import Command

WITH_AUXILIARIES = (("inception_v1", 64, ("aux1", "aux2")), ("inception_v3", 96, ("AuxLogits",)))
CLASSES = 3


def learner(name: str, side: int) -> nn.Module:
    module = build(ModelSpec(name, weights="random", image_size=side, num_classes=CLASSES)).module
    assert isinstance(module, HasAuxiliaries)
    with seeded(1):
        module.add_auxiliaries(CLASSES)
    return module


def images(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "side", "sides"), WITH_AUXILIARIES)
def test_auxiliaries_answer_in_training_only(name: str, side: int, sides: tuple[str, ...]) -> None:
    module = learner(name, side)
    assert isinstance(module, HasAuxiliaries)
    assert (module.auxiliaries, module.auxiliary_weight) == (sides, 0.3)
    own = {key.partition(".")[0] for key in module.state_dict()}
    assert set(sides) <= own
    assert classifier_path(module) == "fc"
    with torch.no_grad():
        given = module.train()(images(side))
        alone = module.eval()(images(side))
    assert [answer.shape for answer in given] == [(2, CLASSES)] * (1 + len(sides))
    assert isinstance(alone, Tensor)
    assert alone.shape == (2, CLASSES)
    module.remove_auxiliaries()
    assert not set(sides) & {key.partition(".")[0] for key in module.state_dict()}
    with torch.no_grad():
        assert torch.equal(module(images(side)), alone)
        assert isinstance(module.train()(images(side)), Tensor)


def test_auxiliaries_of_the_papers_image_have_its_parameters() -> None:
    """Szegedy et al., 2015, section 5: 5/3 pooling to 4 × 4, 128 maps, 1,024 hidden units."""
    with torch.device("meta"):
        module = learner("inception_v1", 224).train()
        seen: list[torch.Size] = []
        for name in ("aux1", "aux2"):
            module.get_submodule(f"{name}.conv").register_forward_hook(
                lambda _module, _given, output: seen.append(output.shape)
            )
        module(torch.empty(2, 3, 224, 224))
    assert seen == [(2, 128, 4, 4)] * 2
    for name, channels in (("aux1", 512), ("aux2", 528)):
        count = sum(parameter.numel() for parameter in module.get_submodule(name).parameters())
        assert count == (channels + 1) * 128 + (128 * 4 * 4 + 1) * 1024 + (1024 + 1) * CLASSES


def test_the_summed_loss_has_auxiliaries_at_their_weight() -> None:
    logits, first, second = (torch.tensor([[value, 0.0]]) for value in (1.0, 2.0, 4.0))
    assert summed_loss((logits, first, second), torch.sum, 0.3).item() == pytest.approx(1 + 0.3 * (2 + 4))
    assert summed_loss(logits, torch.sum, 0.3).item() == 1.0


@pytest.mark.parametrize(("name", "side", "sides"), WITH_AUXILIARIES)
def test_auxiliaries_pass_gradient_to_the_layers_under_them(
    name: str, side: int, sides: tuple[str, ...]
) -> None:
    module = learner(name, side).train()
    given = module(images(side))
    summed_loss((torch.zeros(()), *given[1:]), torch.sum, 0.3).backward()
    taught = [path for path, parameter in module.named_parameters() if parameter.grad is not None]
    untaught = {path.partition(".")[0] for path, _ in module.named_parameters()} - {
        path.partition(".")[0] for path in taught
    }
    top = {"inception4e", "inception5a", "inception5b", "fc"}
    assert untaught == (top if name == "inception_v1" else {"Mixed_7a", "Mixed_7b", "Mixed_7c", "fc"})
    assert set(sides) <= {path.partition(".")[0] for path in taught}


def test_torchvisions_checkpoint_of_inception_v3_is_loaded_without_its_auxiliary(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = inception_v3(aux_logits=True, init_weights=False).state_dict()
    state = {key: torch.full(value.shape, 0.5, dtype=value.dtype) for key, value in state.items()}
    torch.save(state, tmp_path / "inception_v3.pth")
    model = build(ModelSpec("inception_v3", weights=str(tmp_path / "inception_v3.pth")))
    assert any("left out AuxLogits.conv0.conv.weight" in note for note in model.notes)
    assert all(bool((parameter == 0.5).all()) for parameter in model.module.parameters())


def test_networks_without_auxiliaries_say_so() -> None:
    for name in ("inception_v2", "resnet18_caffe"):
        with torch.device("meta"):
            module = build(ModelSpec(name, weights="random")).module
        assert not isinstance(module, HasAuxiliaries)


def test_a_checkpoint_with_auxiliaries_becomes_graphs_and_an_engine_without_them(
    tmp_path: Path, bbx: Command
) -> None:
    module = learner("inception_v1", 64)
    torch.save(module.state_dict(), tmp_path / "net.pth")
    module.remove_auxiliaries()  # type: ignore[operator]
    options = ("--weights", tmp_path / "net.pth", "--num-classes", CLASSES, "--image-size", 64)
    made = bbx("export", "inception_v1", "--format", "onnx", *options, "-o", tmp_path, "--json")
    assert made.code == 0, made.stderr
    assert made.document["parity"]["verdict"] == "pass"
    assert [output["name"] for output in made.document["outputs"]] == ["logits"]
    graph = onnx.load(made.document["artifact"]).graph
    # Biases start as zeros, and equal ones are kept once.
    kernels = [math.prod(tensor.dims) for tensor in graph.initializer if len(tensor.dims) > 1]
    assert sum(kernels) == sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)
    built = bbx("build-trt", made.document["artifact"], "--fp16", "-o", tmp_path, "--json")
    assert built.code == 0, built.stderr
    assert built.document["precision"]["verdict"] == "pass"
    quantised = bbx("quantize", made.document["artifact"], "--calib", PHOTOGRAPHS, "-o", tmp_path, "--json")
    assert quantised.code == 0, quantised.stderr
    assert len(quantised.document["quantized_nodes"]) == 57 + 1


def test_feature_maps_of_a_network_that_can_have_auxiliaries() -> None:
    maps = feature_maps(ModelSpec("inception_v1", weights="random", image_size=64))
    with torch.inference_mode():
        given = maps(images(64))
    assert [tuple(each.shape[1:]) for each in given.values()] == [
        (64, 32, 32), (192, 16, 16), (480, 8, 8), (832, 4, 4), (1024, 2, 2),
    ]  # fmt: skip
