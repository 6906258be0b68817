"""What every model family is: a frozen description that builds a fresh ``nn.Module``."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from compress.choice import Values
from compress.errors import ModelError
from compress.tasks.signature import Signature


class Model(Values):
    """A model's architecture as values: named in a recipe, stored in ``structure.json``, never pickled."""

    @abstractmethod
    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:
        """Return a freshly initialised module for the signature's inputs and outputs.

        Initial weights come from torch's global generator: seed it first.

        Args:
            signature: the task's inputs and outputs; sizes are read from it.
            code: the user's Python files that may be run.
        """


def image_sizes(signature: Signature, *, family: str) -> tuple[int, int, int, int]:
    """Return channels, height, width and number of classes of an image signature.

    Raises:
        ModelError: when the signature is not one fixed-size image in, one row of logits out.
    """
    shapes = [tensor.shape[1:] for tensor in (*signature.inputs, *signature.outputs)]
    sizes = [size for shape in shapes for size in shape if isinstance(size, int)]
    if [len(shape) for shape in shapes] != [3, 1] or len(sizes) != 4:
        raise ModelError(
            f"the {family} family takes images of a fixed size",
            expected="one input [batch, channels, height, width] and one output [batch, classes]",
            got=[tensor.shape for tensor in (*signature.inputs, *signature.outputs)],
            hint="choose a family that fits the task",
        )
    channels, height, width, classes = sizes
    return channels, height, width, classes
