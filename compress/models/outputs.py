"""What a user's model returns, read as one tensor of logits: of another shape, or one among several."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import new_class
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.user_code import USER_ERRORS
from compress.errors import ModelError, listing

USUAL = "logits"  # what torchvision and transformers call them among several
# Steps of autograd that only move or rename numbers, so that what comes before them decides what they are.
MOVES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Alias", "Clone", "ConstantPadNd")


@dataclass(frozen=True)
class Reading:
    """How what a model returns becomes logits.

    Of several tensors in a tuple, mapping or dataclass, that one is taken which ``output`` names, or which alone fits.
    In training mode, where models return the outputs of auxiliary heads as well, it is the one called ``logits``, or
    else the first. Then

    - ``[N, C, 1, 1]`` loses its last axes;
    - ``[N]`` or ``[N, 1]`` for two classes is the logit z of the second, and becomes the logits [0, z]: their softmax
      is (1 - sigmoid(z), sigmoid(z)), so that their cross-entropy is the binary one, and every loss keeps its meaning;
    - ``[N]`` for a single output becomes ``[N, 1]``;
    - ``[N, C, T]`` for T steps becomes ``[N, T, C]``;
    - ``[N, T]``, ``[N, T, 1]`` or ``[N, 1, T]`` for T steps of two classes is such a logit z of each step.

    Whatever cannot be read is given as it is, and refused by those who know the task.

    Attributes:
        shape: of logits, as a signature says it: the batch first, outputs last.
        output: key or field of the wanted tensor, or its position; None where it is to be found.
        where: told when it cannot be found.
    """

    shape: tuple[int | str, ...]
    output: str | int | None = None
    where: object = None

    def read(self, returned: Any, *, training: bool) -> Any:
        """Return the logits in what a model returned.

        Raises:
            ModelError: when it is not clear which of several tensors they are.
        """
        if isinstance(returned, Tensor):
            return self.convert(returned)
        found = tensors_of(returned)
        name = self.choose(found, training=training)
        if name is None:
            raise self._refuse(found)
        return self.convert(found[name])

    def choose(self, found: Mapping[str, Tensor], *, training: bool) -> str | None:
        """Return the name of the logits among several tensors; None where that is not clear."""
        if self.output is not None:
            position = self.output if isinstance(self.output, int) else len(found)
            return str(self.output) if str(self.output) in found else dict(enumerate(found)).get(position)
        exact = [name for name, value in found.items() if self._fits(value)]
        fitting = exact or [name for name, value in found.items() if self._fits(self.convert(value))]
        if training and len(fitting) > 1:
            return USUAL if USUAL in fitting else fitting[0]
        return fitting[0] if len(fitting) == 1 else None

    def convert(self, values: Tensor) -> Tensor:
        """Return a tensor as logits where its shape can mean them, else as it is."""
        outputs = self.shape[-1]
        if values.shape[1:] == self.shape[:0:-1] and not self._fits(values):
            return values.transpose(1, 2)
        if self._fits(values):
            return values
        if len(self.shape) == 3 and outputs == 2:
            return self._convert_steps(values)
        if len(self.shape) != 2:
            return values
        if values.dim() > 2 and all(size == 1 for size in values.shape[2:]):
            values = values.flatten(1)
        if outputs in (1, 2) and (values.dim() < 2 or (values.dim() == 2 and values.shape[1] == 1)):
            column = values.reshape(-1, 1) if values.dim() < 2 else values
            return column if outputs == 1 else F.pad(column, (1, 0))
        return values

    def is_one_logit(self, values: Tensor) -> bool:
        """Whether a tensor has one number for each sample, or step, where there are two outputs."""
        return self.shape[-1] == 2 and self.convert(values).numel() == 2 * values.numel()

    def _convert_steps(self, values: Tensor) -> Tensor:
        """Return one logit of each step as two; a tensor that is not that as it is."""
        steps = self.shape[1]
        if isinstance(steps, int) and tuple(values.shape[1:]) in ((steps,), (1, steps)):
            values = values.reshape(-1, steps, 1)
        return F.pad(values, (1, 0)) if values.dim() == 3 and values.shape[2] == 1 else values

    def _fits(self, values: Tensor) -> bool:
        return values.dim() == len(self.shape) and values.shape[-1] == self.shape[-1]

    def _refuse(self, found: Mapping[str, Tensor]) -> ModelError:
        if self.output is not None:
            return ModelError(
                "the model returns no output of this name or position",
                expected=f"one of {in_words(found)}",
                got=f"output: {self.output}",
                where=self.where,
            )
        return ModelError(
            "which of the model's outputs are its logits is not clear",
            expected=f"a single one of shape [{', '.join(map(str, self.shape))}]",
            got=in_words(found),
            where=self.where,
            hint=f"name it beside the path of the model's file: `output: {next(iter(found), USUAL)}`, or its position",
        )


class Returned(nn.Module):
    """Mixed into the class of a model whose outputs are read; nothing public, since names belong to the user."""

    _compress_class: ClassVar[Any]
    _compress_reading: ClassVar[Reading]


def refuse_compiled(module: nn.Module, *, where: object) -> None:
    """Refuse a module whose code is no longer Python's: scripted, traced, or compiled.

    Raises:
        ModelError: saying what to give instead.
    """
    if isinstance(module, torch.jit.ScriptModule) or type(module).forward is nn.Module.forward:
        raise ModelError(
            "the model is compiled, and its layers cannot be followed",
            expected="a module with a forward in Python",
            got=type(module).__name__,
            where=where,
            hint="give the module that went into torch.jit.script, torch.jit.trace or torch.compile; its weights are "
            "read from the state dict of either",
        )


def read_outputs(module: nn.Module, reading: Reading) -> None:
    """Make a model return its logits alone, in place; its parts, weights and their paths stay as they are.

    Args:
        module: its class is replaced by a subclass of the same name.
        reading: how.
    """
    kind = type(module)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        return reading.read(kind.forward(self, *arguments, **named), training=self.training)

    kept = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    own = {"forward": forward, "_compress_class": kind, "_compress_reading": reading}
    module.__class__ = new_class(kind.__name__, (kind, Returned), exec_body=lambda space: space.update(kept | own))


def everything(module: nn.Module, *arguments: Tensor) -> dict[str, Tensor]:
    """Return every tensor of numbers that a model returns, also those beside its logits, by name or position."""
    if isinstance(module, Returned):
        return tensors_of(module._compress_class.forward(module, *arguments))
    return tensors_of(module(*arguments))


def tensors_of(returned: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of numbers in whatever containers a model returns, by the way to each: ``aux.0``."""
    if isinstance(returned, Tensor):
        return {name: returned} if returned.is_floating_point() else {}
    entries: dict[Any, Any] = {}
    if isinstance(returned, Mapping):
        entries = {**returned}
    elif isinstance(returned, list | tuple):
        names = getattr(type(returned), "_fields", range(len(returned)))  # of a named tuple
        entries = dict(zip(names, returned, strict=True))
    elif is_dataclass(returned):
        entries = {field.name: getattr(returned, field.name) for field in fields(returned)}
    found: dict[str, Tensor] = {}
    for key, value in entries.items():
        found |= tensors_of(value, f"{name}.{key}" if name else str(key))
    return found


