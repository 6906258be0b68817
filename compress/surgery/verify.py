"""Prove that removing channels did what masking them does."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from compress.errors import StageError
from compress.models.attention import Attention, counted
from compress.models.outputs import everything
from compress.models.structure import HEAD_COUNTS, HEAD_WIDTHS
from compress.surgery import layers
from compress.surgery.groups import Group, Kept, find_removed
from compress.tasks.special import PAD

HEAD_SIZES = ("attention_head_size", "head_dim", "key_value_proj_dim")
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Every tensor of numbers that the model returns, in order, whatever containers hold them.

    Those of heads that nobody reads are among them: what such a head computes goes on being computed.
    """
    return tuple(everything(model, *inputs).values())


def attributes_agree(model: nn.Module) -> None:
    """Check that every tensor of every known layer has the shape that the layer's attributes say.

    Raises:
        StageError: one does not; names it.
    """
    for path, module in model.named_modules():
        tensors = dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
        for name, shape in layers.expect_shapes(module).items():
            if tuple(tensors[name].shape) != shape:
                got = tuple(tensors[name].shape)
                raise StageError(
                    "A tensor does not fit its layer's attributes", expected=shape, got=got, where=f"{path}.{name}"
                )
        countable = isinstance(module, Attention) or counted(module) is not None
        projections = None if countable else layers.attention_projections(module)
        if projections is not None:
            _heads_agree(module, projections, path)


def _heads_agree(module: nn.Module, projections: Sequence[nn.Linear], path: str) -> None:
    """Check that all that an attention module says of its heads fits its layers."""
    said = {name: value for name, value in vars(module).items() if isinstance(value, int)}
    width = next((said[name] for name in HEAD_SIZES if name in said), None)
    counts = {name: said[name] for name in HEAD_COUNTS if name in said}
    wholes = {name: said[name] for name in HEAD_WIDTHS if name in said}
    if width is not None:
        wholes |= {f"{name} times the size of a head": count * width for name, count in counts.items()}
    for layer in projections:
        for name, value in wholes.items():
            if value != layer.out_features:
                raise StageError(
                    "An attention module's number of heads does not fit its layers",
                    expected=f"{name}: {layer.out_features}",
                    got=value,
                    where=path,
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
    training: bool = False,
) -> float:
    """Compare the pruned model with a copy of the original in which the removed channels are zeroed.

    Both are compared in float64 and eval mode, on copies, on the CPU, at the given batch and at batch 1. The mask works
    on activations, not on weights, so it shares no slicing with the cut: outputs of every layer that lost channels are
    zeroed there (normalisation after scale and shift), and so are the inputs of every layer that reads them, since an
    activation function need not map zero to zero. Three things are not masks: the mean and variance of a layer
    normalisation are those of the kept channels, and a layer that is gone hands on what it was given. A recurrent layer
    shows no activations: there the candidate of a removed unit's state is zeroed, so that the state stays zero.

    Args:
        original: the model before the cut; not changed.
        pruned: the model after the cut; not changed.
        groups: the groups of the original.
        kept: the channels that were kept.
        inputs: positional arguments with the batch in dimension 0, at least 2 samples.
        tolerance: largest allowed difference, as a fraction of the largest output of the masked copy.
        training: compare in training mode instead, dropout off and both drawing the same numbers, at the given batch.

    Returns:
        The largest difference found, as a fraction of the largest output.

    Raises:
        StageError: tensors and attributes disagree, outputs have another shape, or they differ.
    """
    attributes_agree(pruned)
    masked, smaller = (copy.deepcopy(model).cpu().double().train(training) for model in (original, pruned))
    mask(masked, groups, kept)
    exact = tuple(tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu() for tensor in inputs)
    worst = 0.0
    for batch in (exact,) if training else (exact, tuple(tensor[:1] for tensor in exact)):
        for wanted, got in zip(_outputs_of(masked, batch), _outputs_of(smaller, batch), strict=True):
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


def _outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a model returns where nothing is drawn but by numbers that are the same for every model."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
    with torch.random.fork_rng(devices=[]), _Exact():
        torch.manual_seed(0)
        return outputs(model, inputs)


