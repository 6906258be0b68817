"""Samples, in memory or on disk, and the four roles they play."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.data.stored import Stored

Role = Literal["train", "calibration", "select", "test"]
ROLES: tuple[Role, ...] = ("train", "calibration", "select", "test")
IGNORED = -100  # the tag of a step that has none; torch's cross-entropy ignores it


@dataclass(frozen=True)
class Samples:
    """Raw samples of one role, before preprocessing.

    Attributes:
        inputs: uint8 or float32 [N, C, H, W] for images; float32 [N, F] for tables, [N, C, L] or [N, T, F] for signals
            and sequences, [N, ...] for a task of the user's own; objects [N] for text, each a string, or a tuple of
            strings for two texts or the words of a sentence. Or [N] with named fields, `compress.data.named`: several
            arrays, or the columns of a table. Images may also stay on disk, `compress.data.stored`: what takes rows of
            an array takes theirs.
        labels: what is right, or None when unlabelled: int64 [N] class numbers; uint8 [N, C] yes or no for each of
            several labels; float32 [N, C] targets of a regression; or objects [N], each the int64 tags of its words or
            of its steps, `IGNORED` where one has none, or a tuple of the texts that are right to write.
    """

    inputs: NDArray[Any] | Stored
    labels: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[np.integer]) -> "Samples":
        """Return the samples at these positions, in this order."""
        inputs = self.inputs.take(index) if isinstance(self.inputs, Stored) else self.inputs[index]
        return Samples(inputs, None if self.labels is None else self.labels[index])

    @property
    def array(self) -> NDArray[Any]:
        """The inputs where they are in memory, as all are but images."""
        assert isinstance(self.inputs, np.ndarray)
        return self.inputs

    def parts(self) -> Iterator[NDArray[Any]]:
        """Yield the inputs as arrays in memory: all at once, or of those on disk some at a time."""
        if isinstance(self.inputs, Stored):
            yield from self.inputs.parts()
        else:
            yield self.inputs

    @property
    def on_disk(self) -> bool:
        """Whether inputs are read when they are asked for, so that it pays to ask ahead."""
        return isinstance(self.inputs, Stored)

    @property
    def written(self) -> bool:
        """Whether what is right are texts to write."""
        return self.labels is not None and self.labels.dtype == object and isinstance(self.labels[0], tuple)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """The class of each sample, int64 [N], which roles are drawn by; all 0 where there are no single classes."""
        single = self.labels is not None and self.labels.dtype == np.int64
        return self.labels if single and self.labels is not None else np.zeros(len(self), np.int64)

    @cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """16 bytes per sample, a hash of its input alone: equal inputs are the same sample."""
        if isinstance(self.inputs, Stored):
            return tuple(self.inputs.hashes())
        return tuple(hashlib.blake2b(row, digest_size=16).digest() for row in _rows(self.inputs))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over inputs, labels, shapes and dtypes."""
        state = hashlib.sha256(f"{self.inputs.dtype}{self.inputs.shape}{self.labels is None}".encode())
        for values in (self.inputs, self.labels):
            if isinstance(values, Stored):
                values.digest(state)
            elif values is not None and values.dtype == object:
                for row in _rows(values):
                    state.update(len(row).to_bytes(8) + row)
            elif values is not None:
                state.update(np.ascontiguousarray(values).data)
        return state.hexdigest()


def _rows(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield the content of each entry of an array, injectively: no two entries of one array share their bytes."""
    if values.dtype != object:
        yield from (row.tobytes() for row in np.ascontiguousarray(values))
    for value in values if values.dtype == object else ():
        if isinstance(value, np.ndarray):
            yield value.tobytes()
        else:
            yield json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Data:
    """What a pipeline learns, calibrates, chooses and is judged on.

    Attributes:
        roles: samples by role; no sample is in two roles.
        classes: the names of the outputs, in order: classes, labels, tags, or targets of a regression.
        dropped_duplicates: samples left out because an equal input was there already.
        notes: what a user should know of how the samples were read and chosen, a sentence each.
        layouts: order of the axes of the inputs that are no images, by name; "" names that of a single array.
        continues: whether texts that are right to write continue those that are read, as completions do prompts.
    """

    roles: Mapping[Role, Samples]
    classes: tuple[str, ...]
    dropped_duplicates: int = 0
    notes: tuple[str, ...] = ()
    layouts: Mapping[str, str] = field(default_factory=dict[str, str])
    continues: bool = False

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
