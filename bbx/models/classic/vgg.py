"""VGG in its form for 32 × 32 images.

Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015. The paper
has the ImageNet form, which the presets `vgg11` to `vgg19_bn` are.
"""

from __future__ import annotations

from torch import Tensor, nn

from bbx.models.classic.layers import draw_for_relu
from bbx.models.zoo_entries import VGG_STAGES

WIDTHS = (64, 128, 256, 512, 512)
"""Maps of each stage, which a max-pooling ends (table 1)."""


class CifarVgg(nn.Module):
    """The paper's convolutions under a head of 512-512-10; float [batch, 3, 32, 32] to [batch, 10].

    A 32 × 32 image leaves the fifth pooling as one position of 512 channels, so the head is narrow, and the
    network has a tenth of the ImageNet form's weights. Keys are those of the checkpoints in common use:
    `features.N` as torchvision's, and the linear layers at `classifier.1`, `.4` and `.6`.

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: after each convolution (Ioffe and Szegedy, 2015).
    """

    def __init__(self, depth: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.features = _features(VGG_STAGES[depth], batch_norm=batch_norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, 10),
        )
        draw_for_relu(self)

    def forward(self, images: Tensor) -> Tensor:
        """float [batch, 3, height, width], from 32 pixels a side on, to logits [batch, 10]."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _features(plan: tuple[int, ...], *, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width, convolutions in zip(WIDTHS, plan, strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
