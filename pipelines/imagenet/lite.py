"""EfficientNet-lite0 (Tan & Le 2019, without squeeze-excite), as the package efficientnet-lite-pytorch builds it."""

from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def lite0() -> nn.Module:
    """Return the network for the 1,000 classes of ImageNet, untrained."""
    return EfficientNet.from_name("efficientnet-lite0")
