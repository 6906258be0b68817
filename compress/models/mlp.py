"""A multilayer perceptron over flattened pixels (the networks of Hinton et al. 2015, section 3), or over columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from compress.models.spec import Model, flat_sizes
from compress.tasks.signature import Signature


class Mlp(Model):
    """Linear, ReLU and dropout, once per entry of ``widths``, then a linear head.

    Attributes:
        widths: units of each hidden layer.
        dropout: probability of zeroing a hidden unit in training, in [0, 1).
    """

    family: Literal["mlp"] = "mlp"
    widths: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (128, 128)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with PyTorch's default initial weights."""
        inputs, classes = flat_sizes(signature, family=self.family)
        return Perceptron(inputs=inputs, classes=classes, widths=self.widths, dropout=self.dropout)


class Perceptron(nn.Module):
    """Images [B, C, H, W], or any other float32 [B, ...], to logits [B, classes]."""

    def __init__(self, *, inputs: int, classes: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.head(self.layers(image.flatten(1)))
