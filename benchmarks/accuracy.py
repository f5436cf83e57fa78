"""How good the network of a row is on labelled images: the columns beside its latency."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from bbx.datasets.files import names_in
from bbx.datasets.named import is_named
from bbx.errors import BbxError
from bbx.process import warn
from bbx.runners.base import Runner
from bbx.types import Postprocess, Preprocess


def labelled(data: str | None, split: str | None, classes: str | None) -> dict[str, str | None] | None:
    """What a row's request says of the images; None where none were named.

    Args:
        data, split, classes: as for `bbx eval`.

    Raises:
        BbxError: there is no such data.
    """
    if data is None:
        return None
    if not is_named(data) and not Path(data).exists():
        raise BbxError(f"There is no data {data}.", hint="`bbx eval --help` says what it may be.")
    source = data if is_named(data) else str(Path(data).absolute())
    return {
        "source": source,
        "split": split,
        "classes": None if classes is None else str(Path(classes).absolute()),
        "listing": None if is_named(data) else _listing(Path(data)),
    }


def _listing(data: Path) -> str:
    """Hash of the files' names, sizes and times, by which a resumed run knows the data again."""
    files = sorted(data.rglob("*")) if data.is_dir() else [data]
    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def accuracy(
    data: dict[str, str | None],
    runner: Runner,
    preprocess: Preprocess | None,
    postprocess: Postprocess | None,
    *,
    batch: int,
    label: str,
) -> dict[str, float] | None:
    """The metrics of `bbx eval`; None, and a warning that says why, where there are none.

    Args:
        data: as `labelled` gives it.
        label: what to call the row.
    """
    from bbx.evaluation.passes import passed
    from bbx.evaluation.run import dataset_for
    from bbx.evaluation.subjects import Opened

    if preprocess is None or postprocess is None:
        warn(f"{label} has no accuracy: nothing says what its inputs and outputs mean.")
        return None
    source, split, classes = data["source"], data["split"], data["classes"]
    assert source is not None  # `labelled` wrote it
    try:
        dataset, _ = dataset_for(source, postprocess.task, split)
        names = None if classes is None else names_in(Path(classes))
        ready = Opened(runner, preprocess, postprocess)
        scores = passed(ready, dataset, batch=batch, label=label, classes=names).tally.result()
    except BbxError as error:
        warn(f"{label} has no accuracy: {error}")
        return None
    return {name: value for name, value in scores.items() if math.isfinite(value)}
