"""Reading a user's weights: safetensors, or a checkpoint without pickled objects, as training scripts save it."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.errors import ModelError, listing

SHOWN = 6  # faults
STATISTICS = ("running_mean", "running_var")  # buffers that a training changes
AVERAGED = "n_averaged"  # a counter beside the weights of torch.optim.swa_utils.AveragedModel


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file of weights into a module, strictly.

    A checkpoint may hold the weights under a key of its own (``state_dict``, ``model``, ``ema``, ``model.state_dict``,
    ...) beside other things, and all names may have one prefix (``module.`` of DataParallel, ``_orig_mod.`` of
    torch.compile, ``model.`` of Lightning). Half precision becomes the module's own.

    Args:
        module: changed in place.
        path: ``.safetensors``, or a ``.pt`` / ``.pth`` file, read with ``weights_only=True`` and never otherwise.

    Raises:
        ModelError: when the file is missing, damaged, a pickled object, does not fit the module, holds NaN, or
            several sets of weights that fit.
    """
    target = module.state_dict()
    found = {key: _strip_prefix(tensors, target) for key, tensors in _state_dicts(path).items()}
    faults = {key: _list_faults(tensors, target) for key, tensors in found.items()}
    fitting = [key for key in found if not faults[key]]
    if len(fitting) > 1:
        spelt = "".join(f"[{part!r}]" for part in fitting[-1].split("."))
        raise ModelError(
            "the file holds several sets of weights that fit the model",
            expected="one",
            got=", ".join(fitting),
            where=path,
            hint=f"save the one that you mean: torch.save(torch.load({path.name!r}){spelt}, ...)",
        )
    if not fitting:
        key = min(faults, key=lambda key: len(faults[key]))
        shown = "; ".join(faults[key][:SHOWN])
        more = len(faults[key]) - SHOWN
        raise ModelError(
            "the weights do not fit the model",
            got=shown + (f"; and {more} more" if more > 0 else ""),
            where=f"{path}, {key}" if key else path,
            hint="check the model's arguments",
        )
    weights = found[fitting[0]]
    trained = dict(module.named_parameters(remove_duplicate=False))
    read = {name: value for name, value in weights.items() if name in trained or name.endswith(STATISTICS)}
    if unknown := [name for name, value in read.items() if value.is_floating_point() and value.isnan().any()]:
        raise ModelError(
            "the weights hold values that are no numbers",
            expected="a checkpoint of a training that did not diverge",
            got=f"NaN in {listing(unknown)}",
            where=path,
            hint="take an earlier checkpoint",
        )
    module.load_state_dict(weights, strict=True)


def _state_dicts(path: Path) -> dict[str, Mapping[str, Tensor]]:
    """Return what a file holds: the weights themselves under ``""``, or every set of weights by its key or keys."""
    content = _read(path)
    if _is_state_dict(content):
        return {"": content}
    entries = list(content.items()) if isinstance(content, dict) else []
    inner = [(outer, held) for outer, held in entries if isinstance(held, dict)]
    entries += [(f"{outer}.{key}", value) for outer, held in inner for key, value in held.items()]
    nested = {str(key): value for key, value in entries if _is_state_dict(value)}
    if not nested:
        keys = listing(sorted(map(str, content))) if isinstance(content, dict) else type(content).__name__
        raise ModelError(
            "the file holds no state dict",
            expected="names to tensors, or such a dict under a key of its own",
            got=keys or "an empty dict",
            where=path,
            hint="save model.state_dict()",
        )
    return nested


def _is_state_dict(content: object) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _strip_prefix(tensors: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights without the prefix that all their names have, if names of the module follow it."""
    if tensors.keys() & target.keys():
        return tensors
    own = {name: value for name, value in tensors.items() if name != AVERAGED}
    suffixes = (name.split(".", parts)[-1] for name in own for parts in range(1, name.count(".") + 1))
    known = next((suffix for suffix in suffixes if suffix in target), None)
    if known is None:
        return tensors
    prefix = next(name.removesuffix(known) for name in own if name.endswith("." + known))
    if not all(name.startswith(prefix) for name in own):
        return tensors
    return {name.removeprefix(prefix): value for name, value in own.items()}


def _list_faults(tensors: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """Return every difference between the weights and those of the module, in words."""
    faults = [f"missing {name} {tuple(value.shape)}" for name, value in target.items() if name not in tensors]
    faults += [f"unexpected {name} {tuple(value.shape)}" for name, value in tensors.items() if name not in target]
    for name, value in tensors.items():
        wanted = target.get(name)
        if wanted is None:
            continue
        if wanted.shape != value.shape:
            faults.append(f"{name}: expected {tuple(wanted.shape)}, got {tuple(value.shape)}")
        elif wanted.is_floating_point() != value.is_floating_point():
            faults.append(f"{name}: expected {wanted.dtype}, got {value.dtype}")
    return faults


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelError("the file of weights does not exist", got=path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            "the weights cannot be read safely",
            expected="safetensors, or a state dict of tensors",
            got=str(error).splitlines()[0],
            where=path,
            hint="where it was trained: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error