@torch.no_grad()
def against_steps(model: nn.Module, inputs: tuple[Tensor, ...], *, tolerance: float = 1e-9) -> float:
    """Compare a model that writes symbol by symbol, from its cache, with itself given the whole target; in float64.

    Args:
        model: with ``encode``, ``step`` and ``empty_past`` besides ``forward``; not changed.
        inputs: source ids, mask and target ids, the batch in dimension 0.
        tolerance: largest allowed difference, as a fraction of the largest output.

    Returns:
        The largest difference found, as a fraction of the largest output.

    Raises:
        StageError: they differ.
    """
    exact: Any = copy.deepcopy(model).cpu().double().eval()
    source, mask_, target = (tensor.cpu() for tensor in inputs)
    with _Exact():
        wanted = exact(source, mask_, target)
        cross = exact.encode(source, mask_)
        past, worst = exact.empty_past(cross), 0.0
        for place in range(target.shape[1]):
            logits, past = exact.step(target[:, place : place + 1], mask_, cross, past)
            # A cache reads what a target is padded with; only the symbols before it are compared.
            real = (target[:, 1 : place + 1] != PAD).all(dim=1)
            worst = max([worst, *(logits - wanted[:, place]).abs().amax(dim=1)[real].tolist()])
    scale = float(wanted.abs().max())
    if not worst <= tolerance * scale:
        raise StageError(
            "the model writes otherwise step by step than it reads a target as a whole",
            expected=f"difference at most {tolerance:g} of the largest output {scale:.6g}",
            got=f"{worst:.6g}",
        )
    return worst / scale if scale else 0.0


def writes(model: nn.Module) -> bool:
    """Whether a model writes step by step."""
    return all(hasattr(model, name) for name in ("encode", "step", "empty_past"))


