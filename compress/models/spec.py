"""What every model family is: a frozen description that builds a fresh ``nn.Module``."""

import importlib.metadata
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from compress.config import Values
from compress.data.preprocess import Published
from compress.errors import EnvironmentFault, ModelError
from compress.tasks.image_classification import Normalize
from compress.tasks.signature import Signature
from compress.tasks.task import Problem, Task


class Model(Values):
    """A model's architecture as values: named in a recipe, stored in ``structure.json``, never pickled.

    Class attributes:
        libraries: distributions besides torch whose version decides what is built.
        from_user: whether it runs the user's files, whose content then decides what is built.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    from_user: ClassVar[bool] = False

    def __str__(self) -> str:
        """As a recipe spells it, without defaults: ``cnn {widths: [4, 8]}``."""
        fields = self.model_dump(mode="json", exclude={"family"}, exclude_defaults=True)
        told = ", ".join(f"{name}: {value}" for name, value in fields.items())
        return f"{self.model_dump(include={'family'}).get('family', type(self).__name__)} {{{told}}}"

    @abstractmethod
    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:
        """Return a freshly initialised module for the signature's inputs and outputs.

        Initial weights come from torch's global generator: seed it first.

        Args:
            signature: the task's inputs and outputs; sizes are read from it.
            code: the user's Python files that may be run.
        """

    def check(self, module: nn.Module, task: Task, *, where: object) -> None:
        """Refuse a task that a first long or rare sample would show not to fit, after the training.

        Args:
            module: what this was built into.
            task: how it reads samples.
            where: told in the message.

        Raises:
            ModelError: when the model has too few tokens or positions.
        """

    def tell(self, module: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return what a user should know of the built module, a line each; told by ``plan`` and by ``run``.

        Args:
            module: what this was built into.
        """
        return ()

    @property
    def writing(self) -> Mapping[str, Any] | None:
        """How it writes when it is deployed: fields of `compress.export.decoding.Writing`; None where it does not."""
        return None

    @property
    def published(self) -> bool:
        """Whether it comes with weights that others trained."""
        return False

    def normalization(self) -> Normalize | None:
        """Return what its published weights' own configuration says of their images; None where it says nothing.

        Raises:
            EnvironmentFault: when a library or a hub is missing.
        """
        return None

    def preprocess(self) -> Published | None:
        """Return whose published weights say how image files are read; None where none do. Nothing is imported."""
        return None

    def identity(self, *, code: Sequence[Path] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Return what decides the built module, as JSON values: the fields, files by their content instead of path.

        Args:
            code: the user's Python files that may be run.
        """
        return self.model_dump(mode="json")

    def strip(self, module: nn.Module) -> "Model":  # noqa: ARG002
        """Return what builds the architecture of a module again without weights, network or the paths of today.

        Args:
            module: what this was built into.
        """
        return self

    def files(
        self,
        signature: Signature,  # noqa: ARG002
        *,
        problem: Problem,  # noqa: ARG002
        preprocessing: Mapping[str, Any],  # noqa: ARG002
    ) -> Mapping[str, str]:
        """Return text files that other libraries want beside an exported file, by name.

        Args:
            signature: what the model was built for.
            problem: what its outputs are.
            preprocessing: what turns raw data into its inputs, as the task describes it.
        """
        return {}

    def versions(self) -> dict[str, str]:
        """Return the installed version of each of ``libraries``.

        Raises:
            EnvironmentFault: when one is not installed.
        """
        try:
            return {name: importlib.metadata.version(name) for name in self.libraries}
        except importlib.metadata.PackageNotFoundError as error:
            raise EnvironmentFault(
                "the model's library is not installed",
                expected=", ".join(self.libraries),
                got=error,
                where=f"model {self}",
                hint=f"pip install {' '.join(self.libraries)}",
            ) from error


def read_symbols(signature: Signature, names: Sequence[str], *, family: str) -> int:
    """Return how many symbols there are to read for a model that writes.

    Args:
        signature: of the task.
        names: of the inputs of tasks that the family is for.
        family: named in the message.

    Raises:
        ModelError: when the task is another: it decides, or a completion is asked of an encoder-decoder, or the other
            way around.
    """
    given = [tensor.name for tensor in signature.inputs]
    symbols = signature.inputs[0].symbols
    if given == [*names] and symbols is not None:
        return symbols
    continues = "prompt_ids" in names
    hint = "choose a family that fits the task"
    if symbols is not None and len(given) == len(names):
        hint = (
            "transducer and seq2seq write from text and target_text; name the columns so, or choose one of those"
            if continues
            else "causal and causal_lm continue prompts; choose one of those, or name the columns text and target_text"
        )
    wanted = "data with prompt and completion" if continues else "a source and a target: data with target_text"
    raise ModelError(
        f"the {family} family {'continues prompts' if continues else 'writes sequences'}",
        expected=wanted,
        got=", ".join(given),
        hint=hint,
    )


def flat_sizes(signature: Signature, *, family: str) -> tuple[int, int]:
    """Return how many numbers a sample has, and how many outputs.

    Raises:
        ModelError: when the signature is not one array of a fixed size in, one row of logits out.
    """
    sizes = [tensor.shape[1:] for tensor in (*signature.inputs, *signature.outputs)]
    floats = all(tensor.dtype == "float32" for tensor in signature.inputs)
    fixed = [size for shape in sizes for size in shape if isinstance(size, int)]
    if len(sizes) != 2 or len(sizes[1]) != 1 or not floats or len(fixed) != sum(map(len, sizes)):
        raise ModelError(
            f"the {family} family takes one array of a fixed size",
            expected="one float input [batch, ...] and one output [batch, classes]",
            got=[f"{tensor.name} {tensor.shape}" for tensor in (*signature.inputs, *signature.outputs)],
            hint="choose a family that fits the task, or make categories a part of the numbers: "
            "data.encode: {categories: one-hot}",
        )
    return math.prod(fixed[:-1]), fixed[-1]


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
