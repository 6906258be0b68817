"""Find attention modules whose heads could leave, by what they compute, and put countable ones in their place.

`nn.MultiheadAttention` is known. Of a user's module, nothing is taken from its names: it has one linear layer that
writes queries, keys and values, or three, and one that reads all heads; what it gives on a sample must be what
`models.attention` gives with these layers, in float64. So must be what the whole model gives.

Lacks on purpose: attention between two sequences, relative positions that are added to scores, rotary ones, and
normalised queries.
"""

import copy
import math
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.attention import IN_PROJ, Attention, Wiring, rewire
from compress.models.fold import duplicate
from compress.surgery import encoders
from compress.surgery.groups import Group, Member
from compress.surgery.verify import outputs

EQUAL = 1e-10  # as a fraction of the largest output, in float64
MAX_TRIED = 400  # readings of one module


def rewired(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy with countable attention; the model itself where there is none that is understood, or it changes.

    Args:
        model: not changed.
        inputs: positional arguments for one call, the batch in dimension 0.
    """
    if not any(True for _ in _candidates(model)) or encoders.encoder(model) is not None:
        return model
    exact = duplicate(model).cpu().double().eval()
    few = tuple((tensor.double() if tensor.is_floating_point() else tensor).cpu()[:2] for tensor in inputs)
    wirings = _read(exact, few)
    if not wirings:
        return model
    changed = duplicate(exact)
    rewire(changed, wirings)
    with torch.no_grad():
        for before, after in zip(outputs(exact, few), outputs(changed, few), strict=True):
            if not _same(after, before):
                return model
    made = duplicate(model)
    rewire(made, wirings)
    return made


def heads(model: nn.Module) -> list[Group]:
    """Return a group for every countable attention module with more than one head, in the model's order."""
    found = []
    for path, part in model.named_modules():
        if not isinstance(part, Attention) or part.heads < 2:
            continue
        wiring, width = part.wiring, part.output.in_features
        channels = torch.arange(width)
        if len(wiring.inputs) == 3:
            written = [(name, channels, channels) for name in wiring.inputs]
        else:
            rows = torch.arange(3 * width)
            if wiring.by_head:
                at = rows.view(-1, 3, wiring.head_width).transpose(0, 1).flatten()
                written = [(wiring.inputs[0], channels.repeat(3), at)]
            else:
                written = [(wiring.inputs[0], channels.repeat(3), rows)]
        members = [
            Member(path, "out", "Attention", channels, channels),
            *(Member(f"{path}.{name}", "out", "Linear", *pairs) for name, *pairs in written),
            Member(f"{path}.{wiring.output}", "in", "Linear", channels, channels),
        ]
        atoms, blocks = channels // wiring.head_width, torch.zeros(width, dtype=torch.int64)
        found.append(Group(path, width, tuple(members), atoms, blocks, kind="heads"))
    return found


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that may be attention, by their layers alone."""
    for path, part in model.named_modules():
        if type(part) is nn.MultiheadAttention:
            plain = part.in_proj_weight is not None and part.bias_k is None and not part.add_zero_attn
            if path and plain:
                yield path, part
        elif path and _layers(part) is not None:
            yield path, part


def _layers(part: nn.Module) -> tuple[list[str], str] | None:
    """The layers that write queries, keys and values, and the one that reads all heads, of a user's module."""
    if isinstance(part, Attention) or type(part).__module__.startswith("torch.nn"):
        return None
    linear = {name: child for name, child in part.named_modules() if isinstance(child, nn.Linear)}
    if len(linear) not in (2, 4) or not any(isinstance(value, int) for value in vars(part).values()):
        return None
    owned = {id(parameter) for layer in linear.values() for parameter in layer.parameters(recurse=False)}
    if any(id(parameter) not in owned for parameter in part.parameters()):
        return None
    *inputs, output = linear
    rows = [linear[name].out_features for name in inputs]
    return (inputs, output) if {sum(rows)} == {3 * linear[output].in_features} and len({*rows}) == 1 else None


def _read(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Wiring]:
    """The wiring of every candidate that is understood, after one call of the model."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}

    def record(path: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            calls.setdefault(path, (arguments, named, output))

        return hook

    found = dict(_candidates(model))
    hooks = [part.register_forward_hook(record(path), with_kwargs=True) for path, part in found.items()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whole layers in one kernel call none of their modules
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception:  # noqa: BLE001 - a model's own code may raise anything, and whoever cuts it will say so
        return {}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    wirings: dict[str, Wiring] = {}
    for path, call in calls.items():
        part = found[path]
        wiring = _known(part, call) if isinstance(part, nn.MultiheadAttention) else _find(part, call)
        if wiring is not None:
            wirings[path] = wiring
    return wirings


def _known(part: nn.MultiheadAttention, call: tuple[tuple[Any, ...], dict[str, Any], Any]) -> Wiring | None:
    arguments, named, _ = call
    given = [*arguments, *(named[name] for name in ("query", "key", "value") if name in named)]
    mask = named.get("attn_mask", arguments[5] if len(arguments) > 5 else None)
    if not (given[0] is given[1] is given[2]) or (mask is not None and mask.dim() != 2):
        return None
    return Wiring(
        inputs=(IN_PROJ,),
        output="out_proj",
        head_width=part.embed_dim // part.num_heads,
        scale=(part.embed_dim // part.num_heads) ** -0.5,
        multihead=True,
        batch_first=part.batch_first,
        attention_dropout=part.dropout,
    )


def _find(part: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any], Any]) -> Wiring | None:
    """The first reading that gives what a user's module gave."""
    arguments, named, output = call
    layers = _layers(part)
    given = [value for value in (*arguments, *named.values()) if value is not None]
    if layers is None or len(arguments) < 1 or len(given) != 1 or not isinstance(output, Tensor):
        return None
    if not isinstance(given[0], Tensor) or given[0].dim() < 3:
        return None
    for count, wiring in enumerate(_readings(part, *layers)):
        if count == MAX_TRIED:
            return None
        trial = copy.deepcopy(part)
        rewire(nn.ModuleDict({"part": trial}), {"part": wiring})
        with torch.no_grad():
            if _same(trial(given[0]), output):
                return wiring
    return None


def _readings(part: nn.Module, inputs: list[str], output: str) -> Iterator[Wiring]:
    reader = part.get_submodule(output)
    assert isinstance(reader, nn.Linear)
    width = reader.in_features
    said: list[Any] = list(vars(part).values())
    whole = {value for value in said if isinstance(value, int) and not isinstance(value, bool)}
    numbers = {value for value in said if isinstance(value, float)}
    dropped = {name: child.p for name, child in part.named_modules() if isinstance(child, nn.Dropout)}
    shares = [[p for name, p in dropped.items() if ("att" in name) == attends] for attends in (True, False)]
    orders = [*permutations(inputs)] if len(inputs) == 3 else [tuple(inputs)]
    for heads_, order in product(sorted(value for value in whole if value > 0 and width % value == 0), orders):
        size = width // heads_
        scales = dict.fromkeys((size**-0.5, *sorted(numbers), width**-0.5, 1.0))
        for scale, by_head, causal in product(scales, (False, True) if len(order) == 1 else (False,), (False, True)):
            yield Wiring(
                inputs=order,
                output=output,
                head_width=size,
                scale=scale,
                by_head=by_head,
                causal=causal,
                attention_dropout=max(shares[0], default=0.0),
                output_dropout=max(shares[1], default=0.0),
            )


def _same(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    scale = float(wanted.abs().max())
    return math.isfinite(scale) and float((found - wanted).abs().max()) <= EQUAL * scale
