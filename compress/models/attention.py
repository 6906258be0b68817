"""Attention whose heads can be counted anew.

`nn.MultiheadAttention` needs as many channels in its heads as around them, and users write the numbers into reshapes. A
module that computes the same with its own linear layers, and reads the number of heads off them, can lose some: surgery
puts it in the place of attention modules that it understands. Others keep their own code where that asks attributes of
theirs for the number of heads (`Counted`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IN_PROJ = "in_proj"  # the layer that nn.MultiheadAttention keeps as a bare parameter
SEPARATE = ("q_proj", "k_proj", "v_proj")  # its thirds, where queries, keys and values are of different sequences


@dataclass(frozen=True)
class Wiring:
    """How an attention module uses its linear layers.

    Attributes:
        inputs: path in the module of the layer that writes queries, keys and values, or of the three that do.
        output: path of the layer that reads all heads.
        head_width: channels of a head.
        scale: what products of queries and keys are multiplied by.
        by_head: whether the one layer writes queries, keys and values of the first head first, instead of all queries.
        causal: whether a token sees none behind it.
        multihead: whether it is called as `nn.MultiheadAttention` is, instead of with one tensor.
        batch_first: of `nn.MultiheadAttention`.
        attention_dropout: share of the attention that training drops.
        output_dropout: share of the output that training drops.
    """

    inputs: tuple[str, ...]
    output: str
    head_width: int
    scale: float
    by_head: bool = False
    causal: bool = False
    multihead: bool = False
    batch_first: bool = True
    attention_dropout: float = 0.0
    output_dropout: float = 0.0


@dataclass(frozen=True)
class Counted:
    """Where an attention module that keeps its own code has its heads, whatever it does between these layers.

    Attributes:
        inputs: paths in the module of the layers that write queries, keys and values: one, two or three.
        output: path of the layer that reads all heads.
        units: how many heads there are of which each can leave: of keys, where several queries share one.
        by_head: whether a layer that writes several of them writes those of the first head first.
        counts: integer attributes that are multiples of the number of heads.
        widths: integer attributes that are the channels of all heads together.
        tables: paths in the module of what else has a channel for each head, or for each channel of all heads: bare
            parameters, and layers.
    """

    inputs: tuple[str, ...]
    output: str
    units: int
    by_head: bool = False
    counts: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


class Attention(nn.Module):
    """Scaled dot products (Vaswani et al., arXiv 1706.03762, section 3.2) of as many heads as the output layer reads.

    Attributes:
        wiring: which of its layers do what.
    """

    wiring: Wiring

    @property
    def output(self) -> nn.Linear:
        """The layer that reads all heads."""
        found = self.get_submodule(self.wiring.output)
        assert isinstance(found, nn.Linear)
        return found

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return self.output.in_features // self.wiring.head_width

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., T, C] of [..., T, C]."""
        return self.write(self.mix(*self.split(x, x, x), mask=None, causal=self.wiring.causal))

    def split(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [..., H, T, d] of three times tokens [..., T, C]: for each what it is of."""
        shape = (self.heads, self.wiring.head_width)
        written = [self.get_submodule(path)(x) for path, x in zip(self.wiring.inputs, given, strict=False)]
        if len(written) == 3:
            parts = [side.unflatten(-1, shape) for side in written]
        elif self.wiring.by_head:  # one layer reads one sequence
            parts = written[0].unflatten(-1, (shape[0], 3, shape[1])).unbind(-2)
        else:
            parts = written[0].unflatten(-1, (3, *shape)).unbind(-3)
        query, key, value = (side.transpose(-2, -3) for side in parts)
        return query, key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool) -> Tensor:
        """Return [..., H, T, d], values by the products of queries and keys."""
        dropped = self.wiring.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask, dropped, causal, scale=self.wiring.scale)

    def write(self, mixed: Tensor) -> Tensor:
        """Return [..., T, C] of what the heads give."""
        return F.dropout(self.output(mixed.transpose(-2, -3).flatten(-2)), self.wiring.output_dropout, self.training)


class MultiheadAttention(Attention):
    """Called as `nn.MultiheadAttention` is."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] # two ways to be called are what sets them apart
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002 - torch's own signature
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, and the attention if it is needed; arguments as torch's."""
        turned = not self.wiring.batch_first and query.dim() == 3
        parts = self.split(*(side.transpose(0, 1) if turned else side for side in (query, key, value)))
        mask = _merge(attn_mask, key_padding_mask, like=query)
        weights = None
        if need_weights:
            scores = parts[0] @ parts[1].transpose(-1, -2) * self.wiring.scale
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, self.wiring.attention_dropout, self.training) @ parts[2]
            weights = weights.mean(-3) if average_attn_weights else weights
        else:
            mixed = self.mix(*parts, mask=mask, causal=is_causal and mask is None)
        written = self.write(mixed)
        return written.transpose(0, 1) if turned else written, weights


