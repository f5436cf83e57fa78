"""The raw traces of a report in one file, and the fewer, rounded ones of the page."""

from __future__ import annotations

import base64
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.benchmarks.journal import Document, read_samples, write_samples
from bbx.benchmarks.reports.quantised import drawn, fair_share, quantised
from bbx.benchmarks.reports.samples import NAME, Trace, read_pack, traces_in, write_pack
from bbx.errors import ArtifactError
from tests.sample_reports import failed, made, measured, row

TRACE = np.array([12_000_000, 5_000_000_000, 13_000_000, 11_000_000], np.int64)


@pytest.fixture
def report(tmp_path: Path) -> Document:
    """Two rows with traces, and one without, in `tmp_path`."""
    first = measured(tmp_path, TRACE)
    return made(first, failed(), measured(tmp_path, TRACE[::-1] * 2, runtime="eager"))


def test_the_file_holds_every_sample_of_every_row(tmp_path: Path, report: Document) -> None:
    write_pack(tmp_path / NAME, report, traces_in(tmp_path, report))
    mark = report["environment"]["fingerprint"]
    found = read_pack(tmp_path / NAME)
    assert [key for key, environment in found if environment == mark] == [
        "resnet18/ort-cpu/fp32/b1/single",
        "resnet18/eager/fp32/b1/single",
    ]
    for each in (report["results"][0], report["results"][2]):
        for packed, own in zip(
            found[each["key"], mark], read_samples(tmp_path / each["samples"]), strict=True
        ):
            assert packed.dtype == np.int64
            assert packed.tolist() == own.tolist()


def test_numpy_alone_reads_it(tmp_path: Path, report: Document) -> None:
    write_pack(tmp_path / NAME, report, traces_in(tmp_path, report))
    with np.load(tmp_path / NAME, allow_pickle=False) as stored:
        columns = {name: stored[name] for name in stored}
    assert columns["latency_offsets"].tolist() == [0, 4, 8]
    assert columns["warm_up_offsets"].tolist() == [0, 3, 6]
    assert columns["latency_ns"].tolist() == [*TRACE, *(TRACE[::-1] * 2)]


def test_a_report_without_traces_has_an_empty_file(tmp_path: Path) -> None:
    empty = made(failed())
    write_pack(tmp_path / NAME, empty, traces_in(tmp_path, empty))
    assert read_pack(tmp_path / NAME) == {}


def test_traces_are_found_in_the_one_file_where_their_own_are_gone(tmp_path: Path, report: Document) -> None:
    write_pack(tmp_path / NAME, report, traces_in(tmp_path, report))
    (tmp_path / report["results"][0]["samples"]).unlink()
    found = traces_in(tmp_path, report)(report["results"][0])
    assert found is not None
    assert found[0].tolist() == TRACE.tolist()
    (tmp_path / NAME).unlink()
    assert traces_in(tmp_path, report)(report["results"][0]) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not an archive"])
def test_a_broken_file_of_samples_is_named(tmp_path: Path, report: Document, content: bytes) -> None:
    (tmp_path / report["results"][0]["samples"]).write_bytes(content)
    with pytest.raises(ArtifactError, match="does not hold samples that can be read"):
        traces_in(tmp_path, report)(report["results"][0])


@pytest.mark.parametrize(
    "samples", [np.ones((2, 2), np.int64), np.ones(3), np.array(["1"]), np.array([{}], object)]
)
def test_what_is_no_trace_is_named(tmp_path: Path, report: Document, samples: Any) -> None:
    np.savez(tmp_path / report["results"][0]["samples"], latency_ns=samples, warm_up_ns=samples)
    with pytest.raises(ArtifactError, match="does not hold samples that can be read"):
        traces_in(tmp_path, report)(report["results"][0])


@pytest.mark.parametrize(
    "name", ["../outside.npz", "/etc/passwd", "samples/../../outside.npz", "link/outside.npz"]
)
def test_a_report_may_not_point_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    write_samples(tmp_path / "outside.npz", TRACE, TRACE)
    found = made(row(samples=name))
    with pytest.raises(ArtifactError, match="keeps samples outside its folder"):
        traces_in(folder, found)(found["results"][0])


def test_one_row_at_a_time_is_in_memory(tmp_path: Path) -> None:
    rows = made(*(row(samples="x", subject=str(number)) for number in range(20)))

    def traces(of: Document) -> Trace:
        return np.full(100_000, int(of["subject"]), np.int64), TRACE

    tracemalloc.start()
    write_pack(tmp_path / NAME, rows, traces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 100_000 * 8
    assert len(read_pack(tmp_path / NAME)) == 20


def test_what_the_page_draws_is_rounded_by_less_than_any_screen_shows() -> None:
    found = quantised(TRACE, 100)
    assert not found.is_decimated
    text = found.to_json()
    levels = np.frombuffer(base64.b64decode(text["levels"]), "<u2")
    assert np.abs(text["low"] + levels * text["step"] - TRACE).max() <= (TRACE.max() - TRACE.min()) / 65_535
    assert levels.tolist()[1:4:2] == [65_535, 0]


def test_samples_that_are_all_alike_are_drawn() -> None:
    found = quantised(np.full(5, 7, np.int64), 100)
    assert (found.low, found.levels.tolist()) == (7, [0] * 5)


def test_fewer_samples_keep_the_fastest_the_slowest_and_the_order() -> None:
    samples = np.arange(10_000, dtype=np.int64) + 1000
    samples[[1234, 4321]] = 1, 10**9
    found = quantised(samples, 50)
    values = found.low + found.levels * found.step
    assert found.of == 10_000
    assert 40 < found.levels.size <= 50
    assert values.min() == 1
    assert values.max() == pytest.approx(10**9)
    rest = np.delete(values, [values.argmin(), values.argmax()])
    assert (np.diff(rest) >= 0).all()


@pytest.mark.parametrize(
    ("sizes", "most", "share"),
    [
        ([10, 20, 30], 100, 30),
        ([10, 200, 300], 110, 50),
        ([100, 100, 100, 100], 100, 25),
        ([0, 0, 50], 20, 20),
        ([1000] * 1000, 10, 3),
        ([], 10, 3),
    ],
)
def test_long_rows_share_what_short_rows_leave(sizes: list[int], most: int, share: int) -> None:
    assert fair_share(sizes, most) == share
    if share > 3:
        assert sum(min(size, share) for size in sizes) <= most


def test_rows_without_samples_are_drawn_as_nothing(tmp_path: Path, report: Document) -> None:
    pictures = drawn(report["results"], traces_in(tmp_path, report), most=6)
    assert [picture and (picture.levels.size, picture.of) for picture in pictures] == [(3, 4), None, (2, 4)]
