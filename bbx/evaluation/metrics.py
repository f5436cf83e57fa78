"""The metrics of each task, as tallies that images are added to.

tally = tally_of("classification", num_classes=10)
tally.update(results, targets)          # bbx.outputs.Classified, and the classes' numbers
tally.result()                          # {"top1": 0.93, "top5": 0.99, "ece": 0.02}
"""

from __future__ import annotations

from typing import Any

from bbx.evaluation.classification import ClassificationTally
from bbx.evaluation.detection import DetectionTally, mean_ap
from bbx.evaluation.segmentation import SegmentationTally, mean_iou
from bbx.evaluation.tally import Flips, Scores, Tally
from bbx.types import Task

__all__ = ["PRIMARY", "Flips", "Scores", "Tally", "mean_ap", "mean_iou", "tally_of"]

_TALLIES: dict[Task, type[ClassificationTally | DetectionTally | SegmentationTally]] = {
    "classification": ClassificationTally,
    "detection": DetectionTally,
    "segmentation": SegmentationTally,
}

PRIMARY: dict[Task, str] = {task: each.primary for task, each in _TALLIES.items()}
"""The metric that stands for a task."""


def tally_of(task: Task, num_classes: int) -> Tally[Any]:
    """An empty tally.

    Args:
        num_classes: of the network; for detection and segmentation with the background.
    """
    return _TALLIES[task](num_classes)
