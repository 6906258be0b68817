"""A model on disk: ``structure.json`` (how to build it, what was reshaped) and ``model.safetensors`` (its weights).

No pickle: the architecture is a family name with arguments, and every reshaped layer is listed with its sizes. Loading
builds the family afresh, drops the layers that are no more, reshapes others and loads strictly, so it needs no pruning
library.
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
from compress.models.attention import Counted, Wiring, counted, read_wirings, rewire, wirings_of
from compress.models.fold import computed_weights, fold
from compress.models.layer_lists import KIND, keep_layers, say_kinds
from compress.models.spec import Model
from compress.tasks.signature import Signature

FORMAT = 2  # 2: lists of layers may have become shorter
REWIRED = 3  # attention modules may be other ones than the family builds

# The attributes that say a layer's size, per class: what surgery changes and loading must set again.
SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: ("in_channels", "out_channels", "groups"),
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.Conv3d: ("in_channels", "out_channels", "groups"),
    nn.ConvTranspose1d: ("in_channels", "out_channels", "groups"),
    nn.ConvTranspose2d: ("in_channels", "out_channels", "groups"),
    nn.ConvTranspose3d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
    nn.BatchNorm3d: ("num_features",),
    nn.InstanceNorm1d: ("num_features",),
    nn.InstanceNorm2d: ("num_features",),
    nn.InstanceNorm3d: ("num_features",),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.LayerNorm: ("normalized_shape",),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.PReLU: ("num_parameters",),
    nn.RNNBase: ("input_size", "hidden_size"),
}

CONV1D_SIZES = ("nx", "nf")  # inputs and outputs of `is_conv1d`

# What attention modules of transformers count in whole heads, and what they measure in channels of all heads together.
# Several versions and families; a module has some of each.
HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
HEAD_WIDTHS = ("all_head_size", "dim", "inner_dim", "split_size")


@dataclass(frozen=True)
class Structure:
    """How to build a stored model.

    Attributes:
        model: the family and its arguments.
        signature: inputs and outputs it was built for.
        sizes: module path to the size attributes of that layer, for layers of the classes in ``SIZES``, attention
            modules, and (without attributes) modules that hold parameters of their own.
        lengths: path of each list of modules to how many it has.
        attention: path of each attention module that surgery put in the family's place, or only counts, to its wiring.
    """

    model: Model
    signature: Signature
    sizes: dict[str, dict[str, Any]]
    lengths: dict[str, int]
    attention: dict[str, Wiring | Counted]


def save_model(module: nn.Module, directory: Path, *, model: Model, signature: Signature) -> None:
    """Write ``structure.json`` and ``model.safetensors`` of a module into a directory.

    The module may have been reshaped since ``model.build``; it is not changed.

    Args:
        module: the module to store, on the CPU.
        directory: an existing directory.
        model: the family that the module was built from.
        signature: what it was built for.
    """
    structure = describe(module, model=model, signature=signature)
    (directory / "structure.json").write_text(json.dumps(structure, indent=1))
    # Tied tensors are stored once per name: safetensors refuses shared memory, and loading ties them again by building.
    tensors = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    save_file(tensors, directory / "model.safetensors")


def describe(module: nn.Module, *, model: Model, signature: Signature) -> dict[str, Any]:
    """Return everything that decides a module but its weights, as JSON values: the content of ``structure.json``.

    Args:
        module: perhaps reshaped since ``model.build``; not changed.
        model: the family that it was built from.
        signature: what it was built for.
    """
    rewired = wirings_of(module)
    return {
        "format": REWIRED if rewired else FORMAT,
        "model": model.strip(module).model_dump(mode="json"),
        "signature": signature.model_dump(mode="json"),
        "sizes": {path: found for path, layer in module.named_modules() if (found := _sizes(layer)) is not None},
        "lengths": {path: len(found) for path, found in module.named_modules() if isinstance(found, nn.ModuleList)},
        "tensors": {name: list(value.shape) for name, value in module.state_dict().items()},
    } | ({"attention": rewired} if rewired else {})


def load_structure(directory: Path) -> Structure:
    """Read ``structure.json``.

    Raises:
        ArtifactError: when it is missing, not valid or of a newer format.
    """
    from compress.models import AnyModel

    path = directory / "structure.json"
    try:
        content = json.loads(path.read_text())
        if content["format"] > REWIRED:
            raise ArtifactError("the model was written by a newer compress", expected=REWIRED, got=content["format"])
        model = TypeAdapter[Model](AnyModel).validate_python(content["model"])
        if model.model_dump().get("pretrained"):  # it would fetch them from wherever the file says
            raise ArtifactError("a stored model has its own weights", got="pretrained: true", where=path)
        return Structure(
            model=model,
            signature=Signature.model_validate(content["signature"]),
            sizes=content["sizes"],
            lengths=content.get("lengths", {}),  # not in format 1
            attention=read_wirings(content.get("attention", {})),
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
    computed = [f"{path}.{name}" if path else name for path, name in computed_weights(module)]
    fold(module, only=frozenset(computed) & tensors.keys())
    rewire(module, structure.attention)
    fresh_of: dict[int, nn.Parameter] = {}  # what layers share, they share reshaped
    olds: list[nn.Parameter] = []  # kept, so that no other tensor gets the id of one
    for name, length in structure.lengths.items():
        _shorten(module, name, length)
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
                made = fresh_of.setdefault(id(old), nn.Parameter(fresh, requires_grad=old.requires_grad))
                setattr(layer, tensor_name, made)
                olds.append(old)
            else:
                layer.register_buffer(tensor_name, fresh)
    for name in structure.lengths:  # their kinds are those of the stored layers
        say_kinds(module, name)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ArtifactError("the stored weights do not fit the stored structure", got=error, where=path) from error
    return module.eval()


def _shorten(module: nn.Module, path: str, length: int) -> None:
    """Drop the last layers of a list that was shorter when it was stored.

    Which ones does not matter: all are reshaped and get the stored weights.
    """
    try:
        found = module.get_submodule(path)
    except AttributeError as error:
        raise ArtifactError("the stored model names a list of layers that its family has not", got=path) from error
    if not isinstance(found, nn.ModuleList) or len(found) < length:
        got = len(found) if isinstance(found, nn.ModuleList) else type(found).__name__
        raise ArtifactError("the stored model has more layers than its family", expected=length, got=got, where=path)
    if len(found) > length:
        keep_layers(module, path, range(length))


def is_conv1d(layer: nn.Module) -> bool:
    """Whether a layer is transformers' Conv1D: the linear layer of GPT-2, whose weight is [inputs, outputs]."""
    return type(layer).__name__ == "Conv1D" and all(name in vars(layer) for name in CONV1D_SIZES)


def _sizes(layer: nn.Module) -> dict[str, Any] | None:
    """Return the size attributes of a layer that surgery may have changed; None for one that it leaves alone."""
    for kind, names in SIZES.items():
        if isinstance(layer, kind):
            return {name: vars(layer)[name] for name in names}
    if is_conv1d(layer):
        return {name: vars(layer)[name] for name in CONV1D_SIZES}
    if (found := counted(layer)) is not None:
        return {name: vars(layer)[name] for name in (*found.counts, *found.widths)}
    if any(name in vars(layer) for name in (*HEAD_COUNTS, KIND)):
        named = {name: vars(layer)[name] for name in (*HEAD_COUNTS, *HEAD_WIDTHS, KIND) if name in vars(layer)}
        return {name: value for name, value in named.items() if isinstance(value, int | str)}
    return {} if any(True for _ in layer.parameters(recurse=False)) else None
