"""What models that write have in common: a cache, a beam, and the parts of the small transformers of our own.

Sizes are named N: sequences, L: symbols of one, T: symbols that attend.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compress.models.dropout import Dropout

Cache = tuple[Tensor, ...]  # keys and values, layer by layer
Beams = Annotated[int, Field(ge=1, le=64)]
LengthPenalty = Annotated[float, Field(ge=0, le=10)]
BEAM = ("beams", "length_penalty")  # fields that say how a model writes, and nothing of its weights

Width = Annotated[int, Field(ge=2, le=8192)]
Heads = Annotated[int, Field(ge=1, le=128)]
Units = Annotated[int, Field(ge=1, le=65536)]
Layers = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positions = Literal["learned", "sinusoidal"]


def refuse_uneven(width: int, heads: int) -> None:
    """Refuse heads of different widths, and a width without a cosine for each sine."""
    if width % heads or width % 2:
        raise ValueError(f"expected an even width that {heads} heads divide, got {width}")


class FeedForward(nn.Module):
    """Norm, linear, ReLU, linear; over the last axis."""

    def __init__(self, width: int, units: int, *, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout)
        self.inner, self.outer = nn.Linear(width, units), nn.Linear(units, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what is to be added."""
        return self.outer(self.dropout(F.relu(self.inner(self.norm(hidden)))))


class Attention(nn.Module):
    """Scaled dot products of several heads, on keys and values that may have been kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def project(self, hidden: Tensor) -> Cache:
        """Return keys and values, [N, heads, L, width / heads] each, of [N, L, width]."""
        return self._split(self.key(hidden)), self._split(self.value(hidden))

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        """Return the attended values, [N, T, width]; ``seen`` broadcasts to [N, heads, T, L], None means all."""
        queries = self._split(self.query(hidden))
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])
        if seen is not None:
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return self.output((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def joined(first: Cache, second: Cache) -> Cache:
    """Return keys and values of two parts of a sequence, [N, heads, L, size] each; of no first part the second's."""
    return tuple(torch.cat(pair, dim=2) for pair in zip(first, second, strict=True)) if first else second


def draw_symbols(count: int, width: int) -> nn.Embedding:
    """Return a table of symbols; where it is read, it is scaled by the root of its width (Vaswani et al. 2017, 3.4)."""
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table


def keep_rows(table: nn.Embedding, kept: Tensor) -> None:
    """Keep some symbols of a table, in place.

    Args:
        table: of symbols.
        kept: int64, their numbers, ascending.
    """
    table.weight = nn.Parameter(table.weight.detach()[kept].clone())
    table.num_embeddings = len(kept)


def add_places(module: nn.Module, width: int, *, max_length: int, positions: Positions) -> None:
    """Give a module its ``places``: a layer with weights, or a buffer."""
    if positions == "learned":
        table = nn.Embedding(max_length, width)
        nn.init.normal_(table.weight)
        module.register_module("places", table)
    else:
        module.register_buffer("places", sinusoids(max_length, width), persistent=False)


def table_of(places: nn.Module | Tensor) -> Tensor:
    """Return the rows of all positions, [max_length, width], whether they are learned or not."""
    found = places.weight if isinstance(places, nn.Embedding) else places
    assert isinstance(found, Tensor)
    return found


def draw_layers(module: nn.Module, *, head: nn.Linear) -> None:
    """Draw the weights of all linear layers anew, but for those of the output layer, which are the embedding's."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def sinusoids(length: int, width: int) -> Tensor:
    """Return sines in the first half and cosines in the second, float32 [length, width] (Vaswani et al. 2017, 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
