"""Models that come from elsewhere: a user's Python file, timm, Hugging Face transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from safetensors import SafetensorError
from torch import Tensor, nn

from compress.artifact import hash_file, hash_values
from compress.errors import EnvironmentFault, ModelError
from compress.models.spec import Model, image_sizes
from compress.tasks.signature import Signature
from compress.user_code import run_user_file, user_function

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What the libraries raise for unknown names, unfit weights and configurations, and hubs that do not answer.
LIBRARY_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


class UserFile(Model):
    """A function in the user's own Python file; the file must be named on the command line (``--code``).

    Attributes:
        path: the Python file.
        factory: a function in it that returns an ``nn.Module``.
        arguments: passed to the factory by name.
        sha256: of the file. A stored model has it instead of the file's directory, and is built by whichever file named
            on the command line has this content.
    """

    family: Literal["file"] = "file"
    path: Path
    factory: str = "build"
    arguments: dict[str, Any] = {}
    sha256: str | None = None

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return what the factory returns.

        Raises:
            InputError: when the file was not named or has no such function.
            ModelError: when no named file has the content of ``sha256``, or the factory returns no module.
        """
        path = self.path if self.sha256 is None else self._unchanged(code)
        factory = user_function(run_user_file(path, code=code), self.factory, path=path)
        if not callable(factory):
            raise ModelError(f"{self.factory} is not a function", got=type(factory).__name__, where=path)
        model = factory(**self.arguments)
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.factory} does not build a model",
                expected="torch.nn.Module",
                got=type(model).__name__,
                where=path,
            )
        return model

    def _unchanged(self, code: Sequence[Path]) -> Path:
        found = next((path for path in code if path.is_file() and hash_file(path) == self.sha256), None)
        if found is None:
            raise ModelError(
                f"the model is built by {self.path.name}, and no such file was named",
                expected=f"a file with sha256 {self.sha256}",
                got=", ".join(str(path) for path in code) or "no --code option",
                hint=f"add --code {self.path.name}, unchanged since the model was made; or make the model again",
            )
        return found

    def identity(self) -> dict[str, Any]:
        """Replace the path by the file's content."""
        content = hash_file(self.path) if self.sha256 is None and self.path.is_file() else self.sha256
        return self.model_dump(mode="json", exclude={"path"}) | {"sha256": content}

    def stored(self, module: nn.Module) -> Model:  # noqa: ARG002
        """Keep the file's name and content, not its directory."""
        if self.sha256 is not None:
            return self
        return self.model_copy(update={"path": Path(self.path.name), "sha256": hash_file(self.path)})


class Timm(Model):
    """A timm architecture, built for the task's channels and classes, with or without its published weights."""

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
        try:
            import timm  # pyright: ignore[reportMissingImports] # an extra
        except (ImportError, RuntimeError) as error:
            raise EnvironmentFault(
                "timm does not import", got=error, where=f"model {self.name}", hint="pip install 'compress-onnx[timm]'"
            ) from error
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

    def stored(self, module: nn.Module) -> Model:  # noqa: ARG002
        """Leave the published weights out: the stored ones replace them."""
        return self.model_copy(update={"pretrained": False})


class HuggingFace(Model):
    """An image classifier of transformers, from a hub id or a local folder.

    Attributes:
        path: hub id or folder.
        pretrained: start from the published weights; false builds the architecture from its configuration alone.
        config: used instead of the configuration at ``path``; the content of a ``config.json``. A stored model has it,
            so that neither the hub nor the folder is needed to load it.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    family: Literal["huggingface"] = "huggingface"
    path: str
    pretrained: bool = True
    config: dict[str, Any] | None = None

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the classifier, reduced to a plain image-to-logits module.

        Remote code is never trusted and only safetensors weights are read.

        Raises:
            EnvironmentFault: when transformers does not import, or the hub is needed and does not answer.
            ModelError: when there is no such model, or it is no image classifier.
        """
        try:
            from transformers import AutoConfig, AutoModelForImageClassification
            from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        except (ImportError, RuntimeError) as error:
            raise EnvironmentFault(
                "transformers does not import",
                got=error,
                where=f"model {self.path}",
                hint="pip install 'compress-onnx[hf]'",
            ) from error
        _, _, _, classes = image_sizes(signature, family=self.family)
        try:
            if self.config is None:
                config = AutoConfig.from_pretrained(self.path, num_labels=classes, trust_remote_code=False)
            else:
                config = CONFIG_MAPPING[self.config["model_type"]].from_dict(dict(self.config), num_labels=classes)
            config._attn_implementation = "eager"  # fused attention hides the coupled channels from pruning
            if not self.pretrained:
                return Logits(AutoModelForImageClassification.from_config(config, trust_remote_code=False))
            return Logits(
                AutoModelForImageClassification.from_pretrained(
                    self.path,
                    config=config,
                    trust_remote_code=False,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,
                )
            )
        except LIBRARY_ERRORS as error:
            if _hub_is_silent(error):
                raise EnvironmentFault(
                    "the Hugging Face hub cannot be reached, and the model was not downloaded before",
                    got=_first_line(error),
                    where=f"model {self.path}",
                    hint="check the network, or give a local folder as path",
                ) from error
            raise ModelError(
                "transformers cannot build the model",
                expected="the hub id or folder of an image classifier with safetensors weights",
                got=_first_line(error),
                where=f"model {self.path}",
            ) from error

    def identity(self) -> dict[str, Any]:
        """Replace the path of a folder by the content that is read from it."""
        fields, folder = self.model_dump(mode="json"), Path(self.path)
        if not folder.is_dir():
            return fields
        patterns = ("config.json", "*.safetensors*") if self.pretrained else ("config.json",)
        files = sorted(path for pattern in patterns for path in folder.glob(pattern))
        return fields | {"path": hash_values({path.name: hash_file(path) for path in files})}

    def stored(self, module: nn.Module) -> Model:
        """Keep the configuration, and of a folder the name; leave the weights out: the stored ones replace them."""
        if self.config is not None:
            return self.model_copy(update={"pretrained": False})
        assert isinstance(module, Logits)
        config = json.loads(module.model.config.to_json_string(use_diff=False))
        config.pop("_name_or_path", None)
        name = Path(self.path).name if Path(self.path).is_dir() else self.path
        return HuggingFace(path=name, pretrained=False, config=config)


def _hub_is_silent(error: BaseException | None) -> bool:
    """Whether the hub was not reached, rather than answering that there is no such model."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__
    return False


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


class Logits(nn.Module):
    """Takes the logits out of a transformers output object."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.model(pixel_values=image, return_dict=True).logits
