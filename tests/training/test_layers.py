"""Which parts are the backbone, which of them learn, and that what is frozen does not move."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bbx.errors import BbxError, ModelError, UsageError
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.training.course import Course
from bbx.training.layers import backbone_of
from bbx.training.optimise import groups_of, schedule_over
from bbx.training.options import TrainOptions
from bbx.training.subject import Subject, subject_of


def _subject(name: str, classes: int = 4, size: int | None = None, **options: Any) -> Subject:
    spec = ModelSpec(name, weights="random", image_size=size)
    return subject_of(TrainOptions(spec, "data", **options), classes)


def _names(name: str, size: int) -> list[str]:
    model = build(ModelSpec(name, weights="random", image_size=size), to_learn=True)
    return [block.name for block in backbone_of(model.module, model.head)]


def _learning(subject: Subject) -> set[str]:
    found = subject.objective.network.named_parameters()
    return {name.rpartition(".")[0] for name, each in found if each.requires_grad}


def test_blocks_are_what_a_network_is_stacked_of() -> None:
    resnet = _names("resnet18", 64)
    assert resnet == ["conv1", "bn1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1))]
    mobilenet = _names("mobilenet_v3_small", 64)
    assert mobilenet == [*(f"features.{number}" for number in range(13)), "classifier.0"]
    vit = [name for name in _names("timm:test_vit", 160) if name.startswith("blocks.")]
    assert vit == [f"blocks.{number}" for number in range(len(vit))]
    assert len(vit) > 1


@pytest.mark.parametrize(("name", "size"), [("densenet121", 64), ("timm:test_vit", 160), ("vit_b_16", 32)])
def test_every_parameter_is_in_one_block_or_in_the_head(name: str, size: int) -> None:
    model = build(ModelSpec(name, weights="random", image_size=size), to_learn=True)
    inside = [id(p) for block in backbone_of(model.module, model.head) for p in block.parameters]
    assert len(set(inside)) == len(inside)
    head = [id(p) for p in model.module.get_submodule(model.head or "").parameters()]
    assert set(inside) | set(head) == {id(p) for p in model.module.parameters()}
    assert not set(inside) & set(head)


def test_embeddings_of_a_frozen_transformer_are_frozen() -> None:
    assert _learning(_subject("timm:test_vit", size=160, freeze_backbone=True)) == {"head"}


def test_a_frozen_backbone_leaves_the_head_to_learn() -> None:
    assert _learning(_subject("resnet18", size=64, freeze_backbone=True)) == {"fc"}


@pytest.mark.parametrize(
    ("options", "first"), [({"unfreeze": 2}, "layer4.0"), ({"freeze_until": "layer3"}, "layer4.0")]
)
def test_some_blocks_of_a_frozen_backbone_learn(options: dict[str, Any], first: str) -> None:
    learning = _learning(_subject("resnet18", size=64, **options))
    assert {name.split(".")[0] for name in learning} == {"layer4", "fc"}
    assert any(name.startswith(first) for name in learning)


def test_a_block_that_is_none_is_answered_by_those_near_it() -> None:
    with pytest.raises(ModelError, match=r"no block 'layr3'. Nearest: .*layer3"):
        _subject("resnet18", size=64, freeze_until="layr3")
    with pytest.raises(UsageError, match="has 10 blocks below its head, and --unfreeze 11"):
        _subject("resnet18", size=64, unfreeze=11)


def test_the_backbone_of_a_segmenter_is_frozen_and_not_its_decoder() -> None:
    subject = _subject("lraspp_mobilenet_v3_large", size=64, freeze_backbone=True)
    assert {name.split(".")[0] for name in _learning(subject)} == {"classifier"}


def test_statistics_of_frozen_batch_norms_do_not_move() -> None:
    subject = _subject("resnet18", size=64, unfreeze=1)
    options = TrainOptions(ModelSpec("resnet18", weights="random", image_size=64), "data", unfreeze=1)
    network = subject.objective.network
    course = Course(
        subject.objective, subject.blocks, subject.still, options, device=torch.device("cpu"), epoch_steps=2
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    course.learn()
    loss = subject.objective(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    course.optimiser.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"layer4", "fc"}
    assert "layer4.1.bn1.running_mean" in moved
    assert not any(name.startswith("layer4.0") for name in moved)


# --- rates ------------------------------------------------------------------------------------------


def _options(**options: Any) -> TrainOptions:
    return TrainOptions(ModelSpec("resnet18", weights="random", image_size=64), "data", **options)


def _scale_of(groups: list[dict[str, Any]], parameter: torch.nn.Parameter) -> float:
    [found] = [group for group in groups if any(each is parameter for each in group["params"])]
    return float(found["lr_scale"])


def test_rates_fall_from_block_to_block_or_below_the_head() -> None:
    subject = _subject("resnet18", size=64)
    network: Any = subject.objective.network
    falling = groups_of(network, subject.blocks, _options(layer_decay=0.5))
    assert _scale_of(falling, network.fc.weight) == 1.0
    assert _scale_of(falling, network.layer4[1].conv1.weight) == 0.5
    assert _scale_of(falling, network.layer4[0].conv1.weight) == 0.25
    assert _scale_of(falling, network.conv1.weight) == 0.5**10
    scaled = groups_of(network, subject.blocks, _options(backbone_lr_scale=0.1))
    assert _scale_of(scaled, network.fc.bias) == 1.0
    assert _scale_of(scaled, network.conv1.weight) == 0.1


def test_biases_and_norms_are_not_decayed() -> None:
    subject = _subject("resnet18", size=64)
    for group in groups_of(subject.objective.network, subject.blocks, _options(weight_decay=0.3)):
        assert {each.ndim > 1 for each in group["params"]} == {group["weight_decay"] == 0.3}
    all_of_them = groups_of(subject.objective.network, subject.blocks, _options())
    assert sum(len(group["params"]) for group in all_of_them) == len(
        list(subject.objective.network.parameters())
    )


def _rates(**options: Any) -> list[float]:
    """Of the head and of the backbone's half, over ten epochs of four steps."""
    head, below = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    groups: list[dict[str, Any]] = [
        {"params": [head], "lr": 1.0, "lr_scale": 1.0},
        {"params": [below], "lr": 1.0, "lr_scale": 0.5},
    ]
    optimiser = torch.optim.SGD(groups)
    schedule = schedule_over(optimiser, _options(lr=1.0, **options), 4)
    found = []
    for step in range(40):
        schedule.step_update(step)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(2 * optimiser.param_groups[1]["lr"])
        found.append(optimiser.param_groups[0]["lr"])
    return found


