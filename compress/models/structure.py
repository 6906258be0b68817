"""A model on disk: ``structure.json`` (how to build it, what was reshaped) and ``model.safetensors`` (its weights).

No pickle: the architecture is a family name with arguments, and every reshaped layer is listed with its sizes. Loading
builds the family afresh, reshapes those layers and loads strictly, so it needs no pruning library.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from compress.errors import ArtifactError
from compress.models.spec import Model
from compress.tasks.signature import Signature

FORMAT = 1

# The attributes that say a layer's size, per class: what surgery changes and loading must set again.
SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: ("in_channels", "out_channels", "groups"),
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.ConvTranspose2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.LayerNorm: ("normalized_shape",),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.PReLU: ("num_parameters",),
}


@dataclass(frozen=True)
class Structure:
    """How to build a stored model.

    Attributes:
        model: the family and its arguments.
        signature: inputs and outputs it was built for.
        sizes: module path to the size attributes of that layer, for layers of the classes in ``SIZES``.
    """

    model: Model
    signature: Signature
    sizes: dict[str, dict[str, Any]]


def save_model(module: nn.Module, directory: Path, *, model: Model, signature: Signature) -> None:
    """Write ``structure.json`` and ``model.safetensors`` of a module into a directory.

    The module may have been reshaped since ``model.build``; it is not changed.

    Args:
        module: the module to store, on the CPU.
        directory: an existing directory.
        model: the family that the module was built from.
        signature: what it was built for.
    """
    sizes = {path: found for path, layer in module.named_modules() if (found := _sizes(layer))}
    structure = {
        "format": FORMAT,
        "model": model.stored(module).model_dump(mode="json"),
        "signature": signature.model_dump(mode="json"),
        "sizes": sizes,
        "tensors": {name: list(value.shape) for name, value in module.state_dict().items()},
    }
    (directory / "structure.json").write_text(json.dumps(structure, indent=1))
    # Tied tensors are stored once per name: safetensors refuses shared memory, and loading ties them again by building.
    tensors = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    save_file(tensors, directory / "model.safetensors")


def load_structure(directory: Path) -> Structure:
    """Read ``structure.json``.

    Raises:
        ArtifactError: when it is missing, not valid or of a newer format.
    """
    from compress.models import AnyModel

    path = directory / "structure.json"
    try:
        content = json.loads(path.read_text())
        if content["format"] > FORMAT:
            raise ArtifactError("the model was written by a newer compress", expected=FORMAT, got=content["format"])
        return Structure(
            model=TypeAdapter[Model](AnyModel).validate_python(content["model"]),
            signature=Signature.model_validate(content["signature"]),
            sizes=content["sizes"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise ArtifactError("the stored model's structure cannot be read", got=error, where=path) from error


def load_model(directory: Path, *, code: Sequence[Path] = ()) -> nn.Module:
    """Return a fresh, plain module in evaluation mode from a stored model.

    Args:
        directory: where ``save_model`` wrote.
        code: the user's Python files that may be run to build it.

    Raises:
        ArtifactError: when a file is missing, truncated or does not fit the structure.
        ModelError: when building needs a user's file that ``code`` does not name.
    """
    structure = load_structure(directory)
    path = directory / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError("the stored weights cannot be read", got=error, where=path) from error
    with torch.random.fork_rng(devices=[]):
        module = structure.model.build(structure.signature, code=code)
    for name, sizes in structure.sizes.items():
        try:
            layer = module.get_submodule(name)
        except AttributeError as error:
            raise ArtifactError("the stored model names a layer that its family has not", got=name) from error
        for attribute, value in sizes.items():
            setattr(layer, attribute, tuple(value) if isinstance(value, list) else value)
        for tensor_name, old in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            stored = tensors.get(f"{name}.{tensor_name}" if name else tensor_name)
            if stored is None or stored.shape == old.shape:
                continue
            fresh = torch.empty_like(stored)
            if isinstance(old, nn.Parameter):
                setattr(layer, tensor_name, nn.Parameter(fresh, requires_grad=old.requires_grad))
            else:
                layer.register_buffer(tensor_name, fresh)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ArtifactError("the stored weights do not fit the stored structure", got=error, where=path) from error
    return module.eval()


def _sizes(layer: nn.Module) -> dict[str, Any]:
    """Return the size attributes of a layer of a known class, else nothing."""
    for kind, names in SIZES.items():
        if isinstance(layer, kind):
            return {name: vars(layer)[name] for name in names}
    return {}
