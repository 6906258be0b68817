"""Inverted residuals with squeeze-and-excite (MobileNetV3, Howard et al. 2019, arXiv 1905.02244, figure 4)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from compress.models.spec import Model, image_sizes
from compress.tasks.signature import Signature


class MobileNet(Model):
    """A stem convolution and inverted residual blocks: expand 1x1, depthwise 3x3, squeeze-excite, project 1x1.

    Deviations from the paper: ReLU instead of hard-swish (it costs nothing in int8 kernels), one expansion for all
    blocks, no wide layer before the head.

    Attributes:
        widths: output channels of each block.
        strides: stride of each block's depthwise convolution; as many as ``widths``.
        expansion: width of a block's inside over its input.
        squeeze: the squeeze layer has a quarter of the inside's channels when true, and is left out when false.
    """

    family: Literal["mobilenet"] = "mobilenet"
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (16, 24, 24, 40, 40)
    strides: tuple[Literal[1, 2], ...] = (1, 2, 1, 2, 1)
    expansion: Annotated[int, Field(ge=1, le=16)] = 4
    squeeze: bool = True

    def model_post_init(self, _context: object) -> None:
        """Refuse a stride list that does not pair with the widths."""
        if len(self.widths) != len(self.strides):
            raise ValueError(f"expected one stride per width, got {len(self.strides)} for {len(self.widths)} widths")

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with PyTorch's default initial weights."""
        channels, _, _, classes = image_sizes(signature, family=self.family)
        return InvertedResidualNetwork(
            channels=channels,
            classes=classes,
            widths=self.widths,
            strides=self.strides,
            expansion=self.expansion,
            squeeze=self.squeeze,
        )


class InvertedResidualNetwork(nn.Module):
    """Images [B, C, H, W] float32 to logits [B, classes]."""

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        widths: Sequence[int],
        strides: Sequence[int],
        expansion: int,
        squeeze: bool,
    ) -> None:
        super().__init__()
        self.stem = convolution(channels, widths[0], 3, stride=1)
        layers: list[nn.Module] = []
        inputs = widths[0]
        for width, stride in zip(widths, strides, strict=True):
            layers.append(InvertedResidual(inputs, width, stride=stride, expansion=expansion, squeeze=squeeze))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.head(self.pool(self.layers(self.stem(image))).flatten(1))


class InvertedResidual(nn.Module):
    """One block; the shortcut is there when shape does not change."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int, squeeze: bool) -> None:
        super().__init__()
        inside = inputs * expansion
        self.expand = convolution(inputs, inside, 1, stride=1)
        self.depthwise = convolution(inside, inside, 3, stride=stride, groups=inside)
        self.excite = SqueezeExcite(inside) if squeeze else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(inside, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride]."""
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + y if self.same else y


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = max(8, width // 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, width, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each channel scaled by a gate in [0, 1]."""
        return x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int, groups: int = 1) -> nn.Sequential:
    """Return convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
