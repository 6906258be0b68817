"""Logits stored in less: in half precision up to 256 classes, above that of the most likely ones and what is left over.

TinyViT (Wu et al. 2022, arXiv 2207.10666) keeps the probabilities of the ten or a hundred most likely classes and
spreads the rest evenly. Here the number is measured, and what it costs is told.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.loss.guided import Reading

WHOLE = 256  # classes up to which all are kept
RETAINED = 0.99  # of the probability that the kept ones hold on average, at least
FEWEST = 8
PROBED = 512  # samples that it is measured on
VERSION = 2  # raised by hand when the same files come to mean other logits
FILES = ("kept", "classes", "offsets")
LARGEST = float(torch.finfo(torch.float16).max)  # 65,504; beyond it, as a mask of -1e9 is, half precision has infinity


@dataclass(frozen=True)
class Fidelity:
    """How much of the teachers' outputs is kept, on samples that it was measured on.

    Attributes:
        kept: classes of which logits are stored.
        classes: all of them.
        mass: probability that the kept ones hold, on average.
        nats: divergence of what is read back from the whole, KL(whole || read back), on average; None where outputs are
            no probabilities of classes.
        most_nats: the largest one of a unit; None likewise.
        reading: that all of these are of: the one that loses most.
    """

    kept: int
    classes: int
    mass: float
    nats: float | None = None
    most_nats: float | None = None
    reading: Reading = field(default_factory=Reading)

    def __str__(self) -> str:
        """In one line."""
        if self.nats is None or self.most_nats is None:
            return "half precision"
        cost = f"{self.nats:.2g} nats from the whole on average, {self.most_nats:.2g} at most, at {self.reading}"
        if self.kept == self.classes:
            return f"half precision, {cost}"
        return f"{self.kept} of {self.classes:,} classes hold {self.mass:.2%}; {cost}"


def measure(logits: Tensor, *, readings: Sequence[Reading], probabilities: bool = True) -> Fidelity:
    """Return how many classes are to be kept: the fewest, of powers of two, that hold `RETAINED` on average.

    Args:
        logits: of some units, float32 [units, C].
        readings: how the loss reads them; the higher the temperature, the more classes hold as much, and standardised
            logits lie near each other. As many are kept as the one that needs most asks for.
        probabilities: whether outputs are logits of one distribution; of others all are kept, whatever their number.
    """
    classes = logits.shape[1]
    if not probabilities:
        return Fidelity(classes, classes, 1.0)
    held = [_hold(logits, reading) for reading in readings]
    kept = max(_choose(mass) for mass in held) if classes > WHOLE else classes
    back = unpack(*pack(logits, kept=kept), classes=classes)
    found: list[tuple[float, Fidelity]] = []
    for mass, reading in zip(held, readings, strict=True):
        whole = reading.log_probabilities(logits)
        nats = (whole.exp() * (whole - reading.log_probabilities(back))).sum(1)
        mean, most = float(nats.mean()), float(nats.max())
        found.append((mean, Fidelity(kept, classes, float(mass[kept - 1]), mean, most, reading)))
    return max(found, key=lambda pair: pair[0])[1]


def _hold(logits: Tensor, reading: Reading) -> Tensor:
    """Return the probability that the likeliest classes hold on average, by their number, float64 [C]."""
    return reading.log_probabilities(logits).exp().sort(1, descending=True).values.cumsum(1).mean(0)


def _choose(held: Tensor) -> int:
    classes = len(held)
    powers = [2**power for power in range(FEWEST.bit_length() - 1, classes.bit_length()) if 2**power < classes]
    return next((count for count in powers if float(held[count - 1]) >= RETAINED), classes)


def pack(logits: Tensor, *, kept: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return what is stored of logits.

    Args:
        logits: float32 [units, C].
        kept: how many are kept of each unit; C keeps all.

    Returns:
        Kept logits less their unit's offset, float16 [units, kept]; which classes they are of, [units, kept], or none
        where all are kept; offset, and logit of each other class less the offset, float32 [units, 2].
    """
    units, classes = logits.shape
    if kept == classes:
        return _halve(logits).numpy(), np.zeros((units, 0), np.uint16), np.zeros((units, 2), np.float32)
    offset = logits.logsumexp(1, keepdim=True)
    top = (logits - offset).topk(kept, dim=1)
    # Of the others alone: 1 less the kept is noise where these hold nearly all, which a high temperature would show.
    others = logits.double().scatter(1, top.indices, -math.inf).logsumexp(1, keepdim=True)
    left = others - offset - math.log(classes - kept)
    numbers = np.uint16 if classes <= np.iinfo(np.uint16).max + 1 else np.int32
    offsets = torch.cat([offset, left.float()], 1)
    return _halve(top.values).numpy(), top.indices.numpy().astype(numbers), offsets.numpy()


def _halve(values: Tensor) -> Tensor:
    """Return them in half precision; the largest finite ones stand for larger ones."""
    return values.clamp(-LARGEST, LARGEST).half()


def unpack(kept: NDArray[Any], classes_of: NDArray[Any], offsets: NDArray[Any], *, classes: int) -> Tensor:
    """Return logits, float32 [units, C]: the kept ones, and of each unit's others the mean of what they share."""
    values = torch.from_numpy(kept.astype(np.float32))
    if kept.shape[1] == classes:
        return values
    offset, left = torch.from_numpy(np.array(offsets)).split(1, dim=1)
    found = (offset + left).expand(len(values), classes).clone()
    return found.scatter_(1, torch.from_numpy(classes_of.astype(np.int64)), values + offset)


@dataclass(frozen=True)
class Packed:
    """Packed logits of a role's units, memory-mapped.

    Attributes:
        shards: what `pack` gave for each, in their order.
        classes: C.
        gather: returns some rows of arrays that follow each other.
    """

    shards: Sequence[tuple[NDArray[Any], ...]]
    classes: int
    gather: Callable[[Sequence[NDArray[Any]], NDArray[np.int64]], NDArray[Any]]

    @classmethod
    def load(cls, paths: Sequence[Path], gather: Callable[..., NDArray[Any]], *, classes: int) -> "Packed":
        """Open what `save` wrote into these directories."""
        opened = [tuple(np.load(path / f"{name}.npy", mmap_mode="r") for name in FILES) for path in paths]
        return cls(opened, classes, gather)

    def _rows(self, rows: Tensor) -> list[NDArray[Any]]:
        return [self.gather([shard[place] for shard in self.shards], rows.numpy()) for place in range(len(FILES))]

    def of(self, rows: Tensor) -> Tensor:
        """Return the logits of some units, float32 [units, C]."""
        kept, classes_of, offsets = self._rows(rows)
        return unpack(kept, classes_of, offsets, classes=self.classes)

    def compare(self, now: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return of other logits of some units those that are kept, and the kept ones, float32 [units, kept] each.

        Both are as they are stored: less the offset, and none beyond `LARGEST`.
        """
        kept, classes_of, offsets = self._rows(rows)
        if kept.shape[1] < self.classes:
            now = now.gather(1, torch.from_numpy(classes_of.astype(np.int64))) - torch.from_numpy(offsets[:, :1])
        return now.clamp(-LARGEST, LARGEST), torch.from_numpy(kept.astype(np.float32))


def save(directory: Path, logits: Tensor, *, kept: int) -> None:
    """Write packed logits."""
    for name, values in zip(FILES, pack(logits, kept=kept), strict=True):
        np.save(directory / f"{name}.npy", values)
