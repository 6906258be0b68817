"""Reading a user's weights: safetensors, or a state dict without pickled objects."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import ModelError


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file of weights into a module, strictly.

    Args:
        module: changed in place.
        path: ``.safetensors``, or a ``.pt`` / ``.pth`` state dict, read with ``weights_only=True`` and never otherwise.

    Raises:
        ModelError: when the file is missing, damaged, a pickled object, or does not fit the module.
    """
    tensors = _read(path)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    faults = [f"missing {name} {shape}" for name, shape in expected.items() if name not in got]
    faults += [f"unexpected {name} {shape}" for name, shape in got.items() if name not in expected]
    faults += [
        f"{name}: expected {expected[name]}, got {shape}"
        for name, shape in got.items()
        if name in expected and expected[name] != shape
    ]
    if faults:
        shown = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise ModelError("the weights do not fit the model", got=shown, where=path, hint="check the model's arguments")
    module.load_state_dict(tensors, strict=True)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError("the file of weights does not exist", got=path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            "the weights cannot be read safely",
            expected="safetensors, or a state dict of tensors",
            got=str(error).splitlines()[0],
            where=path,
            hint="where it was trained: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            "the file holds no state dict", expected="names to tensors", got=type(content).__name__, where=path
        )
    return content
