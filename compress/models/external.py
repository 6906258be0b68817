"""Models that come from elsewhere: a user's Python file, timm, Hugging Face transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from compress.errors import EnvironmentFault, ModelError
from compress.models.spec import Model, image_sizes
from compress.tasks.signature import Signature
from compress.user_code import run_user_file, user_function


class UserFile(Model):
    """A function in the user's own Python file; the file must be named on the command line (``--code``).

    Attributes:
        path: the Python file.
        factory: a function in it that returns an ``nn.Module``.
        arguments: passed to the factory by name.
    """

    family: Literal["file"] = "file"
    path: Path
    factory: str = "build"
    arguments: dict[str, Any] = {}

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return what the factory returns.

        Raises:
            InputError: when the file was not named or has no such function.
            ModelError: when it returns no module.
        """
        factory = user_function(run_user_file(self.path, code=code), self.factory, path=self.path)
        if not callable(factory):
            raise ModelError(f"{self.factory} is not a function", got=type(factory).__name__, where=self.path)
        model = factory(**self.arguments)
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.factory} does not build a model",
                expected="torch.nn.Module",
                got=type(model).__name__,
                where=self.path,
            )
        return model


class Timm(Model):
    """A timm architecture, built for the task's channels and classes, with or without its published weights."""

    family: Literal["timm"] = "timm"
    name: str
    pretrained: bool = False

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return ``timm.create_model``.

        Raises:
            EnvironmentFault: when timm is not installed or does not import.
        """
        try:
            import timm  # pyright: ignore[reportMissingImports] # an extra
        except (ImportError, RuntimeError) as error:
            raise EnvironmentFault(
                "timm does not import", got=error, where=f"model {self.name}", hint="pip install 'compress-onnx[timm]'"
            ) from error
        channels, _, _, classes = image_sizes(signature, family=self.family)
        return timm.create_model(self.name, pretrained=self.pretrained, in_chans=channels, num_classes=classes)


class HuggingFace(Model):
    """An image classifier of transformers, from a hub id or a local folder.

    Attributes:
        path: hub id or folder.
        pretrained: start from the published weights; false builds the architecture from its configuration alone.
    """

    family: Literal["huggingface"] = "huggingface"
    path: str
    pretrained: bool = True

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the classifier, reduced to a plain image-to-logits module.

        Remote code is never trusted and only safetensors weights are read.
        """
        from transformers import AutoConfig, AutoModelForImageClassification

        _, _, _, classes = image_sizes(signature, family=self.family)
        config = AutoConfig.from_pretrained(self.path, num_labels=classes, trust_remote_code=False)
        config._attn_implementation = "eager"  # fused attention hides the coupled channels from pruning
        if not self.pretrained:
            return Logits(AutoModelForImageClassification.from_config(config, trust_remote_code=False))
        return Logits(
            AutoModelForImageClassification.from_pretrained(
                self.path, config=config, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True
            )
        )


class Logits(nn.Module):
    """Takes the logits out of a transformers output object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.model(pixel_values=image, return_dict=True).logits
