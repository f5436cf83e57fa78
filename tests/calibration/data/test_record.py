"""The record: what it says, whether it notices changes, and that it gives the same images again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbx import images
from bbx.artifact import sha256_of
from bbx.calibration.data.record import read_record, verify_record
from bbx.errors import ArtifactError, BbxError, UsageError
from bbx.types import TensorSpec


def _all(made: Any) -> np.ndarray:
    return np.concatenate([feeds["images"] for feeds in made.batches(split="all")])


def test_a_record_says_everything(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 12)
    made = sample(tmp_path / "photos", images=10, seed=3, batch=4)
    made.record.write(tmp_path / "out" / "record.json")
    document = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (document["schema"], document["kind"], document["source"]) == ("bbx/1", "calibration", "folder")
    assert (document["seed"], document["batch"], document["found"]) == (3, 4, 12)
    assert document["random"] is False
    assert document["preprocess"]["height"] == 32
    assert document["sha256"] == made.record.sha256
    assert document["findings"][0]["kind"] == "too_few"
    assert len(document["images"]) == 10
    for image in document["images"]:
        assert image["sha256"] == sha256_of(tmp_path / "photos" / image["path"])
    assert [image["split"] for image in document["images"]].count("held_out") == 2
    assert verify_record(tmp_path / "out" / "record.json") == made.record


def test_the_hash_depends_on_content_and_not_on_place(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 8)
    paths[3].with_name("broken").touch()
    first = sample(tmp_path / "photos").record
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    assert sample(tmp_path / "elsewhere").record.sha256 == first.sha256
    for changed in ({"seed": 1}, {"batch": 2}, {"images": 7}):
        assert sample(tmp_path / "photos", **changed).record.sha256 != first.sha256
    Image.open(paths[3]).rotate(90).save(paths[3])
    assert sample(tmp_path / "photos").record.sha256 != first.sha256


def test_a_record_gives_the_same_images_again(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos/a", 60)
    pictures("photos/b", 45, start=60)
    (tmp_path / "photos" / "a" / "003.png").write_text("broken")
    first = sample(tmp_path / "photos", images=102, seed=5, batch=3)
    assert len(first.record.skipped) == 1
    first.record.write(tmp_path / "record.json")
    pictures("photos/b", 3, start=95)  # the source grows; the record does not
    again = sample(tmp_path / "record.json")
    assert again.record == first.record
    assert np.array_equal(_all(again), _all(first))


def test_arrays_and_annotations_again(tmp_path: Path, pictures: Any, sample: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", rows=rows, labels=np.arange(9))
    boxes = [{"id": index, "file_name": path.name} for index, path in enumerate(pictures("photos", 6))]
    (tmp_path / "photos" / "labels.json").write_text(json.dumps({"images": boxes}))
    for source in ("rows.npz", "photos/labels.json"):
        first = sample(tmp_path / source, images=5)
        first.record.write(tmp_path / "record.json")
        assert verify_record(tmp_path / "record.json") == first.record
        again = sample(tmp_path / "record.json")
        assert again.record == first.record
        assert np.array_equal(_all(again), _all(first))


def test_changed_files_are_named(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 6)
    sample(tmp_path / "photos").record.write(tmp_path / "record.json")
    Image.open(paths[1]).rotate(90).save(paths[1])
    paths[4].unlink()
    wanted = r"record\.json is not what it was: 001\.png has changed, 004\.png is not in"
    with pytest.raises(ArtifactError, match=wanted):
        verify_record(tmp_path / "record.json")
    with pytest.raises(ArtifactError, match=wanted):
        sample(tmp_path / "record.json")


def test_changed_rows_and_annotations_are_named(tmp_path: Path, pictures: Any, sample: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    sample(tmp_path / "rows.npy").record.write(tmp_path / "rows.json")
    rows[2, 0, 0, 0] += 1
    np.save(tmp_path / "rows.npy", rows[:5])
    with pytest.raises(ArtifactError, match=r"not what it was: rows\.npy\[2\] has changed, rows\.npy\[5\]"):
        verify_record(tmp_path / "rows.json")
    (tmp_path / "rows.npy").unlink()
    with pytest.raises(ArtifactError, match=r"rows\.npy cannot be read"):
        verify_record(tmp_path / "rows.json")
    with pytest.raises(ArtifactError, match=r"rows\.npy is not there any more"):
        sample(tmp_path / "rows.json")
    boxes = {"images": [{"id": path.name, "file_name": path.name} for path in pictures("photos", 4)]}
    (tmp_path / "photos" / "labels.json").write_text(json.dumps(boxes))
    sample(tmp_path / "photos" / "labels.json").record.write(tmp_path / "record.json")
    (tmp_path / "photos" / "labels.json").write_text(json.dumps(boxes | {"info": 1}))
    with pytest.raises(ArtifactError, match=r"labels\.json has changed"):
        verify_record(tmp_path / "record.json")


def test_unchanged_files_that_are_not_decoded_any_more(
    tmp_path: Path, pictures: Any, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a change of Pillow: the record promises this image, so it is not skipped."""
    pictures("photos", 4)
    sample(tmp_path / "photos").record.write(tmp_path / "record.json")
    decode = images.decode

    def older(path: Path, **more: Any) -> Image.Image:
        if path.name == "002.png":
            raise BbxError(f"{path} cannot be decoded as an image.")
        return decode(path, **more)

    monkeypatch.setattr(images, "decode", older)
    with pytest.raises(BbxError, match=r"002\.png cannot be decoded .* in the record, and unchanged"):
        sample(tmp_path / "record.json")


