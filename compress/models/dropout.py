"""Dropout that draws a byte for each number, which on a CPU is much quicker than to draw a float."""

import torch
from torch import Tensor, nn

LEVELS = 256  # of a byte


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, of a probability that is rounded to a multiple of 1 / `LEVELS`, below 1.

    Torch draws a float for each number, on a CPU one after the other, which a training step of a small
    transformer feels. Numbers that are kept are scaled so that the mean stays, by the rounded probability.

    Only transducers have it: who changes what is drawn raises `compress.tasks.transduction.VERSION`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # the name that torch gave it
        """Return the numbers, of any shape; in evaluation mode as they are."""
        zeroed = min(round(self.p * LEVELS), LEVELS - 1)
        if not self.training or not zeroed:
            return input
        count = input.numel()
        # Eight bytes at a time: the generator gives 64 bits as quickly as 8.
        drawn = torch.empty(-(-count // 8), dtype=torch.int64, device=input.device).random_(-(2**63), None)
        kept = drawn.view(torch.uint8)[:count].view(input.shape) >= zeroed
        return input * kept.to(input.dtype).mul_(LEVELS / (LEVELS - zeroed))