class _Exact(TorchFunctionMode):
    """Dropout as a function drops nothing: what it draws depends on the number of channels. And float64 stays.

    T5's norms ask for float32, in which two sums of the same numbers in another order differ too much to be compared.
    So do ModernBERT's rotary positions and its softmax.
    """

    def __torch_function__(self, func: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if _rounds(func, args, named):
            return args[0]
        if func in DROPOUTS:
            return args[0] if args else named["input"]
        if func in SOFTMAXES and named.get("dtype") == torch.float32 and args[0].dtype == torch.float64:
            named["dtype"] = torch.float64
        if func in PRODUCTS and {value.dtype for value in args} == {torch.float32, torch.float64}:
            args = [value.double() for value in args]  # positions in whole numbers, which asked for float32
        if func is F.scaled_dot_product_attention:
            args, named = (
                (*args[:4], *((0.0,) if len(args) > 4 else ()), *args[5:]),
                named | ({} if len(args) > 4 else {"dropout_p": 0.0}),
            )
        return func(*args, **named)


def _rounds(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a call makes float32 of float64."""
    asks = func is Tensor.float or (func is Tensor.to and torch.float32 in (*args[1:], *named.values()))
    return asks and args[0].dtype == torch.float64


def mask(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Make a model one in which the channels that are not kept are zeroed, in place; see `against_masked`.

    Args:
        model: in float64.
        groups: its groups.
        kept: the channels that stay.
    """
    for path, side, hook in _masks(model, groups, kept):
        module = model.get_submodule(path)
        if side == "out":
            module.register_forward_hook(hook)
        else:
            module.register_forward_pre_hook(hook)


def disturbed(model: nn.Module) -> nn.Module:
    """A copy with noise on all weights, which keeps a zero or constant weight from hiding a wrong index."""
    noisy = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in noisy.parameters():
            if parameter.is_floating_point():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise, alpha=0.1 * (spread or 1.0))
    return noisy


def _masks(model: nn.Module, groups: Sequence[Group], kept: Kept) -> list[tuple[str, layers.Side, Callable[..., Any]]]:
    """A hook for every layer side that loses channels, which makes its output or input that of the kept channels."""
    gone: dict[tuple[str, layers.Side], list[Tensor]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            gone[member.path, member.side].append(member.of(find_removed(group, kept), group.width))
    hooks: list[tuple[str, layers.Side, Callable[..., Any]]] = []
    for (path, side), indices in gone.items():
        module, found = layers.find(model, path, side)
        assert found is not None
        if isinstance(module, nn.ModuleList):
            hooks.extend((f"{path}.{index}", "out", _bypass) for index in torch.cat(indices).tolist())
            continue
        if found.kind in ("Attention", "Parameter"):
            continue  # the layers inside, or around, are masked
        there = torch.ones(found.size, dtype=torch.float64)
        there[torch.cat(indices)] = 0
        if isinstance(module, nn.RNNBase) and side == "out":
            _silence(module, there)
        elif isinstance(module, nn.LayerNorm):
            hooks.append((path, side, _normalise_kept(there)))
        elif isinstance(module, nn.GroupNorm) and module.num_groups == 1:
            hooks.append((path, side, _normalise_kept_maps(there)))
        else:
            hooks.append((path, side, _mask_output(there) if side == "out" else _mask_input(there)))
    return hooks


def _silence(module: nn.RNNBase, mask: Tensor) -> None:
    """Zero what proposes new states of some units of a recurrent layer: the third gate of an LSTM and of a GRU."""
    gate = min(2, layers.GATES[type(module)] - 1)
    for parameter in module.parameters(recurse=False):
        parameter[gate * len(mask) : (gate + 1) * len(mask)].mul_(mask.view(-1, *[1] * (parameter.ndim - 1)))


def scale_channels(tensor: Tensor, factors: Tensor, dim: int) -> Tensor:
    """Multiply `tensor` by one factor per channel: `factors` is (channels,) or (batch, channels)."""
    shape = [1] * tensor.ndim
    shape[dim] = tensor.shape[dim]
    if factors.ndim == 2:
        shape[0] = tensor.shape[0]
    return tensor * factors.view(shape)


def with_state(output: Any, state: Tensor) -> Any:
    """What a transformer layer returns, with another hidden state: a tensor, or a tuple that begins with it."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def _bypass(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    return with_state(output, arguments[0])


def _normalise_kept(mask: Tensor) -> Callable[..., Tensor]:
    """Layer normalisation over the kept channels, by its definition; some classes do so in dimension 1 of maps."""

    def hook(module: nn.LayerNorm, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        state = arguments[0]
        last = state.shape[-1] == len(mask) and torch.allclose(_normalise(module, state, torch.ones_like(mask)), output)
        return (
            _normalise(module, state, mask) if last else _normalise(module, state.movedim(1, -1), mask).movedim(-1, 1)
        )

    return hook


def _normalise_kept_maps(mask: Tensor) -> Callable[..., Tensor]:
    """Normalisation of all kept channels of a map together (a GroupNorm of one group), by its definition."""

    def hook(module: nn.GroupNorm, arguments: tuple[Any, ...], _: Tensor) -> Tensor:
        return _normalise(module, arguments[0].movedim(1, -1), mask, maps=True).movedim(-1, 1)

    return hook


def _normalise(module: nn.LayerNorm | nn.GroupNorm, state: Tensor, mask: Tensor, *, maps: bool = False) -> Tensor:
    """Normalise the kept channels in the last dimension, at each position or (``maps``) over all of them."""
    dims = tuple(range(1, state.ndim)) if maps else (-1,)
    count = mask.sum() * state.shape[1:-1].numel() if maps else mask.sum()
    mean = (state * mask).sum(dims, keepdim=True) / count
    variance = ((state - mean).square() * mask).sum(dims, keepdim=True) / count
    normal = (state - mean) / (variance + module.eps).sqrt()
    scale = 1.0 if module.weight is None else module.weight
    shift = 0.0 if module.bias is None else module.bias
    return (normal * scale + shift) * mask


def _mask_output(mask: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
        return scale_channels(output, mask, layers.channel_dim(module))

    return hook


def _mask_input(mask: Tensor) -> Callable[..., tuple[Any, ...]]:
    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (scale_channels(arguments[0], mask, layers.channel_dim(module)), *arguments[1:])

    return hook
