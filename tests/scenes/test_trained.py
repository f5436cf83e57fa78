"""What the trained models have learnt, on scenes of digits and photographs that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.scenes.compose import scenes
from tests.scenes.evaluate import mean_iou, score
from tests.scenes.train import CLASSES, RECIPES, Name, patches, trained

LEAST_MAP50 = 0.6
LEAST_MIOU = 0.4

pytestmark = pytest.mark.timeout(3600)  # a first run trains, for minutes on two idle cores


@pytest.mark.parametrize("name", ["fasterrcnn", "ssdlite"])
def test_a_trained_detector_finds_most_digits(name: Name) -> None:
    module, _ = trained(name)
    found = score(module, RECIPES[name].size, count=32)
    assert found["mAP50"] > LEAST_MAP50, found


def test_the_trained_segmenter_knows_digits_from_each_other() -> None:
    module, _ = trained("segmenter")
    size = RECIPES["segmenter"].size
    found = score(module, size, count=32)
    masks = np.stack([scene.mask for scene in scenes(32, 0, "test", size)])
    assert found["mIoU"] > LEAST_MIOU > 4 * mean_iou(masks, np.zeros_like(masks)), found


@pytest.mark.parametrize("name", RECIPES)
def test_a_second_call_gives_the_same_weights_and_its_file(name: Name) -> None:
    (first, path), (second, again) = trained(name), trained(name)
    assert path == again
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys() == RECIPES[name].build().state_dict().keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_patches_are_of_every_class() -> None:
    images, labels = patches(200, 48)
    assert images.shape == (200, 48, 48, 3)
    assert set(labels.tolist()) == set(range(CLASSES))
