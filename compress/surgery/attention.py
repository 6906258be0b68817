"""Find attention modules whose heads could leave, by what they compute, and make them countable.

`nn.MultiheadAttention` is known, with keys and values of another sequence too. Of a user's module, nothing is taken
from its names: it has one layer that writes queries, keys and values, or two or three, and one that reads all heads.
Where it gives on a sample, in float64, what `models.attention` gives with these layers, that takes its place; what
the whole model gives must be the same, too.

Any other keeps its code, with whatever it does between its layers: rotary positions, biases added to scores, windows,
norms of queries and keys, keys that several queries share, keys and values of another sequence. Its number of heads is
looked for among its integers: where a copy with fewer of them, and fewer channels, gives what the module gives with the
others silenced, they were found. Code that divides the width of what it is given by the number of heads fails that.

Lacks on purpose: one key head for all queries, fused layers in which keys have fewer heads than queries, and layers of
which the code takes the weights alone, without calling them.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.attention import IN_PROJ, SEPARATE, Attention, Counted, Wiring, counted, rewire
from compress.models.fold import duplicate
from compress.surgery import cut, layers, verify
from compress.surgery.groups import Group, Member
from compress.surgery.maps import is_mapped
from compress.surgery.verify import outputs

EQUAL = 1e-10  # as a fraction of the largest output, in float64
MAX_TRIED = 400  # readings of one module
WRITTEN = {1: (3,), 2: (1, 2), 3: (1, 1, 1)}  # queries, keys, values: how many of them each of the layers writes

Call = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional and named arguments of a module's call, and what it returned."""


