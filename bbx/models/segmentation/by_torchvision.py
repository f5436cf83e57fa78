"""torchvision's segmenters with one tensor out; the keys of their checkpoints stay what they are."""

from __future__ import annotations

from torch import Tensor, nn

from bbx.models.segmentation.base import Segmenter


class TorchvisionSegmenter(Segmenter):
    """FCN (Long et al., 2015) and DeepLabV3 (Chen et al., 2017): a classifier on a dilated backbone.

    Args:
        network: torchvision's model; its `backbone` and `classifier` become this module's.
        architecture: torchvision's name for it.
    """

    class_layer = "classifier.4"
    unused_keys: tuple[str, ...] = ("aux_classifier.",)
    """Prefixes of keys that published checkpoints hold for training, and that have no use here."""

    def __init__(
        self,
        network: nn.Module,
        architecture: str,
        *,
        size: tuple[int, int],
        num_classes: int,
        argmax: bool,
    ) -> None:
        super().__init__(size, num_classes=num_classes, argmax=argmax)
        self.architecture = architecture
        self.backbone = network.get_submodule("backbone")
        self.classifier = network.get_submodule("classifier")

    def coarse_logits(self, images: Tensor) -> Tensor:
        """See `Segmenter.coarse_logits`."""
        logits: Tensor = self.classifier(self.backbone(images)["out"])
        return logits


class LiteRASPP(TorchvisionSegmenter):
    """LR-ASPP (Howard et al., 2019, section 6.4), whose classifier looks at two maps."""

    class_layer = "classifier.low_classifier"
    unused_keys = ()

    def coarse_logits(self, images: Tensor) -> Tensor:
        """See `Segmenter.coarse_logits`."""
        logits: Tensor = self.classifier(self.backbone(images))
        return logits
