"""One batch, as a task makes it for student and teacher alike."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class View:
    """One of the ways in which training sees every sample of a role; the same for student and teacher.

    Attributes:
        number: draws the augmentation and the mixture, so that a view is the same whenever it is taken.
        mixup: share of the samples that are mixed with another sample of the role, 0 to 1.
    """

    number: int
    mixup: float = 0.0

    def __str__(self) -> str:
        """Its number."""
        return str(self.number)


@dataclass(frozen=True)
class Batch:
    """Preprocessed samples; teacher and student are given the identical tensors.

    Attributes:
        inputs: the model's arguments in call order, each [B, ...].
        labels: of the units: int64 [units], or [units, outputs]; None when the role is unlabelled or samples are mixed.
        index: int64 [B], positions in the role; they find cached teacher outputs.
        view: which view the inputs are, or None for the plain samples.
        mask: bool [B, length], true for tokens that are no padding; None where nothing is padded.
        units: bool [B, length], the tokens that have an output of their own, on the CPU; None when each sample has one.
    """

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None
    index: torch.Tensor
    view: View | None
    mask: torch.Tensor | None = None
    units: torch.Tensor | None = None

    @property
    def num_units(self) -> int:
        """How many rows of output there are."""
        return len(self.index) if self.units is None else int(self.units.sum())


def move(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)  # while the device still computes the step before
    return value.to(device)


def select_units(outputs: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Return the outputs of units, [units, ...]; a device is not waited for, as where it has to count them.

    Args:
        outputs: of all tokens, [B, length, ...].
        units: bool [B, length], on the CPU.
    """
    places = units.flatten().nonzero().flatten()
    return outputs.flatten(0, 1)[move(places, outputs.device)]


def split(batch: Batch, rows: int) -> list[Batch]:
    """Return a batch in parts of so many samples, the last one perhaps of fewer; each as wide as the whole."""
    if rows >= len(batch.index):
        return [batch]
    index = batch.index.split(rows)
    units = [None] * len(index) if batch.units is None else batch.units.split(rows)
    sizes = [len(part) if has is None else int(has.sum()) for part, has in zip(index, units, strict=True)]
    labels = [None] * len(index) if batch.labels is None else batch.labels.split(sizes)
    mask = [None] * len(index) if batch.mask is None else batch.mask.split(rows)
    inputs = zip(*(value.split(rows) for value in batch.inputs), strict=True)
    return [
        Batch(inputs=of, labels=said, index=part, view=batch.view, mask=shown, units=has)
        for of, said, part, shown, has in zip(inputs, labels, index, mask, units, strict=True)
    ]


def unit_rows(units: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return where the units of some samples are, one sample after the other, int64 [units of these samples].

    Args:
        units: how many each sample has, in the order in which they are stored, int64 [N].
        index: positions of the wanted samples in that order, int64 [B].
    """
    ends, wanted = units.cumsum(0), units[index]
    # Counts up within each sample: a running number, less what came before the sample.
    within = torch.arange(int(wanted.sum())) - torch.repeat_interleave(wanted.cumsum(0) - wanted, wanted)
    return torch.repeat_interleave(ends[index] - wanted, wanted) + within
