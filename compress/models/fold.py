"""Weights that other tensors compute (weight_norm, spectral_norm, parametrizations) as plain weights of layers."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm


def computed_weights(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Path of every module that computes a tensor of its own from others, and the tensor's name."""
    for path, part in module.named_modules():
        if parametrize.is_parametrized(part):
            assert isinstance(part.parametrizations, nn.ModuleDict)
            yield from ((path, name) for name in part.parametrizations)
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                yield path, hook.name


def duplicate(module: nn.Module) -> nn.Module:
    """Return a deep copy; the given one is not changed.

    The older weight_norm and spectral_norm leave a tensor with a gradient's history in their modules, which cannot be
    copied. It is computed anew before each call, so the copy has it without the history.
    """
    memo = {
        id(tensor): tensor.detach().clone()
        for path, name in computed_weights(module)
        if isinstance(tensor := vars(module.get_submodule(path)).get(name), Tensor)
    }
    return copy.deepcopy(module, memo)


def fold(module: nn.Module, *, only: frozenset[str] | None = None) -> tuple[str, ...]:
    """Make computed weights plain parameters, in place, as evaluation mode computes them.

    Args:
        module: changed.
        only: paths of tensors; None folds all.

    Returns:
        The paths of the tensors that are parameters now.
    """
    training = {part: part.training for part in module.modules()}
    module.eval()  # spectral_norm would take a step of its power iteration
    found = [(path, name) for path, name in computed_weights(module) if only is None or _join(path, name) in only]
    for path, name in found:
        part = module.get_submodule(path)
        if parametrize.is_parametrized(part, name):
            _own_class(part)
            parametrize.remove_parametrizations(part, name)
        elif f"{name}_v" in dict(part.named_parameters(recurse=False)):
            nn.utils.remove_weight_norm(part, name)
        else:
            nn.utils.remove_spectral_norm(part, name)
            _forget_loading(part)
    for part, mode in training.items():
        part.training = mode
    return tuple(_join(path, name) for path, name in found)


def folded(module: nn.Module) -> nn.Module:
    """Return a deep copy whose computed weights are plain parameters; the module itself where it has none."""
    if not any(True for _ in computed_weights(module)):
        return module
    copied = duplicate(module)
    fold(copied)
    return copied


def _own_class(part: nn.Module) -> None:
    """Give a parametrized module a class that its copies do not share: removing takes the tensor from the class."""
    shared = type(part)
    members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    own: type[Any] = type(shared.__name__, shared.__bases__, members)
    part.__class__ = own


def _forget_loading(part: nn.Module) -> None:
    """Drop what spectral_norm hooked into loading, which torch 2.13 keeps, and which would ask for what is gone."""
    hooks: dict[int, Any] = part._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook.hook, SpectralNormLoadStateDictPreHook)]:
        del hooks[key]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