def test_the_rate_warms_up_and_falls() -> None:
    cosine = _rates()
    assert cosine[0] == pytest.approx(0.01)
    assert cosine[4] == pytest.approx(1.0)
    assert cosine[:5] == sorted(cosine[:5])
    assert cosine[4:] == sorted(cosine[4:], reverse=True)
    assert 0 < cosine[-1] < 0.01
    linear = _rates(schedule="linear", warmup=0)
    assert linear[0] == pytest.approx(1.0)
    assert linear[20] == pytest.approx(0.5)
    assert set(_rates(schedule="constant", warmup=0)) == {1.0}
    stairs = _rates(schedule="step", warmup=0)
    assert sorted({round(rate, 6) for rate in stairs}) == [0.01, 0.1, 1.0]


def test_the_usual_rate_and_decay_of_an_optimizer_hang_on_no_spelling() -> None:
    for name, rate, decay in (("sgd", 1e-2, 1e-4), ("SGD", 1e-2, 1e-4), ("AdamW", 5e-4, 0.05)):
        options = _options(optimizer=name, lr=None)
        assert (options.rate, options.decay) == (rate, decay)


def test_an_optimizer_that_is_none_is_answered_by_those_near_it() -> None:
    subject = _subject("resnet18", size=64)
    with pytest.raises(BbxError, match=r"no optimizer 'adamwx'. Nearest: .*adamw"):
        Course(
            subject.objective,
            subject.blocks,
            subject.still,
            _options(optimizer="adamwx", lr=1e-3),
            device=torch.device("cpu"),
            epoch_steps=1,
        )


def test_with_nothing_to_learn_there_is_nothing_to_do() -> None:
    subject = _subject("resnet18", size=64)
    subject.objective.requires_grad_(False)
    with pytest.raises(UsageError, match="Nothing is left to learn"):
        groups_of(subject.objective.network, subject.blocks, _options())
