"""Samples in memory and the four roles they play."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["train", "calibration", "select", "test"]
ROLES: tuple[Role, ...] = ("train", "calibration", "select", "test")


@dataclass(frozen=True)
class Samples:
    """Raw samples of one role, before preprocessing.

    Attributes:
        inputs: uint8 or float32 [N, C, H, W] for images.
        labels: int64 [N] class indices, or None when unlabelled.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[np.integer]) -> "Samples":
        """Return the samples at these positions, in this order."""
        return Samples(self.inputs[index], None if self.labels is None else self.labels[index])

    @cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """One 16-byte BLAKE2b hash per sample, of its input alone: equal inputs are the same sample."""
        rows = np.ascontiguousarray(self.inputs)
        return tuple(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over inputs, labels, shapes and dtypes."""
        state = hashlib.sha256(f"{self.inputs.dtype}{self.inputs.shape}{self.labels is None}".encode())
        state.update(np.ascontiguousarray(self.inputs).data)
        if self.labels is not None:
            state.update(np.ascontiguousarray(self.labels).data)
        return state.hexdigest()


@dataclass(frozen=True)
class Data:
    """What a pipeline learns, calibrates, chooses and is judged on.

    Attributes:
        roles: samples by role; no sample is in two roles.
        classes: the names of the classes, in label order.
        dropped_duplicates: samples left out because an equal input was there already.
    """

    roles: Mapping[Role, Samples]
    classes: tuple[str, ...]
    dropped_duplicates: int = 0

    @property
    def train(self) -> Samples:
        """What models are trained on."""
        return self.roles["train"]

    @property
    def calibration(self) -> Samples:
        """What quantization ranges are measured on."""
        return self.roles["calibration"]

    @property
    def select(self) -> Samples:
        """What every choice is made on."""
        return self.roles["select"]

    @property
    def test(self) -> Samples:
        """What the verdict is read on, once per pipeline."""
        return self.roles["test"]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the roles and the class names."""
        parts = [f"{role}:{self.roles[role].digest}" for role in ROLES]
        return hashlib.sha256("\n".join((*parts, *self.classes)).encode()).hexdigest()
