"""A net that knows something says the same at every stage, on every colour photograph that is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
import sklearn.datasets
import torch
from PIL import Image

import bbx
from bbx.images import apply, decode
from bbx.runners.ort import OrtRunner

_SKIMAGE = Path(skimage.__file__).parent / "data"
_NAMES = (
    "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png hubble_deep_field.jpg retina.jpg"
)


def _photographs() -> dict[str, Image.Image]:
    """scikit-image's bundled colour photographs and scikit-learn's two sample images."""
    found = {name: decode(_SKIMAGE / name) for name in _NAMES.split()}
    samples = sklearn.datasets.load_sample_images()
    return found | {
        name: Image.fromarray(pixels) for name, pixels in zip(samples.filenames, samples.images, strict=True)
    }


@pytest.mark.timeout(300)
def test_every_stage_names_the_same_class_on_every_photograph(tmp_path: Path) -> None:
    model = bbx.build("efficientnet_lite1")
    photographs = _photographs()
    images = np.stack([apply(image, model.preprocess) for image in photographs.values()])
    with torch.inference_mode():
        reference = model.module(torch.from_numpy(images)).softmax(1).numpy()
    half = bbx.export("efficientnet_lite1", precision="fp16", out=tmp_path)
    for path, most in ((tmp_path / "efficientnet_lite1.onnx", 1e-4), (Path(half["artifact"]), 2e-2)):
        with OrtRunner(path) as runner:
            logits = runner.infer({"images": images})["logits"]
        scores = torch.from_numpy(logits).softmax(1).numpy()
        agreed = scores.argmax(1) == reference.argmax(1)
        assert agreed.all(), [name for name, same in zip(photographs, agreed, strict=True) if not same]
        assert np.abs(scores - reference).max() < most
