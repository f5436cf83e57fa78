"""Faster, Mask and Keypoint R-CNN as batched programs of fixed shape (Ren et al., 2015, He et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bbx.models.detection.anchors import feature_maps, fixed_anchors, map_sizes
from bbx.models.detection.boxes import clip, decode, probability, sides_at_least, take
from bbx.models.detection.candidates import NO_LABEL, Candidates, Detections, best, detections
from bbx.models.detection.keypoints import locate
from bbx.models.detection.options import DetectionOptions
from bbx.models.detection.roi_align import Pooling, WeightedCells, pooling_of, roi_align
from bbx.models.detection.suppression import suppress

SMALLEST_SIDE = 1e-2
"""Pixels; a thinner box is no candidate (torchvision's)."""


class _Reading(NamedTuple):
    """Which of the backbone's maps a pooler reads, and how."""

    levels: list[int]
    how: Pooling


class FasterRCNN(nn.Module):
    """The inference path of torchvision's Faster R-CNN, on its own submodules under their own names.

    Each step has as many rows as it can have at most. A row that does not exist is a box of area zero with a
    score of zero, which suppresses nothing and is no candidate.

    Args:
        network: torchvision's `FasterRCNN`, in eval mode. The number of proposals, their thresholds and the
            pooling are read from it; those of the detections come from `how`.
        size: height and width of the images in pixels.

    Raises:
        ModelError: the network pools in a way that has no fixed shape.
    """

    outputs: ClassVar[tuple[str, ...]] = Detections._fields

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.rpn = network.rpn
        self.roi_heads = network.roi_heads
        self.weighted_cells = WeightedCells()
        self._how = how
        self._size = size
        self._map_sizes = map_sizes(self.backbone, size)
        self._box_pool = self._reading(self.roi_heads.box_roi_pool)
        anchors = fixed_anchors(self.backbone, self.rpn.anchor_generator, size)
        self.anchors: Tensor
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float32 [B, 3, H, W], normalised, to the fields of `Detections`."""
        return tuple(self.detect(feature_maps(self.backbone, images)))

    def detect(self, maps: Sequence[Tensor]) -> Detections:
        """Detections from the backbone's maps, finest level first."""
        proposals, exist, settled = self._proposals(maps)
        pooled = self._pool(self._box_pool, maps, proposals)
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        classes = logits.shape[1]
        logits = logits.reshape(-1, proposals.shape[1], classes)
        deltas = deltas.reshape(-1, proposals.shape[1] * classes, 4)
        candidates = self._candidates(proposals, exist, logits, deltas)
        how = self._how
        found, _ = detections(candidates, iou=how.iou_threshold, count=how.detections, lowering=how.lowering)
        return found._replace(saturated=found.saturated | ~settled)

    def _reading(self, pooler: Any) -> _Reading:
        """What a torchvision `MultiScaleRoIAlign` does with this backbone's maps."""
        levels = [number for number, name in enumerate(self._map_sizes) if name in pooler.featmap_names]
        sizes = list(self._map_sizes.values())
        return _Reading(levels, pooling_of(pooler, [sizes[level] for level in levels], self._size))

    def _pool(self, reading: _Reading, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Features of boxes float32 [B, R, 4]: float [B × R, C, size, size]."""
        mine = [maps[level] for level in reading.levels]
        return roi_align(mine, boxes, reading.how, self._how.lowering, self.weighted_cells).flatten(0, 1)

    def _proposals(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of the region proposal network, over all levels.

        Returns:
            float32 [B, R, 4]; bool [B, R], whether the row exists; bool [B], whether suppression was exact.
        """
        logits, deltas = self.rpn.head(list(maps))
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4) for level in deltas]
        anchors = torch.split(self.anchors, [level.shape[1] for level in logits])
        levels = [self._level_boxes(*level) for level in zip(logits, deltas, anchors, strict=True)]
        most = max(scores.shape[1] for _, scores in levels)
        # Levels suppress apart: as rows of one batch, in as many steps as one level takes.
        boxes = torch.stack([functional.pad(b, (0, 0, 0, most - b.shape[1])) for b, _ in levels], dim=1)
        scores = torch.stack([functional.pad(s, (0, most - s.shape[1])) for _, s in levels], dim=1)
        keep, settled = suppress(
            boxes.flatten(0, 1), scores.flatten(0, 1), None, self.rpn.nms_thresh, self._how.lowering
        )
        scores = (scores * keep.reshape(scores.shape)).flatten(1)
        scores, index, _ = best(scores, self.rpn.post_nms_top_n())
        return take(boxes.flatten(1, 2), index), scores > 0, settled.reshape(-1, len(levels)).all(dim=1)

    def _level_boxes(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The best boxes of one level, sorted by falling score, before suppression, and their scores."""
        logits, index = logits.topk(min(self.rpn.pre_nms_top_n(), logits.shape[1]), dim=1)
        anchors = functional.embedding(index, anchors)
        boxes = clip(decode(take(deltas, index), anchors, self.rpn.box_coder.weights), *self._size)
        scores = probability(logits)
        exist = sides_at_least(boxes, self.rpn.min_size) & (scores >= self.rpn.score_thresh)
        return boxes * exist[..., None], scores * exist

    def _candidates(self, proposals: Tensor, exist: Tensor, logits: Tensor, deltas: Tensor) -> Candidates:
        """The best pairs of a proposal and a class. Boxes are decoded for these only.

        Args:
            logits: float [B, R, C], background first.
            deltas: float [B, R × C, 4].
        """
        classes = logits.shape[2]
        scores = logits.float().softmax(dim=-1)[..., 1:] * exist[..., None]
        passed = scores * (scores > self._how.score_threshold)
        scores, index, saturated = best(passed.flatten(1), self._how.candidates)
        rows, labels = index // (classes - 1), index % (classes - 1) + 1
        weights = self.roi_heads.box_coder.weights
        boxes = decode(take(deltas, rows * classes + labels), take(proposals, rows), weights)
        boxes = clip(boxes, *self._size)
        real = sides_at_least(boxes, SMALLEST_SIDE)
        return Candidates(boxes * real[..., None], scores * real, labels, saturated)


class MaskRCNN(FasterRCNN):
    """The inference path of torchvision's Mask R-CNN; see `FasterRCNN`."""

    outputs = (*Detections._fields, "masks")

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__(network, how, size)
        self._mask_pool = self._reading(self.roi_heads.mask_roi_pool)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float32 [B, 3, H, W], normalised, to the fields of `Detections` and masks.

        Returns:
            Also masks, float32 [B, D, 28, 28]: the probability that a part of the box belongs to an object
            of the detection's label; zero in padding.
        """
        maps = feature_maps(self.backbone, images)
        found = self.detect(maps)
        heads = self.roi_heads
        logits = heads.mask_predictor(heads.mask_head(self._pool(self._mask_pool, maps, found.boxes)))
        channel = found.labels.clamp(min=0).flatten()[:, None, None, None]
        masks = logits.gather(1, channel.expand(-1, 1, *logits.shape[2:])).float().sigmoid()
        masks = masks.reshape(-1, found.labels.shape[1], *logits.shape[2:])
        return (*found, masks * (found.labels != NO_LABEL)[..., None, None])


class KeypointRCNN(FasterRCNN):
    """The inference path of torchvision's Keypoint R-CNN; see `FasterRCNN`."""

    outputs = (*Detections._fields, "keypoints", "keypoints_scores")

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__(network, how, size)
        self._keypoint_pool = self._reading(self.roi_heads.keypoint_roi_pool)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float32 [B, 3, H, W], normalised, to the fields of `Detections` and keypoints.

        Returns:
            Also keypoints, float32 [B, D, K, 3] as x, y in pixels of the network's input and 1, and their
            scores, float32 [B, D, K], which are logits; zero in padding.
        """
        maps = feature_maps(self.backbone, images)
        found = self.detect(maps)
        heads = self.roi_heads
        pooled = self._pool(self._keypoint_pool, maps, found.boxes)
        heat = heads.keypoint_predictor(heads.keypoint_head(pooled)).float()
        points, scores = locate(heat, found.boxes.flatten(0, 1), self._size)
        points = functional.pad(points, (0, 1), value=1.0)
        exist = (found.labels != NO_LABEL)[..., None]
        shape = (-1, found.labels.shape[1], heat.shape[1])
        return (*found, points.reshape(*shape, 3) * exist[..., None], scores.reshape(shape) * exist)
