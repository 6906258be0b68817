"""Residual networks for small images (He et al. 2016, arXiv 1512.03385, section 4.2), with free widths and strides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from compress.models.spec import Model, image_sizes
from compress.tasks.signature import Signature

Size = Annotated[int, Field(ge=1, le=4096)]


class ResNet(Model):
    """A stem convolution, then one group of basic blocks per entry of ``blocks``; width doubles from group to group.

    Deviations from the paper: the shortcut that changes shape is a strided 1x1 convolution with BatchNorm (option B),
    and the stem may have a stride, which for small deployed students buys more latency than any other choice.

    Attributes:
        width: channels of the first group.
        blocks: basic blocks (two 3x3 convolutions) per group; every group after the first starts with stride 2.
        stem_stride: stride of the first convolution.
    """

    family: Literal["resnet"] = "resnet"
    width: Size = 16
    blocks: tuple[Size, ...] = (1, 1, 1)
    stem_stride: Literal[1, 2, 4] = 1

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with PyTorch's default (Kaiming uniform) initial weights."""
        channels, _, _, classes = image_sizes(signature, family=self.family)
        return ResidualNetwork(
            channels=channels, classes=classes, width=self.width, blocks=self.blocks, stem_stride=self.stem_stride
        )


class ResidualNetwork(nn.Module):
    """Images [B, C, H, W] float32 to logits [B, classes]."""

    def __init__(self, *, channels: int, classes: int, width: int, blocks: Sequence[int], stem_stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        layers: list[nn.Module] = []
        inputs = width
        for group, count in enumerate(blocks):
            outputs = width * 2**group
            for index in range(count):
                stride = 2 if group > 0 and index == 0 else 1
                layers.append(BasicBlock(inputs, outputs, stride=stride))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.head(self.pool(self.layers(self.stem(image))).flatten(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (figure 2 of the paper)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride]."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))
