"""AlexNet as published.

Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks. NIPS 2012.
"""

from __future__ import annotations

from torch import Tensor, nn

from bbx.models.classic.layers import LocalResponseNorm, conv_relu

_TWO_COLUMNS = 2
"""The paper's two GPUs: a convolution in two groups sees only the maps of its own GPU (figure 2)."""


class AlexNet(nn.Module):
    """Five convolutions and three fully connected layers; float [batch, 3, 227, 227] to [batch, 1000].

    As published: 96-256-384-384-256 maps; conv2, conv4 and conv5 in two groups; ReLU, then local response
    normalisation after conv1 and conv2, with the paper's constants; overlapping 3/2 max-pooling;
    dropout of one half before the first two fully connected layers; the initial weights (section 5).

    Not as published: the input is 227 pixels a side, which the paper's own figures need where its text says
    224; the normalisation runs over all maps of a layer, as its formula does, where the code of the time ran
    over each GPU's; activations are divided by 1 - p in training instead of halved afterwards (the same in
    expectation); and the maps before the first fully connected layer are pooled to 6 × 6, which at 227 pixels
    they are, so that other sizes work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_relu(3, 96, 11, stride=4)
        self.norm1 = LocalResponseNorm()
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.conv2 = conv_relu(96, 256, 5, padding=2, groups=_TWO_COLUMNS)
        self.norm2 = LocalResponseNorm()
        self.pool2 = nn.MaxPool2d(3, stride=2)
        self.conv3 = conv_relu(256, 384, 3, padding=1)
        self.conv4 = conv_relu(384, 384, 3, padding=1, groups=_TWO_COLUMNS)
        self.conv5 = conv_relu(384, 256, 3, padding=1, groups=_TWO_COLUMNS)
        self.pool5 = nn.MaxPool2d(3, stride=2)
        self.to_6x6 = nn.AdaptiveAvgPool2d(6)
        self.dropout6 = nn.Dropout(0.5)
        self.fc6 = nn.Sequential(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True))
        self.dropout7 = nn.Dropout(0.5)
        self.fc7 = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(inplace=True))
        self.fc8 = nn.Linear(4096, 1000)
        self._draw()

    def _draw(self) -> None:
        """Weights from N(0, 0.01²); biases 1 where the paper gives the ReLUs positive input, 0 elsewhere."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.get_parameter("bias"), 0)
        for block in (self.conv2, self.conv4, self.conv5, self.fc6, self.fc7):
            nn.init.constant_(block.get_parameter("0.bias"), 1)

    def forward(self, images: Tensor) -> Tensor:
        """float [batch, 3, height, width] to logits [batch, 1000]."""
        maps = self.pool1(self.norm1(self.conv1(images)))
        maps = self.pool2(self.norm2(self.conv2(maps)))
        maps = self.pool5(self.conv5(self.conv4(self.conv3(maps))))
        hidden = self.fc6(self.dropout6(self.to_6x6(maps).flatten(1)))
        logits: Tensor = self.fc8(self.fc7(self.dropout7(hidden)))
        return logits