def rewired(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy with countable attention; the model itself where there is none that is understood, or it changes.

    Args:
        model: not changed.
        inputs: positional arguments for one call, the batch in dimension 0.
    """
    if not any(True for _ in _candidates(model)) or is_mapped(model):
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
        if isinstance(part, Attention) and part.heads > 1:
            found.append(_made_anew(path, part))
        elif (wiring := counted(part)) is not None and wiring.units > 1:
            found.append(_only_counted(model, path, wiring))
    return found


def _made_anew(path: str, part: Attention) -> Group:
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
    return Group(path, width, tuple(members), atoms, blocks, kind="heads")


def _only_counted(model: nn.Module, path: str, wiring: Counted) -> Group:
    """Every layer has equally many channels for each unit, whose first channel in the group stands for all."""
    width = layers.read_width(model.get_submodule(f"{path}.{wiring.output}"))
    unit = width // wiring.units
    channels = torch.arange(width)
    members = [Member(path, "out", "Attention", channels, channels)]
    sides: list[tuple[str, layers.Side]] = [(name, "out") for name in (*wiring.inputs, *wiring.tables)]
    for name, side in [*sides, (wiring.output, "in")]:
        found = layers.find(model, f"{path}.{name}", side)[1]
        assert found is not None
        indices = torch.arange(found.size)
        # Queries, keys and values of one layer follow each other as wholes, or head by head.
        whole = WRITTEN[len(wiring.inputs)][wiring.inputs.index(name)] if name in wiring.inputs else 1
        size = found.size if wiring.by_head else found.size // whole
        of = indices % size // (size // wiring.units) * unit
        members.append(Member(f"{path}.{name}", side, found.kind, of, indices))
    atoms, blocks = channels // unit, torch.zeros(width, dtype=torch.int64)
    return Group(path, width, tuple(members), atoms, blocks, kind="heads")


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that may be attention, by their layers alone."""
    for path, part in model.named_modules():
        if type(part) is nn.MultiheadAttention:
            if path and part.bias_k is None and not part.add_zero_attn:
                yield path, part
        elif path and (_layers(part) is not None or next(_countings(part), None) is not None):
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


def _read(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Wiring | Counted]:
    """The wiring of every candidate that is understood, after one call of the model."""
    calls: dict[str, Call] = {}

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
    wirings: dict[str, Wiring | Counted] = {}
    for path, call in sorted(calls.items(), key=lambda item: -item[0].count(".")):
        if any(inner.startswith(f"{path}.") for inner in wirings):
            continue  # it holds the attention
        part = found[path]
        if isinstance(part, nn.MultiheadAttention):
            wiring = _known(part, call)
        else:
            wiring = _find(part, call) or _count(part, call)
        if wiring is not None:
            wirings[path] = wiring
    return wirings


def _count(part: nn.Module, call: Call) -> Counted | None:
    """The first counting with which the module has fewer heads as if the others were silent."""
    for count, wiring in enumerate(dict.fromkeys(_countings(part))):
        if count == MAX_TRIED:
            return None
        if _counts(part, wiring, call):
            return wiring
    return None


def _counts(part: nn.Module, wiring: Counted, call: Call) -> bool:
    model = verify.disturbed(nn.ModuleDict({"part": part}))
    rewire(model, {"part": wiring})
    groups = heads(model)
    scores = torch.rand(groups[0].width, generator=torch.Generator().manual_seed(0))
    kept = {"part": groups[0].pick(scores, groups[0].unit * (wiring.units // 2))}
    smaller, silent = copy.deepcopy(model), model
    verify.mask(silent, groups, kept)
    arguments, named, _ = call
    try:
        with torch.no_grad():
            cut.apply(smaller, groups, kept)
            got, wanted = (each.get_submodule("part")(*arguments, **named) for each in (smaller, silent))
    except Exception:  # noqa: BLE001 - a wrong number of heads may make a model's own code raise anything
        return False
    got, wanted = (each[0] if isinstance(each, tuple) else each for each in (got, wanted))
    return isinstance(got, Tensor) and isinstance(wanted, Tensor) and _same(got, wanted)


def _countings(part: nn.Module) -> Iterator[Counted]:
    """Ways to count heads that fit the numbers of a user's module and the sizes of its layers."""
    if isinstance(part, Attention) or type(part).__module__.startswith("torch.nn"):
        return
    said = {name: value for name, value in vars(part).items() if type(value) is int and value > 1}
    named = sorted(said, key=lambda name: "head" not in name)  # where to look first, no more
    mixing = {
        name: child
        for name, child in part.named_modules()
        if isinstance(child, nn.Linear | nn.Conv1d | nn.Conv2d)
        and (isinstance(child, nn.Linear) or (child.groups == 1 and {*child.kernel_size} == {1}))
    }
    for number in dict.fromkeys(said[name] for name in named):
        inner = {name: layer for name, layer in mixing.items() if _written(layer) != number}
        *inputs, output = inner or {"": None}
        if not inputs or len(inputs) not in WRITTEN or not (width := layers.read_width(mixing[output])):
            continue
        for count in dict.fromkeys((number, width // number)):
            units = _units([_written(inner[name]) for name in inputs], width, count)
            if units is None:
                continue
            equal = [name for name in named if said[name] in (count, units)]
            wholes = tuple(name for name in named if said[name] == width)
            tables = tuple(name for name in _tables(part, mixing, count) if name not in inner)
            yield from (
                Counted(tuple(inputs), output, units, by_head, counts, widths, listed)
                for listed, widths, counts, by_head in product(
                    dict.fromkeys((tables, ())),
                    dict.fromkeys(((), wholes)),
                    dict.fromkeys((tuple(name for name in equal if "head" in name), tuple(equal), ())),
                    (False, True) if len(inputs) < 3 else (False,),
                )
            )


def _units(written: Sequence[int], width: int, heads_: int) -> int | None:
    """How many heads of keys there are; None where the sizes of the layers are not those of attention."""
    if heads_ < 2 or width % heads_:
        return None
    size = width // heads_
    of_keys = {1: written[0] - 2 * width, 2: written[-1] // 2, 3: written[-1]}[len(written)]
    sizes = {1: [3 * width], 2: [width, 2 * of_keys], 3: [width, of_keys, of_keys]}[len(written)]
    units, rest = divmod(of_keys, size)
    return None if [*written] != sizes or rest or units < 2 or heads_ % units else units


def _written(layer: nn.Module) -> int:
    found = layers.layout(layer, "out")
    return 0 if found is None else found.size


def _tables(part: nn.Module, mixing: Mapping[str, nn.Module], number: int) -> tuple[str, ...]:
    """What has as many channels as there are heads, in the order of the module's parts."""
    made = [name for name, child in mixing.items() if _written(child) == number]
    made += [
        name
        for name, child in part.named_modules()
        if isinstance(child, nn.Embedding) and child.embedding_dim == number
    ]
    owners = {path: child for path, child in part.named_modules() if layers.layout(child, "out") is None or not path}
    bare = [
        f"{path}.{name}" if path else name
        for path, child in owners.items()
        for name, _ in child.named_parameters(recurse=False)
    ]
    sizes = {name: found.size for name in bare if (found := layers.place(part, name)[1]) is not None}
    return (*made, *(name for name, size in sizes.items() if size == number))


def _known(part: nn.MultiheadAttention, call: Call) -> Wiring | None:
    arguments, named, _ = call
    given = [*arguments, *(named[name] for name in ("query", "key", "value") if name in named)]
    mask = named.get("attn_mask", arguments[5] if len(arguments) > 5 else None)
    if mask is not None and mask.dim() != 2:
        return None
    return Wiring(
        inputs=(IN_PROJ,) if given[0] is given[1] is given[2] else SEPARATE,
        output="out_proj",
        head_width=part.embed_dim // part.num_heads,
        scale=(part.embed_dim // part.num_heads) ** -0.5,
        multihead=True,
        batch_first=part.batch_first,
        attention_dropout=part.dropout,
    )


def _find(part: nn.Module, call: Call) -> Wiring | None:
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
