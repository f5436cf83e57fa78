"""What is on the images that a graph is judged by, where their source says it: boxes or masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bbx.calibration.data.record import CalibrationRecord, RecordedImage
from bbx.datasets import Dataset, Target, open_dataset
from bbx.errors import BbxError
from bbx.evaluation.metrics import PRIMARY, tally_of
from bbx.outputs import Outputs, restore
from bbx.process import warn
from bbx.types import Postprocess, Preprocess


@dataclass(frozen=True, slots=True)
class Truth:
    """What is on some images, in their order.

    Attributes:
        targets: `bbx.datasets.Boxes` or masks, in the network's numbering.
        sizes: width and height of each image.
        preprocess, postprocess: of the network that is judged.
    """

    targets: tuple[Target, ...]
    sizes: tuple[tuple[int, int], ...]
    preprocess: Preprocess
    postprocess: Postprocess

    @property
    def metric(self) -> str:
        """The one that stands for the task: `mAP` or `mIoU`."""
        return PRIMARY[self.postprocess.task]

    def score(self, batches: Iterable[Outputs]) -> float:
        """The metric of a network's outputs on these images, 0..1.

        Args:
            batches: by the outputs' names, the batch first; all images together, in their order.
        """
        tally = tally_of(self.postprocess.task, self.postprocess.num_classes or 0)
        start = 0
        for outputs in batches:
            stop = start + len(next(iter(outputs.values())))
            results = restore(outputs, self.preprocess, self.postprocess, self.sizes[start:stop])
            tally.update(results, self.targets[start:stop])
            start = stop
        found = tally.result().get(self.metric, 0.0)
        return found if np.isfinite(found) else 0.0


def truth_of(
    record: CalibrationRecord,
    images: Sequence[RecordedImage],
    preprocess: Preprocess | None,
    postprocess: Postprocess | None,
) -> Truth | None:
    """The annotations of some images of a record: of a COCO file, or of a folder with `images` and `masks`.

    Returns:
        None where the source has none for the network's task. Where it has some that do not fit the network's
        classes, a warning says so.
    """
    source = _annotated(record, postprocess)
    if source is None or preprocess is None or postprocess is None or postprocess.num_classes is None:
        return None
    try:
        dataset = open_dataset(str(source), postprocess.task, classes=postprocess.classes)
        _require_classes(dataset, postprocess)
        places = {dataset.name(index): index for index in range(len(dataset))}
        chosen = [places[image.path] for image in images]
        targets = tuple(dataset.target(index) for index in chosen)
        sizes = tuple(dataset.image(index).size for index in chosen)
    except BbxError as error:
        warn(f"The annotations are not used, and accuracy is agreement with FP32: {error.message}")
        return None
    return Truth(targets, sizes, preprocess, postprocess)


def _annotated(record: CalibrationRecord, postprocess: Postprocess | None) -> Path | None:
    """What has annotations of the network's task, of what a record was made from."""
    if postprocess is None or record.root is None:
        return None
    root = Path(record.root)
    if postprocess.task == "detection" and record.annotations is not None:
        return root / record.annotations.path
    masked = record.source == "folder" and (root / "images").is_dir() and (root / "masks").is_dir()
    return root if postprocess.task == "segmentation" and masked else None


def _require_classes(dataset: Dataset, postprocess: Postprocess) -> None:
    """Without names, the data's own order is the network's where they have as many classes."""
    if postprocess.classes is None and len(dataset.classes) != postprocess.num_classes:
        raise BbxError(
            f"The data has {len(dataset.classes)} classes, the background included, and the network "
            f"{postprocess.num_classes}."
        )
