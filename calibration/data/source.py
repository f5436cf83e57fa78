"""What every source of calibration data gives: a list of entries, a look at each, and its row of inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bbx import images
from bbx.calibration.data.previews import Preview, preview_of_arrays, preview_of_file
from bbx.calibration.data.rows import Feeder, Row
from bbx.datasets.files import require_files
from bbx.errors import BbxError
from bbx.types import Preprocess

SourceKind = Literal["folder", "list", "coco", "arrays", "iterable", "random"]

ACCEPTED = (
    "a folder of images, a text file that lists images, an .npy, an .npz, a COCO .json file or a record"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source.

    Attributes:
        path: relative to the source's root; of noise and of data given in Python, only a name.
        row: which row of the arrays in that file; None for an image file.
        labels: of a class folder, a list or a COCO file; empty where nobody said.
    """

    path: str
    row: int | None = None
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call it."""
        return self.path if self.row is None else f"{self.path}[{self.row}]"


@dataclass(frozen=True, slots=True)
class Broken:
    """What an entry gives that cannot be decoded."""

    reason: str


class Source(ABC):
    """Calibration data before any of it is chosen.

    Attributes:
        kind: where it comes from.
        root: the folder that paths are relative to; None for what stands in no file.
        entries: in a fixed order.
        annotations: the COCO file that the entries and their labels were read from.
        preprocess: how its images become inputs; None where its arrays are inputs already.
    """

    kind: SourceKind
    root: Path | None
    entries: Sequence[Entry]
    annotations: Path | None = None
    preprocess: Preprocess | None = None

    @abstractmethod
    def preview(self, entry: Entry) -> Preview | Broken:
        """Look at one entry; called from several threads.

        Raises:
            BbxError: it holds values with which no calibration can be right.
        """

    @abstractmethod
    def row(self, entry: Entry) -> Row:
        """One row of the network's inputs; called from several threads.

        Raises:
            BbxError: the entry cannot be read any more.
        """


class FileSource(Source):
    """Image files below one folder.

    Raises:
        BbxError: images are no input of this network.
    """

    def __init__(
        self,
        kind: SourceKind,
        root: Path,
        entries: Sequence[Entry],
        feeder: Feeder,
        *,
        annotations: Path | None = None,
    ) -> None:
        feeder.require_images(root)
        self.kind, self.root, self.entries = kind, root, tuple(entries)
        self.annotations, self.preprocess = annotations, feeder.preprocess
        self._root, self._feeder = root, feeder

    def preview(self, entry: Entry) -> Preview | Broken:
        """Look at one file; see `Source`."""
        try:
            return preview_of_file(self._root / entry.path)
        except BbxError as error:
            # The reason is recorded, so it must not say where on this machine the folder is.
            return Broken(error.message.replace(str(self._root / entry.path), entry.path))

    def row(self, entry: Entry) -> Row:
        """One file, decoded and preprocessed; see `Source`."""
        return self._feeder.of_image(images.decode(self._root / entry.path))


class NoiseSource(Source):
    """Seeded noise in the shape and the value range of the inputs: for trying things out."""

    kind: SourceKind = "random"
    root = None

    def __init__(self, count: int, seed: int, feeder: Feeder) -> None:
        self.entries = tuple(Entry("noise", row) for row in range(count))
        self._seed, self._feeder = seed, feeder

    def preview(self, entry: Entry) -> Preview | Broken:
        """Look at one row of noise; see `Source`."""
        return preview_of_arrays(self.row(entry))

    def row(self, entry: Entry) -> Row:
        """One row of noise, the same whenever it is asked for; see `Source`."""
        seeds = (self._seed, entry.row or 0)
        how = self._feeder.preprocess
        if how is not None and how.dtype == "uint8":
            return {self._feeder.inputs[0].name: images.noise_batch(how, 1, seed=seeds)[0]}
        return {
            name: feed[0] for name, feed in images.noise_feeds(self._feeder.inputs, 1, seed=seeds).items()
        }


def folder_source(folder: Path, feeder: Feeder) -> FileSource:
    """Every image below a folder; where all stand in sub-folders, the first sub-folder is the label.

    Of a folder with `images` and `masks`, as segmenters learn from, it is those in `images`, without labels.

    Raises:
        BbxError: the folder is missing or holds no image.
    """
    masked = (folder / "images").is_dir() and (folder / "masks").is_dir()
    within = folder / "images" if masked else folder
    paths = [path.relative_to(folder) for path in images.image_files(within)]
    by_class = not masked and all(len(path.parts) > 1 for path in paths)
    entries = [Entry(path.as_posix(), labels=(path.parts[0],) if by_class else ()) for path in paths]
    return FileSource("folder", folder, entries, feeder)


def list_source(path: Path, feeder: Feeder) -> FileSource:
    """The images that a text file names, one a line, relative to the file's own folder.

    After a tab, or after the last comma of a line that names no file as a whole, stands the label. Empty
    lines and lines that begin with `#` are skipped.

    Raises:
        BbxError: it is no text, names nothing, or names files that do not exist.
    """
    return FileSource("list", path.parent, listed(path), feeder)


def listed(path: Path) -> list[Entry]:
    """The entries of such a list, relative to its folder.

    Raises:
        BbxError: as `list_source`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BbxError(
            f"{path} is no calibration data.",
            hint=f"Name {ACCEPTED}.",
        ) from error
    said = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    entries = [
        (number, _listed(line, path.parent)) for number, line in said if line and not line.startswith("#")
    ]
    if not entries:
        raise BbxError(f"{path} lists no images.", hint="Write the path of one image on each line.")
    require_files(
        [(f"line {number}", path.parent / entry.path) for number, entry in entries], f"{path} lists files"
    )
    return [entry for _, entry in entries]


def _listed(line: str, folder: Path) -> Entry:
    file, tab, label = line.partition("\t")
    if not tab and not (folder / line).is_file():
        file, _, label = line.rpartition(",") if "," in line else (line, "", "")
    return Entry(file.strip(), labels=(label.strip(),) if label.strip() else ())
