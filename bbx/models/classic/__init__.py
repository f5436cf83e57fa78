"""The classic networks, as their papers describe them, at the size and with the classes of the papers.

A classifier whose source is `bbx:NAME` is made by the class of that name here, from the preset's options.
"""

from bbx.models.classic.alexnet import AlexNet
from bbx.models.classic.inception_resnet_v2 import InceptionResNetV2
from bbx.models.classic.inception_v1 import InceptionV1
from bbx.models.classic.inception_v2 import InceptionV2
from bbx.models.classic.inception_v3 import InceptionV3
from bbx.models.classic.resnet import ResNet
from bbx.models.classic.vgg import CifarVgg

__all__ = [
    "AlexNet",
    "CifarVgg",
    "InceptionResNetV2",
    "InceptionV1",
    "InceptionV2",
    "InceptionV3",
    "ResNet",
]
