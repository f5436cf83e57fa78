"""The sample: drawn, divided and read in batches; and a range scan that reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bbx import images
from bbx.calibration.data.options import CalibrationOptions
from bbx.calibration.ranges import activation_ranges
from bbx.errors import BbxError, UsageError
from bbx.types import TensorSpec


def _names(made: Any, split: str = "all") -> list[str]:
    return [image.path for image in made.images(split)]


def test_a_sample_is_seeded(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 60)
    first, again = (sample(tmp_path / "photos", images=20) for _ in range(2))
    assert first.record == again.record
    other = sample(tmp_path / "photos", images=20, seed=1)
    assert set(_names(first)) != set(_names(other))
    assert len(first) == len(other) == 20


def test_a_further_image_changes_one_in_the_sample(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 60)
    before = set(_names(sample(tmp_path / "photos", images=30)))
    for index in range(60, 90):
        pictures("photos", 1, start=index)
        after = set(_names(sample(tmp_path / "photos", images=30)))
        assert len(before - after) <= 1
        before = after
    assert any(int(Path(name).stem) >= 60 for name in before)


def test_one_in_four_is_held_out(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 41)
    made = sample(tmp_path / "photos")
    held_out, measured = _names(made, "held_out"), _names(made, "calibration")
    assert (len(held_out), len(measured)) == (10, 31)
    assert not set(held_out) & set(measured)
    assert _names(made) == measured + held_out
    assert held_out != _names(sample(tmp_path / "photos", seed=1), "held_out")


def test_two_images_are_enough(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 2)
    made = sample(tmp_path / "photos")
    assert [len(next(made.batches(split=split))["images"]) for split in ("calibration", "held_out")] == [1, 1]


def test_batches_can_be_had_any_number_of_times(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 30)
    made = sample(tmp_path / "photos", batch=8)
    first = [feeds["images"] for feeds in made.batches()]
    assert [len(batch) for batch in first] == [8, 8, 7]
    half = made.batches()
    next(half)  # left unfinished
    for batch, again in zip(first, made.batches(), strict=True):
        assert np.array_equal(batch, again["images"])


def test_a_fixed_batch_is_filled(tmp_path: Path, pictures: Any, sample: Any) -> None:
    inputs = (TensorSpec("images", "float32", (6, 3, 32, 32)),)
    pictures("photos", 40)
    made = sample(tmp_path / "photos", inputs=inputs, batch=8)
    sizes = {
        split: [len(f["images"]) for f in made.batches(split=split)] for split in ("calibration", "held_out")
    }
    assert sizes == {"calibration": [6] * 5, "held_out": [6]}
    assert (made.record.batch, len(made.record.images)) == (6, 36)
    few = sample(tmp_path / "photos", inputs=inputs, images=13)
    assert [len(feeds["images"]) for feeds in few.batches(split="all")] == [6, 6]
    few.record.write(tmp_path / "record.json")
    assert sample(tmp_path / "record.json", inputs=inputs).record == few.record
    with pytest.raises(
        BbxError, match=r"takes 6 images a run, and 11 were found: calibration takes at least 12"
    ):
        sample(tmp_path / "photos", inputs=inputs, images=11)


@pytest.mark.parametrize("options", [{"images": 1}, {"images": 0}, {"batch": 0}])
def test_options_without_sense(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        CalibrationOptions("photos", **options)


def test_options_import_nothing_heavy() -> None:
    code = (
        "import sys, bbx.calibration.data.options; "
        "print([m for m in ('numpy', 'PIL', 'pydantic', 'torch', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_range_scan_sees_every_image(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 20)
    made = sample(tmp_path / "photos", batch=3)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "graph.onnx")
    rows = np.stack(
        [
            images.apply(images.decode(tmp_path / "photos" / name), made.record.preprocess)
            for name in _names(made, "calibration")
        ]
    )
    found = activation_ranges(tmp_path / "graph.onnx", made.batches())
    assert (found["images"].minimum, found["images"].maximum) == pytest.approx((rows.min(), rows.max()))


_PEAK = """
import resource, sys
from bbx.calibration.data.dataset import calibration_set
from bbx.calibration.data.options import CalibrationOptions
from bbx.types import Preprocess, TensorSpec
from pathlib import Path

made = calibration_set(
    CalibrationOptions(sys.argv[1], images=int(sys.argv[2])),
    (TensorSpec("images", "float32", (None, 3, 192, 192)),),
    Preprocess(192, 192) if sys.argv[1].endswith("photos") else None,
)
count = sum(len(feeds["images"]) for feeds in made.batches(split="all"))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("kind", ["photos", "rows.npy", "rows.npz"])
def test_memory_does_not_grow_with_the_images(tmp_path: Path, pictures: Any, kind: str) -> None:
    """Two hundred rows of 192 × 192 would be 85 MiB."""
    if kind == "photos":
        pictures("photos", 100)
        pictures("photos/again", 100)
    else:
        rows = np.random.default_rng(0).standard_normal((200, 3, 192, 192), dtype=np.float32)
        np.save(tmp_path / kind, rows) if kind == "rows.npy" else np.savez(tmp_path / kind, rows)
    peaks = []
    for count in (16, 200):
        command = [sys.executable, "-c", _PEAK, str(tmp_path / kind), str(count)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        seen, peak = map(int, done.stdout.split())
        assert seen == count
        peaks.append(peak / 1024)
    assert peaks[1] < peaks[0] + 25