def check_outputs(module: nn.Module, inputs: tuple[Tensor, ...], *, single_label: bool, where: object) -> None:
    """Refuse a model that runs where another tensor is taken for its logits than is meant.

    Args:
        module: left in evaluation mode; one whose outputs are not read by a `Reading` is as it should be.
        inputs: of at least two samples.
        single_label: whether outputs are the logits of one distribution.
        where: told in messages.

    Raises:
        ModelError: when one number stands for two outputs that are no two classes, it went through a sigmoid, or
            training mode would take the output of an auxiliary head.
    """
    if not isinstance(module, Returned):
        return
    module.eval()
    reading, told = module._compress_reading, None
    with torch.enable_grad():
        given = tuple(value.detach().requires_grad_(value.is_floating_point()) for value in inputs)
        found, logits = everything(module, *given), module(*given)
    name = next(iter(found)) if len(found) == 1 else reading.choose(found, training=False)
    assert name is not None  # else its forward pass is refused
    one = found[name] if reading.is_one_logit(found[name]) else None
    if one is not None and not single_label:
        told = ("the model gives one number for two outputs", "two: only two classes can be told by one logit", None)
    elif one is not None and _went_through_sigmoid(one):
        told = (
            "the model's output went through a sigmoid already, and the loss applies it again",
            "the logit: what goes into the sigmoid",
            "return the logit, as BCEWithLogitsLoss wants it",
        )
    elif other := _other_head(module, inputs, logits.detach()):
        told = (
            "in training mode the output of another head would be taken for the logits",
            f"output: {other}",
            f"write `output: {other}` beside the path of the model's file",
        )
    if told is not None:
        raise ModelError(told[0], expected=told[1], got=in_words(found), where=where, hint=told[2])


def describe_outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Return what is made of a model's outputs, in a sentence; empty where they are logits as they are.

    Args:
        module: in evaluation mode.
        inputs: of at least two samples.
    """
    if not isinstance(module, Returned):
        return ""
    reading, told = module._compress_reading, []
    with torch.no_grad():
        found = everything(module, *inputs)
    name = next(iter(found)) if len(found) == 1 else reading.choose(found, training=False)
    assert name is not None  # else its forward pass is refused
    if len(found) > 1:
        told.append(
            f"of the model's outputs {in_words(found)} the logits are {name}; what leads to others alone is neither "
            "trained nor exported"
        )
    values, logits = found[name], reading.convert(found[name])
    if reading.is_one_logit(values):
        told.append("the model's one logit z is read, and exported, as the logits [0, z] of the two classes")
    elif logits.shape != values.shape:
        told.append(f"the model's outputs {list(values.shape)} are read as {list(logits.shape)}")
    return "; ".join(told)


def in_words(found: Mapping[str, Tensor]) -> str:
    """Return names and shapes, as ``logits [2, 10], aux [2, 3]``."""
    return listing([f"{name} {list(value.shape)}".strip() for name, value in found.items()]) or "no tensor of numbers"


def _went_through_sigmoid(values: Tensor) -> bool:
    """Whether the last that was computed of a tensor is a sigmoid."""
    step: Any = values.grad_fn
    while step is not None and type(step).__name__.startswith(tuple(f"{move}Backward" for move in MOVES)):
        step = step.next_functions[0][0]
    return step is not None and type(step).__name__.startswith("SigmoidBackward")


@torch.no_grad()
def _other_head(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> str:
    """Return the name of the logits where training mode returns several tensors and another one would be taken.

    The model alone is put into training mode, not what it consists of, so that its logits are those of evaluation.
    """
    module.training = True
    try:
        found, taken = everything(module, *inputs), module(*inputs)
    except USER_ERRORS:  # told by what would train it
        return ""
    finally:
        module.training = False
    same = [name for name, value in found.items() if value.shape == logits.shape and torch.equal(value, logits)]
    return same[0] if len(found) > 1 and same and not torch.equal(taken, logits) else ""
