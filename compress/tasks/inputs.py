"""What makes one input of a model of raw arrays: numbers standardised per column or channel, ids as they are."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from compress.config import Values
from compress.data.samples import Samples
from compress.errors import DataError
from compress.tasks.image_classification import Normalize, scale_of
from compress.tasks.signature import Tensor

CHANNEL_AXES = {"NF": 1, "NCL": 1, "NTF": 2, "NCHW": 1}  # which axis has statistics of its own
UNNAMED = {"NF": "numbers", "NCL": "signal", "NTF": "sequence", "NCHW": "pixel_values"}
PARTS = {"NF": "column", "NCL": "channel", "NTF": "feature", "NCHW": "channel"}
DIGITS = 6  # of a mean, in units of its deviation's first one
SHOWN = 4  # means in a formula


class ArrayInput(Values):
    """An array of numbers, ``(x * scale - mean) / std`` along one axis.

    Attributes:
        kind: tells it from the others.
        name: of the input.
        field: of the samples; None where they are this array alone.
        layout: order of its axes, ``NF``, ``NCL``, ``NTF`` or ``NCHW``.
        shape: of one sample.
        scale: what raw numbers are multiplied by: 1/255 for uint8 images, else 1.
        mean: by column, channel or feature.
        std: likewise.
        lengths: the field that says how many steps of a sequence are no padding; the others become 0.
    """

    kind: Literal["array"] = "array"
    name: str
    field: str | None
    layout: str
    shape: tuple[int, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lengths: str | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the model gets."""
        return (Tensor(name=self.name, dtype="float32", shape=("batch", *self.shape)),)

    def read(self, rows: NDArray[Any]) -> tuple[torch.Tensor, ...]:
        """Return the input of raw samples."""
        values = torch.from_numpy(np.ascontiguousarray(rows) if self.field is None else rows[self.field].copy())
        axes = [1] * (values.dim() - 1)
        axes[CHANNEL_AXES[self.layout] - 1] = -1
        mean, std = (torch.tensor(side).view(axes) for side in (self.mean, self.std))
        found = values.to(torch.float32).mul(self.scale).sub_(mean).div_(std)
        if self.lengths is not None:
            found *= torch.from_numpy(valid_steps(rows[self.lengths], self.shape[0]))[:, :, None]
        return (found,)

    def noise(self, rows: int, generator: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Return made-up inputs."""
        return (generator.standard_normal((rows, *self.shape)).astype(np.float32),)

    @property
    def formula(self) -> str:
        """What the model gets of a raw x."""
        scaled = "x / 255" if self.scale != 1 else "x"
        if not any(self.mean) and set(self.std) == {1.0}:
            return f"{self.name}: {scaled}"
        if len(self.mean) > SHOWN:
            return f"{self.name}: ({scaled} - mean) / std of each {PARTS[self.layout]}"
        mean, std = (f"{side[0]:g}" if len(side) == 1 else str([*side]) for side in (self.mean, self.std))
        return f"{self.name}: ({scaled} - {mean}) / {std}"


class IdInput(Values):
    """Whole numbers that a model looks up or counts with, int64 as they are.

    Attributes:
        kind: tells it from the others.
        name: of the input, and of the field of the samples.
        shape: of one sample.
        low: the smallest number that occurs.
        high: the largest one.
    """

    kind: Literal["ids"] = "ids"
    name: str
    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the model gets."""
        return (Tensor(name=self.name, dtype="int64", shape=("batch", *self.shape)),)

    def read(self, rows: NDArray[Any]) -> tuple[torch.Tensor, ...]:
        """Return the input of raw samples."""
        return (torch.from_numpy(rows[self.name].copy()),)

    def noise(self, rows: int, generator: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Return made-up inputs; the first sample has the largest numbers."""
        found = generator.integers(self.low, self.high, size=(rows, *self.shape), endpoint=True)
        found[0] = self.high
        return (found,)

    @property
    def formula(self) -> str:
        """What the model gets of a raw x."""
        return f"{self.name}: whole numbers from {self.low} to {self.high}"


def array_input(
    train: NDArray[Any], *, field: str | None, layout: str, normalize: Normalize | None, lengths: str | None
) -> ArrayInput:
    """Return how an array is standardised.

    Args:
        train: the train role's samples.
        field: of the array; None where the samples are it.
        layout: order of its axes.
        normalize: None takes the mean and standard deviation of each column, channel or feature, padding left out.
        lengths: the field of a sequence's lengths.

    Raises:
        DataError: when ``normalize`` is for another number of columns or channels.
    """
    values = train if field is None else train[field]
    size, name = values.shape[CHANNEL_AXES[layout]], field or UNNAMED[layout]
    scale = scale_of(values) if layout == "NCHW" else 1.0
    if normalize is None:
        valid = None if lengths is None else valid_steps(train[lengths], values.shape[1])
        mean, std = statistics(np.moveaxis(values, CHANNEL_AXES[layout], -1) if valid is None else values[valid], scale)
    else:
        fitted = refuse_misfit(normalize, size, name=name, part=PARTS[layout])
        mean, std = fitted.mean, fitted.std
    shape = tuple(map(int, values.shape[1:]))
    return ArrayInput(
        name=name, field=field, layout=layout, shape=shape, scale=scale, mean=mean, std=std, lengths=lengths
    )


def refuse_misfit(normalize: Normalize, size: int, *, name: str, part: str) -> Normalize:
    """Return a normalisation for as many columns or channels as there are.

    Raises:
        DataError: when it is for another number.
    """
    fitted = normalize.over(size)
    if fitted is None:
        raise DataError(
            f"data.normalize is for another number of {part}s",
            expected=f"{size} means and deviations, one for each {part} of {name}",
            got=len(normalize.mean),
            where="data.normalize",
        )
    return fitted


def statistics(values: NDArray[Any], scale: float = 1.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation along the last axis, of numbers times ``scale``; a constant has deviation 1.

    Both are rounded to a millionth of the deviation, so that the last bits of a sum decide nothing.
    """
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64) * scale
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    # A column of one large number has a deviation of rounding errors alone.
    constant = std <= 1e-12 * np.maximum(np.abs(mean), 1e-300)
    found = [
        (float(m), 1.0) if same else (_round(m, s), _round(s, s))
        for m, s, same in zip(mean, std, constant, strict=True)
    ]
    return tuple(m for m, _ in found), tuple(s for _, s in found)


def _round(value: float, unit: float) -> float:
    return round(float(value), DIGITS - int(np.floor(np.log10(abs(unit)))))


def valid_steps(lengths: NDArray[np.int64], steps: int) -> NDArray[np.bool_]:
    """Return which steps are no padding, bool [N, steps]."""
    return np.arange(steps) < lengths[:, None]


def check_lengths(roles: Sequence[tuple[str, Samples]], *, field: str, steps: int) -> None:
    """Refuse lengths that no sequence has.

    Raises:
        DataError: naming the role and the sample.
    """
    for role, samples in roles:
        lengths = samples.inputs[field]
        outside = (lengths < 1) | (lengths > steps)
        if outside.any():
            raise DataError(
                "a sequence has a length that it cannot have",
                expected=f"1 to {steps}",
                got=int(lengths[outside][0]),
                where=f"{role}, {field}, sample {int(outside.argmax())}",
            )
