"""One batch, as a task makes it for student and teacher alike."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Preprocessed samples; teacher and student are given the identical tensors.

    Attributes:
        inputs: the model's arguments in call order, each [B, ...].
        labels: int64 [B], or None when the role is unlabelled or the samples are mixed.
        index: int64 [B], positions in the role; they find cached teacher outputs.
        view: which fixed augmented view the inputs are, or None for the plain one.
    """

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None
    index: torch.Tensor
    view: int | None
