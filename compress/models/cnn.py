"""A plain convolutional network: the smallest useful student, with the fewest operations per pixel of depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from compress.models.spec import Model, image_sizes
from compress.tasks.signature import Signature


class Cnn(Model):
    """Convolution, BatchNorm, ReLU, once per entry of ``widths``; then the mean over pixels and a linear head.

    Attributes:
        widths: output channels of each convolution.
        strides: stride of each convolution; as many as ``widths``.
        kernel: side of each square kernel, odd.
    """

    family: Literal["cnn"] = "cnn"
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (16, 32, 64)
    strides: tuple[Literal[1, 2, 4], ...] = (1, 2, 2)
    kernel: Literal[1, 3, 5, 7] = 3

    def model_post_init(self, _context: object) -> None:
        """Refuse a stride list that does not pair with the widths."""
        if len(self.widths) != len(self.strides):
            raise ValueError(f"expected one stride per width, got {len(self.strides)} for {len(self.widths)} widths")

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with PyTorch's default initial weights."""
        channels, _, _, classes = image_sizes(signature, family=self.family)
        return PlainNetwork(
            channels=channels, classes=classes, widths=self.widths, strides=self.strides, kernel=self.kernel
        )


class PlainNetwork(nn.Module):
    """Images [B, C, H, W] float32 to logits [B, classes]."""

    def __init__(
        self, *, channels: int, classes: int, widths: Sequence[int], strides: Sequence[int], kernel: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.head(self.pool(self.layers(image)).flatten(1))
