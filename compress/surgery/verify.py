"""Prove that removing channels did what masking them does."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.errors import StageError
from compress.surgery import layers
from compress.surgery.groups import Group, Kept, removed


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Every tensor that the model returns, in order, whatever containers hold them."""
    return tuple(leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor))


def attributes_agree(model: nn.Module) -> None:
    """Check that every tensor of every known layer has the shape that the layer's attributes say.

    Raises:
        StageError: one does not; names it.
    """
    for path, module in model.named_modules():
        tensors = dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
        for name, shape in layers.expected_shapes(module).items():
            if tuple(tensors[name].shape) != shape:
                got = tuple(tensors[name].shape)
                raise StageError(
                    "A tensor does not fit its layer's attributes", expected=shape, got=got, where=f"{path}.{name}"
                )


@torch.no_grad()
def against_masked(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[Group],
    kept: Kept,
    inputs: tuple[Tensor, ...],
    *,
    tolerance: float = 1e-9,
) -> float:
    """Compare the pruned model with a copy of the original in which the removed channels are zeroed.

    Both are compared in float64 and eval mode, on copies, on the CPU, at the given batch and at batch 1. The mask works
    on activations, not on weights, so it shares no slicing with the cut: outputs of every layer that lost channels are
    zeroed there (normalisation after scale and shift), and so are the inputs of every layer that reads them, since an
    activation function need not map zero to zero.

    Args:
        original: the model before the cut; not changed.
        pruned: the model after the cut; not changed.
        groups: the groups of the original.
        kept: the channels that were kept.
        inputs: positional arguments with the batch in dimension 0, at least 2 samples.
        tolerance: largest allowed difference, as a fraction of the largest output of the masked copy.

    Returns:
        The largest difference found, as a fraction of the largest output.

    Raises:
        StageError: tensors and attributes disagree, outputs have another shape, or they differ.
    """
    attributes_agree(pruned)
    masked, smaller = (copy.deepcopy(model).cpu().double().eval() for model in (original, pruned))
    for path, side, hook in _masks(masked, groups, kept):
        module = masked.get_submodule(path)
        if side == "out":
            module.register_forward_hook(hook)
        else:
            module.register_forward_pre_hook(hook)
    exact = tuple(tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu() for tensor in inputs)
    worst = 0.0
    for batch in (exact, tuple(tensor[:1] for tensor in exact)):
        for wanted, got in zip(outputs(masked, batch), outputs(smaller, batch), strict=True):
            if wanted.shape != got.shape:
                raise StageError(
                    "Pruning changed the shape of an output", expected=tuple(wanted.shape), got=tuple(got.shape)
                )
            scale = float(wanted.abs().max())
            difference = float((wanted - got).abs().max())
            if not difference <= tolerance * scale:
                raise StageError(
                    "The pruned model is not the masked model: an index map is wrong",
                    expected=f"difference at most {tolerance:g} of the largest output {scale:.6g}",
                    got=f"{difference:.6g}",
                )
            worst = max(worst, difference / scale if scale else 0.0)
    return worst


def _masks(model: nn.Module, groups: Sequence[Group], kept: Kept) -> list[tuple[str, layers.Side, Callable[..., Any]]]:
    """A hook for every layer side that loses channels, which multiplies its output or input by a mask of 0 and 1."""
    gone: dict[tuple[str, layers.Side], list[Tensor]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            gone[member.path, member.side].append(member.of(removed(group, kept), group.width))
    hooks: list[tuple[str, layers.Side, Callable[..., Any]]] = []
    for (path, side), indices in gone.items():
        module = model.get_submodule(path)
        found = layers.layout(module, side)
        assert found is not None
        mask = torch.ones(found.size, dtype=torch.float64)
        mask[torch.cat(indices)] = 0
        hooks.append((path, side, _mask_output(mask) if side == "out" else _mask_input(mask)))
    return hooks


def scale_channels(tensor: Tensor, factors: Tensor, dim: int) -> Tensor:
    """Multiply `tensor` by one factor per channel: `factors` is (channels,) or (batch, channels)."""
    shape = [1] * tensor.ndim
    shape[dim] = tensor.shape[dim]
    if factors.ndim == 2:
        shape[0] = tensor.shape[0]
    return tensor * factors.view(shape)


def _mask_output(mask: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
        return scale_channels(output, mask, layers.channel_dim(module))

    return hook


def _mask_input(mask: Tensor) -> Callable[..., tuple[Any, ...]]:
    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (scale_channels(arguments[0], mask, layers.channel_dim(module)), *arguments[1:])

    return hook
