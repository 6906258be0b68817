"""What a model takes and gives: the part of a task that export, parity and the bundle need."""

from pydantic import BaseModel, ConfigDict, Field


class Tensor(BaseModel):
    """One named input or output.

    Attributes:
        name: the ONNX name.
        dtype: NumPy dtype name, such as ``float32``.
        shape: one entry per axis: a positive size, or the name of a dynamic axis (``batch`` comes first).
        symbols: how many different ids it may hold, 0 to ``symbols - 1``; None where that is not known or there are no
            ids. Written only where it is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    symbols: int | None = Field(default=None, exclude_if=lambda symbols: symbols is None)


class Signature(BaseModel):
    """Inputs and outputs of a model, in call order.

    Attributes:
        inputs: its arguments.
        outputs: what it gives.
        classes: names along the last axis of the first output, in order; empty when they are not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    classes: tuple[str, ...] = ()
