from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bbx.benchmarks.journal import Journal, read_samples, write_samples
from bbx.errors import ArtifactError


def test_rows_are_on_disk_as_they_end_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new", resume=False)
    journal.append({"key": "a", "verdict": "failed"})
    journal.append({"key": "b", "verdict": "valid"})
    journal.append({"key": "a", "verdict": "valid"})
    assert journal.path.read_text().count("\n") == 3
    again = Journal(tmp_path / "new", resume=True).read()
    assert again == {"a": {"key": "a", "verdict": "valid"}, "b": {"key": "b", "verdict": "valid"}}


def test_a_line_that_a_crash_cut_short_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resume=False)
    journal.append({"key": "a"})
    with journal.path.open("a") as stream:
        stream.write('{"key": "b", "late')
    journal.append({"key": "c"})
    assert list(journal.read()) == ["a", "c"]


def test_without_resume_old_rows_are_gone(tmp_path: Path) -> None:
    Journal(tmp_path, resume=False).append({"key": "a"})
    assert Journal(tmp_path, resume=False).read() == {}


def test_a_folder_that_cannot_be_made_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        Journal(tmp_path / "file" / "out", resume=False)


def test_a_trace_comes_back_sample_by_sample(tmp_path: Path) -> None:
    samples = np.array([5, 1, 2**40], dtype=np.int64)
    write_samples(tmp_path / "samples" / "a.npz", samples, samples[:1])
    back, warm_up = read_samples(tmp_path / "samples" / "a.npz")
    assert back.dtype == np.int64
    assert (back.tolist(), warm_up.tolist()) == ([5, 1, 2**40], [5])
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.npz"]


def test_a_trace_that_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    samples = np.array([1], dtype=np.int64)
    write_samples(tmp_path / "samples" / "a.npz", samples, samples)
    (tmp_path / "samples" / ".b.npz.123.tmp").write_bytes(b"PK")
    Journal(tmp_path, resume=True)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.npz"]
