"""What every model family is: a frozen description that builds a fresh ``nn.Module``."""

import hashlib
import importlib.util
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

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


def run_user_file(path: Path, *, code: Sequence[Path]) -> ModuleType:
    """Import a user's Python file that the command line named.

    Raises:
        ModelError: when the file was not named, or does not exist.
    """
    path = path.resolve()
    if path not in {allowed.resolve() for allowed in code}:
        raise ModelError(
            f"{path.name} is Python code, which a recipe alone never runs",
            expected="the file named on the command line",
            got=", ".join(str(allowed) for allowed in code) or "no --code option",
            hint=f"add --code {path}",
        )
    if not path.is_file():
        raise ModelError("the user's Python file does not exist", got=path)
    # The name carries the content, so an edited file is never served from an earlier import.
    name = f"compress_user_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def user_function(module: ModuleType, name: str, *, path: Path) -> object:
    """Return a function of a user's module.

    Raises:
        ModelError: when the module has no such name; the message lists those it has.
    """
    if name not in vars(module):
        names = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ModelError(f"{path.name} defines no {name!r}", expected=f"one of {names}", got=name, where=path)
    return vars(module)[name]