def _merge(attention: Tensor | None, padding: Tensor | None, *, like: Tensor) -> Tensor | None:
    """Masks [T, T] and [N, T] as what is added to scores; True stands for what is not seen."""
    added: list[Tensor] = []
    for mask in (attention, None if padding is None else padding[..., None, None, :]):
        if mask is not None:
            unseen = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
            added.append(unseen if mask.dtype == torch.bool else mask.to(like.dtype))
    return sum(added[1:], added[0]) if added else None


def counted(module: nn.Module) -> Counted | None:
    """Where a module that keeps its own code has its heads, if surgery found that out."""
    found = vars(module).get("wiring")
    return found if isinstance(found, Counted) else None


def rewire(model: nn.Module, wirings: Mapping[str, Wiring | Counted]) -> None:
    """Make attention modules of a model `Attention`, in place, with their own layers and weights, or only countable.

    Args:
        model: changed.
        wirings: of its attention modules, by path.
    """
    for path, wiring in wirings.items():
        module: Any = model.get_submodule(path)
        module.wiring = wiring
        if isinstance(wiring, Counted):
            continue
        if wiring.multihead:
            layers = _take_layers(module, wiring.inputs)
            for name in ("in_proj_weight", "in_proj_bias", *(f"{name}_weight" for name in SEPARATE)):
                delattr(module, name)
                module.register_parameter(name, None)
            for name, layer in layers.items():
                module.add_module(name, layer)
            module._qkv_same_embed_dim = False  # layers around it have one kernel for the whole, and ask
        module.__class__ = MultiheadAttention if wiring.multihead else Attention
    for module in model.modules():
        if wirings and isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _take_layers(module: Any, names: tuple[str, ...]) -> dict[str, nn.Linear]:
    """Return the bare parameters of an `nn.MultiheadAttention` as linear layers: as one, or its thirds."""
    weights, biases = [module.in_proj_weight], [module.in_proj_bias]
    if names == SEPARATE:
        whole = module.in_proj_weight
        weights = [getattr(module, f"{name}_weight") for name in names] if whole is None else _thirds(whole)
        biases = [None] * 3 if biases[0] is None else _thirds(biases[0])
    layers = {}
    for name, weight, bias in zip(names, weights, biases, strict=True):
        layers[name] = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layers[name].weight, layers[name].bias = weight, bias
    return layers


def _thirds(whole: nn.Parameter) -> list[nn.Parameter]:
    return [nn.Parameter(part.clone(), requires_grad=whole.requires_grad) for part in whole.detach().chunk(3)]


def wirings_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the wiring of every attention module whose heads can be counted, as JSON values by path."""
    return {
        path: asdict(found)
        for path, part in model.named_modules()
        if isinstance(found := vars(part).get("wiring"), Wiring | Counted)
    }


def read_wirings(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Wiring | Counted]:
    """Return what `wirings_of` gave, read back from JSON."""
    tuples: dict[str, dict[str, Any]] = {
        path: {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for path, values in stored.items()
    }
    return {path: (Counted if "units" in values else Wiring)(**values) for path, values in tuples.items()}
