"""Lists of layers that become shorter: which layers stay, and what a model has to know of that."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import nn

Count = Annotated[int, Field(ge=1, le=1000)]
Spread = Literal["first", "last", "evenly"]

# A configuration's number of layers, by its families that have a name of their own for it, and by side.
COUNTS = {"t5": ("num_layers", "num_decoder_layers"), "mt5": ("num_layers", "num_decoder_layers")}
COUNTS_ELSE = ("encoder_layers", "decoder_layers")
KIND = "attention_type"  # of a layer of transformers: whether it sees all tokens or those around, as `layer_types` says


def spread(count: int, kept: int, *, how: Spread) -> list[int]:
    """Return which of some layers are kept, ascending: the first, the last, or evenly spread ones."""
    if how == "evenly":
        return [int(position) for position in np.linspace(0, count - 1, kept).round()]
    return [*range(kept)] if how == "first" else [*range(count - kept, count)]


def keep_layers(module: nn.Module, path: str, kept: Sequence[int]) -> None:
    """Keep some layers of a list of layers, in place; a transformers configuration counts them from then on.

    Layers that number themselves, for their place in a cache, are numbered anew. What the first layer of T5 has for all
    of them, the table of relative positions, goes to the new first one.

    Args:
        module: a model.
        path: of an ``nn.ModuleList`` in it.
        kept: positions in the list, ascending.
    """
    layers = module.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    before, remaining = len(layers), [layers[index] for index in kept]
    _pass_bias_on(layers[0], remaining[0])
    del layers[:]
    layers.extend(remaining)
    for position, layer in enumerate(remaining):
        for part in layer.modules():
            if "layer_idx" in vars(part):
                vars(part)["layer_idx"] = position
    _count(module, path, before=before, kept=kept)
    say_kinds(module, path)


def say_kinds(module: nn.Module, path: str) -> None:
    """Say in the configurations of what kind each layer of a list is, in place, where they say so."""
    layers = module.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    kinds = [vars(layer)[KIND] for layer in layers if KIND in vars(layer)]
    configs: list[Any] = [found for part in module.modules() if (found := getattr(part, "config", None)) is not None]
    for config in configs if kinds else ():
        if getattr(config, "layer_types", None) is not None and config.num_hidden_layers == len(kinds):
            config.layer_types = kinds


def _pass_bias_on(before: nn.Module, after: nn.Module) -> None:
    """Give the new first layer of T5 the table of relative positions that the old one has for all of them."""
    tables = [path for path, _ in before.named_modules() if path.endswith(".relative_attention_bias")]
    if before is after or len(tables) != 1:
        return
    attention = tables[0].rpartition(".")[0]
    new = after.get_submodule(attention)
    new.relative_attention_bias = before.get_submodule(tables[0])
    vars(new)["has_relative_attention_bias"] = True


def _count(module: nn.Module, path: str, *, before: int, kept: Sequence[int]) -> None:
    """Say in the configurations how many layers there are, and of what kind each is where they say so."""
    configs: list[Any] = [found for part in module.modules() if (found := getattr(part, "config", None)) is not None]
    whole = next((config for config in configs if getattr(config, "is_encoder_decoder", False)), None)
    if whole is None:
        named = [(config, "num_hidden_layers") for config in configs]
    else:
        names = COUNTS.get(whole.model_type, COUNTS_ELSE)
        named = [(whole, names["decoder" in path.split(".")])]
    for config, name in named:
        if getattr(config, name, None) == before:
            setattr(config, name, len(kept))
            if whole is None and len(getattr(config, "layer_types", None) or ()) == before:
                config.layer_types = [config.layer_types[position] for position in kept]
