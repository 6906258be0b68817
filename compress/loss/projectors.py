"""Trained maps from the student's features to the teacher's width; they belong to a loss and are never exported."""

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Channelwise(nn.Module):
    """Applies a linear layer to the channels of a feature of any of the three shapes."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, feature: Tensor) -> Tensor:
        """Return the feature with its channels mapped."""
        if feature.dim() == 4:
            return self.linear(feature.movedim(1, -1)).movedim(-1, 1)
        return self.linear(feature)


class Orthogonal(nn.Module):
    """A linear map with orthonormal columns, or rows where it is narrower than what it maps.

    A basis of the larger side, turned by Cayley's transform (I - A/2)^-1 (I + A/2) of a trained skew-symmetric A, 0 at
    first, and cut to the smaller side. `torch.nn.utils.parametrizations.orthogonal` trains the same maps and solves for
    the larger side in every step. A = [[S, -R'], [R, 0]] needs the smaller one only: by the Schur complement the kept
    columns are [2X - I, RX] with X = (I - S/2 + R'R/4)^-1, which exists: the symmetric part is at least I.

    Args:
        width: of what it maps.
        mapped_width: of what comes out; where they are equal it starts as the identity, else as a random basis.
    """

    base: Tensor
    """Float32 [larger, larger]."""

    def __init__(self, width: int, mapped_width: int) -> None:
        super().__init__()
        self.narrows = mapped_width < width
        larger, smaller = max(width, mapped_width), min(width, mapped_width)
        same = width == mapped_width
        self.register_buffer("base", torch.eye(larger) if same else nn.init.orthogonal_(torch.empty(larger, larger)))
        self.turn = nn.Parameter(torch.zeros(larger, smaller))

    def forward(self, feature: Tensor) -> Tensor:
        """Return the feature with its last dimension mapped, [..., mapped_width]."""
        lower = self.turn.tril(-1)
        square, rest = lower[: lower.shape[1]], lower[lower.shape[1] :]
        identity = torch.eye(lower.shape[1], dtype=lower.dtype, device=lower.device)
        inverse = torch.linalg.inv(identity - (square - square.T) / 2 + rest.T @ rest / 4)
        turned = torch.cat([2 * inverse - identity, rest @ inverse])
        weight = self.base @ turned
        return feature @ weight if self.narrows else feature @ weight.T


def linear_map(student: Shape, teacher: Shape) -> nn.Module:
    """Return a fresh 1x1 convolution for maps, or a linear layer, from the student's width to the teacher's."""
    width_s, width_t = channels(student), channels(teacher)
    if len(student) == 4:
        return nn.Conv2d(width_s, width_t, 1, bias=False)
    return nn.Linear(width_s, width_t, bias=False)


def channels(shape: Shape) -> int:
    """Return the number of channels of a feature shape, batch first."""
    return shape[1] if len(shape) == 4 else shape[-1]
