"""Models that come from elsewhere: a user's Python file, timm, torchvision; Hugging Face's have a file of their own."""

import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from safetensors import SafetensorError
from torch import nn

from compress.config.extras import import_extra
from compress.config.permission import Ask
from compress.config.user_code import call_user, run_user_file, user_function
from compress.config.user_modules import content_of, folders_of
from compress.data.preprocess import Published
from compress.errors import ModelError
from compress.models.outputs import Reading, read_outputs, refuse_compiled
from compress.models.spec import Model, image_sizes
from compress.store.digest import hash_file
from compress.tasks.image_classification import Normalize
from compress.tasks.signature import Signature
from compress.tasks.task import Task

# What the libraries raise for unknown names, unfit weights and configurations, and hubs that do not answer.
LIBRARY_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
TRIED = 2  # samples of made-up inputs
COLOURS = 3
TIMM_NAME = re.compile(r"[\w.-]+")  # with its weights' tag; a hub or folder is named by a colon and slashes


class UserFile(Model):
    """A function in the user's own Python file; the file must be named on the command line (``--code``).

    Attributes:
        path: the Python file.
        factory: a function in it that returns an ``nn.Module``.
        arguments: passed to the factory by name; the name of a file beside the Python file counts as what is in it.
        output: key, field or position of the logits among several tensors that the model returns; None where one alone
            can be meant; see `Reading`.
        sha256: of the file, and of the user's modules that it imports. A stored model has it instead of the file's
            directory, and is built by whichever file named on the command line has this content.
    """

    from_user: ClassVar[bool] = True

    family: Literal["file"] = "file"
    path: Path
    factory: str = "build"
    arguments: dict[str, Any] = {}
    output: str | int | None = None
    sha256: str | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an output where none is named, so that stored models are found as ever."""
        return {name: value for name, value in write(self).items() if name != "output" or value is not None}

    def __str__(self) -> str:
        """As a call: ``build(width=8) of my_model.py``."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.factory}({arguments}) of {self.path}"

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:
        """Return what the factory returns, which gives logits alone.

        Raises:
            InputError: when the file was not named, fails or has no such function.
            ModelError: when no named file has the content of ``sha256``, or the factory returns no module.
        """
        path = self.path if self.sha256 is None else self._find_unchanged(code)
        factory = user_function(run_user_file(path, code=code), self.factory, path=path)
        if not callable(factory):
            raise ModelError(f"{self.factory} is not a function", got=type(factory).__name__, where=path)
        model = call_user(factory, path=path, **self.arguments)
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.factory} does not build a model",
                expected="torch.nn.Module",
                got=type(model).__name__,
                where=path,
            )
        refuse_compiled(model, where=path)
        read_outputs(model, Reading(signature.outputs[0].shape, self.output, where=self))
        return model

    def check(self, module: nn.Module, task: Task, *, where: object) -> None:
        """Refuse a forward that takes the inputs in another order, or does not look up all numbers that they can hold.

        Raises:
            ModelError: with the order, or the numbers that occur.
        """
        inputs = [tensor.name for tensor in task.signature.inputs]
        taken = [name for name in inspect.signature(module.forward).parameters if name in inputs]
        if sorted(taken) == sorted(inputs) and taken != inputs:
            raise ModelError(
                "the model takes its inputs in another order than the data give them",
                expected=f"forward({', '.join(inputs)})",
                got=f"forward({', '.join(taken)})",
                where=where,
                hint="give the arrays in the order of the arguments, or turn the arguments round",
            )
        looked_up = [tensor.name for tensor in task.signature.inputs if tensor.dtype != "float32"]
        if not (looked_up and task.fixed_size):
            return
        module.eval()
        try:
            with torch.no_grad():
                module(*map(torch.from_numpy, task.noise(TRIED, seed=0)))
        except IndexError as error:
            raise ModelError(
                "the model does not look up all the numbers that its inputs can hold",
                expected=f"as many as there are in {', '.join(looked_up)}: {task.input_formula}",
                got=error,
                where=where,
                hint="give the embedding one entry more than the largest number",
            ) from error

    def _find_unchanged(self, code: Sequence[Path]) -> Path:
        folders = folders_of(code)
        inside = (path for folder in folders for path in sorted(folder.rglob(self.path.name)))
        candidates = [*(path for path in code if path.is_file()), *inside]
        found = next((path for path in candidates if content_of(path, folders=folders) == self.sha256), None)
        if found is None:
            raise ModelError(
                f"the model is built by {self.path.name}, and no such file was named",
                expected=f"a file with sha256 {self.sha256}",
                got=", ".join(str(path) for path in code) or "no --code option",
                hint=f"add --code {self.path.name}: it and what it imports are unchanged since the model was made; "
                "or make the model again",
            )
        return found

    def identity(self, *, code: Sequence[Path] = ()) -> dict[str, Any]:
        """Replace the path by the file's content, and so the files beside it that arguments name."""
        if self.sha256 is not None or not self.path.is_file():
            return self.model_dump(mode="json", exclude={"path"})
        fields = self.model_dump(mode="json", exclude={"path"})
        fields["sha256"] = content_of(self.path, folders=folders_of(code))
        for name, value in self.arguments.items():
            if isinstance(value, str) and value and os.path.isfile(beside := self.path.parent / value):
                fields["arguments"][name] = {"sha256": hash_file(beside)}
        return fields

    def strip(self, module: nn.Module) -> Model:  # noqa: ARG002
        """Keep the file's name and content, not its directory."""
        if self.sha256 is not None:
            return self
        return self.model_copy(update={"path": Path(self.path.name), "sha256": content_of(self.path)})


