"""Calibration data in `.npy` and `.npz` files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx import images
from bbx.errors import BbxError
from bbx.types import Preprocess, TensorSpec

HOW = Preprocess(32, 32, crop_pct=1.0)
TWO = (TensorSpec("images", "float32", (None, 3, 8, 8)), TensorSpec("sizes", "int64", (None, 2)))


def _floats(count: int = 6, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *(shape or (3, 32, 32)))).astype(np.float32)


def _given(made: Any, name: str = "images") -> np.ndarray:
    return np.concatenate([feeds[name] for feeds in made.batches(split="all")])


def _rows(made: Any) -> list[int]:
    return [image.row for image in made.images()]


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez_compressed(path, anything=array)])
def test_rows_of_the_input_are_used_as_they_are(tmp_path: Path, sample: Any, save: Any) -> None:
    path = tmp_path / ("data.npy" if save is np.save else "data.npz")
    save(path, _floats())
    for preprocess in (HOW, None):
        made = sample(path, batch=4, preprocess=preprocess)
        assert np.array_equal(_given(made), _floats()[_rows(made)])
        assert made.record.preprocess is None
        assert (made.record.source, made.record.images[1].path) == ("arrays", path.name)


def test_pictures_are_preprocessed(tmp_path: Path, sample: Any) -> None:
    photographs = [images.decode(path).resize((80, 60)) for path in images.photographs()]
    np.save(tmp_path / "pictures.npy", np.stack([np.asarray(photograph) for photograph in photographs]))
    made = sample(tmp_path / "pictures.npy")
    wanted = np.stack([images.apply(photographs[row], HOW) for row in _rows(made)])
    assert np.array_equal(_given(made), wanted)
    assert made.record.preprocess == HOW
    with pytest.raises(
        BbxError, match=r"gives images as uint8 N×60×80×3, and the graph takes float32 N×3×32×32\.$"
    ):
        sample(tmp_path / "pictures.npy", preprocess=None)


def test_several_inputs_and_labels(tmp_path: Path, sample: Any) -> None:
    sizes = np.arange(12).reshape(6, 2)
    np.savez(tmp_path / "data.npz", images=_floats(6, 3, 8, 8), sizes=sizes, labels=[3, 1, 3, 1, 3, 7])
    made = sample(tmp_path / "data.npz", inputs=TWO, preprocess=None)
    assert np.array_equal(_given(made, "sizes"), sizes[_rows(made)])
    assert np.array_equal(_given(made), _floats(6, 3, 8, 8)[_rows(made)])
    assert made.record.classes == ("1", "3", "7")
    assert made.record.images[5].labels == ("7",)


@pytest.mark.parametrize(("stored", "wanted"), [(np.float32([2, 0, 2, 1]), "2"), (["a", "b", "c", "d"], "a")])
def test_labels_that_were_stored_as_floats_are_numbers(
    tmp_path: Path, sample: Any, stored: Any, wanted: str
) -> None:
    np.savez(tmp_path / "data.npz", images=_floats(4), labels=stored)
    assert sample(tmp_path / "data.npz").record.images[0].labels == (wanted,)


def test_bytes_in_another_order_and_types(tmp_path: Path, sample: Any) -> None:
    np.save(tmp_path / "big.npy", _floats().astype(">f4"))
    made = sample(tmp_path / "big.npy")
    given = _given(made)
    assert given.dtype == np.dtype("=f4")
    assert np.array_equal(given, _floats()[_rows(made)])


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (
            _floats().astype(np.float64),
            r"gives images as float64 N×3×32×32, and the graph takes float32 N×3×32×32",
        ),
        (_floats(6, 32, 32, 3), r"float32 N×32×32×3, .* Pictures are uint8 N×height×width×3\."),
        (np.zeros((6, 40, 40, 4), np.uint8), "gives images as uint8 N×40×40×4"),
        (np.zeros((0, 3, 32, 32), np.float32), "holds no rows|is no whole array"),
        (np.float32(1), "holds no rows"),
        (np.asfortranarray(_floats()), "stored column by column"),
        (_floats(1), "1 image was found"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, sample: Any, array: np.ndarray, wanted: str) -> None:
    np.save(tmp_path / "data.npy", array)
    with pytest.raises(BbxError, match=wanted):
        sample(tmp_path / "data.npy")


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_what_is_not_finite_is_an_error(tmp_path: Path, sample: Any, value: float, what: str) -> None:
    """Even one value in a hundred rows: it is no broken file that could be skipped."""
    array = _floats(100)
    array[41, 1, 2, 3] = value
    np.save(tmp_path / "data.npy", array)
    with pytest.raises(BbxError, match=rf"Row 41 of .*data\.npy holds {what} in images \(1 of 3072 values\)"):
        sample(tmp_path / "data.npy")


class _Harmful:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["data.npy", "data.npz", "raw.npy"])
def test_nothing_is_unpickled(tmp_path: Path, sample: Any, name: str) -> None:
    trace = tmp_path / "trace"
    objects = np.array([_Harmful(trace)] * 4, dtype=object)
    if name == "raw.npy":
        (tmp_path / name).write_bytes(pickle.dumps(objects))
    elif name == "data.npy":
        np.save(tmp_path / name, objects, allow_pickle=True)
    else:
        np.savez(tmp_path / name, images=objects)
    wanted = "is no whole array" if name == "raw.npy" else "holds pickled Python objects"
    with pytest.raises(BbxError, match=wanted):
        sample(tmp_path / name)
    assert not trace.exists()
    np.load(tmp_path / name, allow_pickle=True)["images" if name == "data.npz" else slice(None)]
    assert trace.exists(), "the file would not have done any harm"


def test_truncated_files_are_errors(tmp_path: Path, sample: Any) -> None:
    np.save(tmp_path / "data.npy", _floats())
    np.savez(tmp_path / "data.npz", _floats())
    for name, wanted in (("data.npy", "is no whole array"), ("data.npz", r"is no whole \.npz file")):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 50, len(whole) - 100):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(BbxError, match=wanted):
                sample(tmp_path / name)


def test_names_and_numbers_of_rows_are_checked(tmp_path: Path, sample: Any) -> None:
    np.save(tmp_path / "data.npy", _floats())
    with pytest.raises(
        BbxError, match=r"holds one array, and the graph takes images float32 N×3×8×8, sizes int64 N×2"
    ):
        sample(tmp_path / "data.npy", inputs=TWO, preprocess=None)
    np.savez(tmp_path / "data.npz", images=_floats(6, 3, 8, 8), extra=np.zeros(6))
    with pytest.raises(BbxError, match="has the arrays extra, images, and the graph takes images"):
        sample(tmp_path / "data.npz", inputs=TWO, preprocess=None)
    np.savez(tmp_path / "data.npz", images=_floats(6, 3, 8, 8), sizes=np.zeros((5, 2), np.int64))
    with pytest.raises(BbxError, match="different numbers of rows: images 6, sizes 5"):
        sample(tmp_path / "data.npz", inputs=TWO, preprocess=None)


def test_inputs_need_a_batch(tmp_path: Path, sample: Any) -> None:
    np.save(tmp_path / "data.npy", _floats())
    with pytest.raises(BbxError, match="inputs with a batch, and x has none"):
        sample(tmp_path / "data.npy", inputs=(TensorSpec("x", "float32", ()),))
    fixed = (TensorSpec("a", "float32", (2, 4)), TensorSpec("b", "float32", (3, 4)))
    with pytest.raises(BbxError, match="fix different batches"):
        sample(tmp_path / "data.npy", inputs=fixed)


def test_rows_of_different_sizes_need_a_batch_of_one(sample: Any) -> None:
    inputs = (TensorSpec("images", "float32", (None, 3, None, None)),)
    data = [np.ones((3, 8 + index, 8), np.float32) for index in range(4)]
    made = sample(data=data, inputs=inputs)
    with pytest.raises(BbxError, match=r"differ in shape: .* Use a batch of 1"):
        list(made.batches())
    shapes = [
        feeds["images"].shape for feeds in sample(data=data, inputs=inputs, batch=1).batches(split="all")
    ]
    assert sorted(shapes) == [(1, 3, 8 + index, 8) for index in range(4)]
