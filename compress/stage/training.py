"""How a stage trains: the fields that every training stage shares, and what it tells of it."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field

from compress.config import Values
from compress.loss import GuidedLoss

# Raised by hand when an update of several batches comes to end otherwise: 2 moves a batch norm by every pass.
ACCUMULATE_VERSION = 2
CACHE_LIMIT_GB = 4.0  # of stored taps that are no vectors, unless a stage says otherwise


class Optimization(Values):
    """How weights are updated: the fields that every training stage shares.

    Attributes:
        epochs: passes over the train role.
        batch_size: samples per forward pass.
        accumulate: forward passes per update; the loss is divided by the units of all of them.
        optimizer: ``sgd`` with Nesterov momentum 0.9, or ``adamw``.
        learning_rate: the peak of the schedule: linear warm-up, then a cosine to zero.
        warmup_fraction: share of the steps spent warming up.
        weight_decay: applied to matrices and kernels, not to biases and norms.
        clip_norm: largest gradient norm; larger ones are scaled down.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 128
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    clip_norm: Annotated[float, Field(gt=0)] = 5.0

    def smoke(self) -> Self:
        """One epoch, in updates that a smoke run has samples for."""
        return self.model_copy(
            update={"epochs": 1, "batch_size": min(self.batch_size, 128), "accumulate": min(self.accumulate, 2)}
        )

    def gentler(self, path: str) -> str:
        """More of it, or more to train."""
        return f"raise {path}.epochs above {self.epochs}, or choose a wider `student`"


def coupling_faults(loss: GuidedLoss, optimization: Optimization) -> list[str]:
    """Return why a loss cannot be minimised this way: a coupled term over parts of a batch is another term."""
    if optimization.accumulate == 1 or not loss.coupled:
        return []
    names = ", ".join(loss.coupled)
    return [f"accumulate above 1 splits the batch, which {names} compares as a whole; raise batch_size instead"]


def size_faults(optimization: Optimization, *, samples: int, processes: int) -> list[str]:
    """Return why a role has no update of this kind, or processes cannot share one.

    Args:
        optimization: says how many samples are in an update, and of how many batches it is the sum.
        samples: of the train role.
        processes: that share each update.
    """
    faults: list[str] = []
    if optimization.accumulate % processes:
        faults.append(
            f"an update of {optimization.accumulate} batch{'es' * (optimization.accumulate > 1)} cannot be shared by "
            f"{processes} processes; expected accumulate: a multiple of {processes}, with a smaller batch_size"
        )
    needed = optimization.batch_size * optimization.accumulate
    if samples < needed:
        faults.append(
            f"the train role is smaller than one update: {samples:,} samples; expected at least {needed:,} "
            "(batch_size x accumulate)"
        )
    return faults


@dataclass(frozen=True)
class Writing:
    """What teachers write before a training, for predictions.

    Attributes:
        rows: texts that are followed at a time for each source.
        texts: that are learnt of each source, at most.
        further: how many sources there are besides those of train, those that a role has among them.
        given: whether the texts of train are learnt besides.
        max_error_rate: what is further from what is right is dropped; None drops nothing for that.
    """

    rows: int
    texts: int
    further: int
    given: bool
    max_error_rate: float | None = None


@dataclass(frozen=True)
class Training:
    """What a stage trains, for plans, predictions and advice.

    Attributes:
        optimization: of each time.
        times: how often; generations, for example.
        within: whether it is a part of the stage that a smoke run leaves out, so that nothing measures its speed.
        cache_limit_gb: the teacher's tapped features are stored while they need no more, in units of 10^9 bytes.
        writing: what the teachers write for it; None when it learns the texts or labels of train.
        live: whether the teachers are run in every step, on views that are taken once, and nothing of them is stored.
    """

    optimization: Optimization
    times: int = 1
    within: bool = False
    cache_limit_gb: float = CACHE_LIMIT_GB
    writing: Writing | None = None
    live: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the train role, all together."""
        return self.times * self.optimization.epochs