class Timm(Model):
    """A timm architecture, built for the task's channels and classes, with or without its published weights.

    Attributes:
        name: as ``timm.list_models`` gives it. One of somebody else's (``hf-hub:OWNER/MODEL``) must be named on the
            command line (``--allow``), because its weights may be a pickle.
        pretrained: start from its published weights.
    """

    libraries: ClassVar[tuple[str, ...]] = ("timm",)

    family: Literal["timm"] = "timm"
    name: str
    pretrained: bool = False

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return ``timm.create_model``.

        Raises:
            EnvironmentFault: when timm is not installed or does not import.
            ModelError: when timm has no such model or cannot get its weights.
        """
        timm = _timm()
        channels, _, _, classes = image_sizes(signature, family=self.family)
        try:
            return timm.create_model(self.name, pretrained=self.pretrained, in_chans=channels, num_classes=classes)
        except LIBRARY_ERRORS as error:
            raise ModelError(
                "timm cannot build the model",
                expected="one of timm.list_models(), or with pretrained of timm.list_pretrained()",
                got=error,
                where=f"model {self.name}",
            ) from error

    @property
    def published(self) -> bool:
        """Whether it starts from timm's weights."""
        return self.pretrained

    def normalization(self) -> Normalize | None:
        """Return the mean and deviation of timm's own configuration.

        Raises:
            EnvironmentFault: when timm is not installed or does not import.
        """
        found = _timm().get_pretrained_cfg(self.name)
        return None if found is None else Normalize(mean=tuple(found.mean), std=tuple(found.std))

    def preprocess(self) -> Published | None:
        """Return that files are read as timm reads them for the published weights; None without these."""
        return Published(timm=self.name) if self.pretrained else None

    def asks(self) -> tuple[Ask, ...]:
        """A model that is none of timm's own."""
        own = TIMM_NAME.fullmatch(self.name)
        return () if own else (Ask("name", "reads weights that may be a pickle", self.name),)

    def strip(self, module: nn.Module) -> Model:  # noqa: ARG002
        """Leave the published weights out: the stored ones replace them."""
        return self.model_copy(update={"pretrained": False})


class TorchVision(Model):
    """A torchvision architecture, built for the task's classes, without weights: those are given as a file.

    Of an Inception or GoogLeNet, the auxiliary heads are left out of the training: the logits alone are taken.

    Attributes:
        name: as ``torchvision.models.list_models`` gives it.
        arguments: passed to the architecture by name, such as ``{width_mult: 0.5}``.
    """

    libraries: ClassVar[tuple[str, ...]] = ("torchvision",)

    family: Literal["torchvision"] = "torchvision"
    name: str
    arguments: dict[str, bool | int | float | str] = {}

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return ``torchvision.models.get_model``.

        Raises:
            EnvironmentFault: when torchvision is not installed or does not import.
            ModelError: when it has no such model, or it takes no images of so many channels.
        """
        models = import_extra("torchvision.models", extra="vision")
        channels, _, _, classes = image_sizes(signature, family=self.family)
        if channels != COLOURS:
            raise ModelError(
                "models of torchvision take images of three channels",
                expected=COLOURS,
                got=channels,
                where=f"model {self.name}",
                hint="change the first layer in a function of your own: model: {file: {path: mine.py}}",
            )
        if fetched := [name for name in self.arguments if name.startswith("weights")]:
            raise ModelError(
                "weights are not fetched for a model of torchvision",
                expected="teacher.weights: a file",
                got=", ".join(fetched),
                where=f"model {self.name}, arguments",
            )
        try:
            module = models.get_model(self.name, weights=None, num_classes=classes, **self.arguments)
        except LIBRARY_ERRORS as error:
            raise ModelError(
                "torchvision cannot build the model",
                expected="one of torchvision.models.list_models(module=torchvision.models)",
                got=error,
                where=f"model {self.name}",
            ) from error
        read_outputs(module, Reading(signature.outputs[0].shape, None, where=self))
        return module


def _timm() -> Any:
    return import_extra("timm", extra="timm")