def test_images_that_moved_are_found_by_editing_the_root(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 6)
    first = sample(tmp_path / "photos")
    first.record.write(tmp_path / "record.json")
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"000\.png is not in .*photos, .* and 3 more.*edit `root`"):
        verify_record(tmp_path / "record.json")
    document = json.loads((tmp_path / "record.json").read_text()) | {"root": str(tmp_path / "moved")}
    (tmp_path / "record.json").write_text(json.dumps(document))
    assert verify_record(tmp_path / "record.json").sha256 == first.record.sha256


def _edited(key: str, value: Any) -> Any:
    return lambda document: json.dumps(document | {key: value})


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (_edited("seed", 7), "was edited"),
        (_edited("random", True), "was edited"),
        (_edited("findings", []), "was edited"),
        (_edited("sha256", None), "was edited"),
        (_edited("mystery", 1), "no calibration record of schema bbx/1: mystery"),
        (_edited("images", [{"path": 3}]), r"no calibration record of schema bbx/1: images\.0"),
        (_edited("schema", "bbx/2"), "no calibration record of schema bbx/1: schema"),
        (_edited("kind", "else"), "is no calibration record"),
        (lambda document: json.dumps(document)[:100], "cannot be read as a calibration record"),
        (lambda document: "[]", "is no calibration record"),
    ],
)
def test_records_that_cannot_be_believed(
    tmp_path: Path, pictures: Any, sample: Any, edit: Any, wanted: str
) -> None:
    pictures("photos", 4)
    path = tmp_path / "record.json"
    sample(tmp_path / "photos").record.write(path)
    path.write_text(edit(json.loads(path.read_text())))
    with pytest.raises(ArtifactError, match=wanted):
        read_record(path)


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no calibration record"):
        verify_record(tmp_path / "record.json")


# --- noise ------------------------------------------------------------------------------------------


def test_no_data_is_an_error(sample: Any) -> None:
    with pytest.raises(UsageError, match=r"none were given\. Type --calib FOLDER"):
        sample()


def test_noise_says_so_for_ever(tmp_path: Path, sample: Any) -> None:
    made = sample(allow_random=True, images=40, seed=1)
    assert made.record.random
    assert [finding.kind for finding in made.findings] == ["random"]
    assert _all(made).shape == (40, 3, 32, 32)
    assert np.array_equal(_all(made), _all(sample(allow_random=True, images=40, seed=1)))
    assert not np.array_equal(_all(made), _all(sample(allow_random=True, images=40, seed=2)))
    made.record.write(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text())["random"] is True
    assert verify_record(tmp_path / "record.json").random
    with pytest.raises(UsageError, match=r"records noise and no images\. Type --allow-random"):
        sample(tmp_path / "record.json")
    assert sample(tmp_path / "record.json", allow_random=True).record == made.record


def test_noise_for_inputs_that_are_no_image(sample: Any) -> None:
    inputs = (TensorSpec("a", "float32", (None, 7)), TensorSpec("b", "int64", (None, 2)))
    made = sample(allow_random=True, images=6, inputs=inputs, preprocess=None)
    feeds = next(made.batches())
    assert {name: feed.shape[1:] for name, feed in feeds.items()} == {"a": (7,), "b": (2,)}


def test_data_from_python_cannot_be_had_again(tmp_path: Path, pictures: Any, sample: Any) -> None:
    made = sample(data=[Image.open(path) for path in pictures("photos", 4)])
    made.record.write(tmp_path / "record.json")
    assert verify_record(tmp_path / "record.json") == made.record
    with pytest.raises(UsageError, match="given in Python and stand in no file"):
        sample(tmp_path / "record.json")
