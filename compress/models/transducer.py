"""A small encoder-decoder transformer that writes one sequence of symbols from another (Vaswani et al. 2017).

Pre-norm (Xiong et al. 2020, arXiv 2002.04745), the output layer tied to the target embedding (Press and Wolf 2017).
Sizes are named N: sequences, S: source length, T: target length, V: target symbols, P: target symbols already read.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ModelError
from compress.models.dropout import Dropout
from compress.models.spec import Model, read_symbols
from compress.tasks.signature import Signature
from compress.tasks.task import Task
from compress.tasks.transduction import ANSWERING

Positions = Literal["learned", "sinusoidal"]
Cache = tuple[Tensor, ...]  # keys and values, layer by layer


class EncoderDecoder(Model):
    """A transducer: pre-norm layers of attention and feed-forward, fewer of them where it writes.

    Attributes:
        width: of the residual stream; a multiple of ``heads``.
        heads: of every attention.
        feed_forward: units between the two layers of each feed-forward block.
        encoder_layers: read the source, once a sequence.
        decoder_layers: run once for each symbol that is written.
        dropout: probability of zeroing a number of an embedding, of a block's output or between its layers, [0, 1).
        max_length: the longest source, and the longest target with its end.
        positions: a table that is learned, or sines and cosines.
        beams: texts that are followed for each source when it is deployed; 1 takes the likeliest symbol each time.
        length_penalty: of such a beam: a text ranks by its log-probability over its length to this power.
    """

    family: Literal["transducer"] = "transducer"
    width: Annotated[int, Field(ge=2, le=8192)] = 128
    heads: Annotated[int, Field(ge=1, le=128)] = 4
    feed_forward: Annotated[int, Field(ge=1, le=65536)] = 512
    encoder_layers: Annotated[int, Field(ge=1, le=64)] = 3
    decoder_layers: Annotated[int, Field(ge=1, le=64)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_length: Annotated[int, Field(ge=4, le=100_000)] = 256
    positions: Positions = "learned"
    beams: Annotated[int, Field(ge=1, le=64)] = 1
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0

    def model_post_init(self, _context: object) -> None:
        """Refuse heads of different widths."""
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"expected an even width that {self.heads} heads divide, got {self.width}")

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with freshly drawn weights.

        Raises:
            ModelError: when the task does not read a source and write a target.
        """
        return Transducer(
            source_symbols=read_symbols(signature, ANSWERING, family=self.family),
            target_symbols=len(signature.classes),
            **self.model_dump(exclude={"family", "beams", "length_penalty"}),
        )

    @property
    def writing(self) -> Mapping[str, Any]:
        """Its beam."""
        return {"beams": self.beams, "length_penalty": self.length_penalty}

    def check(self, module: nn.Module, task: Task, *, where: object) -> None:
        """Refuse sequences that are longer than there are positions.

        Raises:
            ModelError: when the task's limit is above the model's.
        """
        assert isinstance(module, Transducer)
        limits = task.token_limits
        if limits is not None and limits[1] > module.max_length:
            raise ModelError(
                "the model has too few positions",
                expected=f"max_length {limits[1]} or more, as data.symbols has it",
                got=module.max_length,
                where=where,
            )


class Transducer(nn.Module):
    """Source ids [N, S] and target ids [N, T] to logits [N, T, V]; or step by step, with keys and values kept."""

    def __init__(
        self,
        *,
        source_symbols: int,
        target_symbols: int,
        width: int,
        heads: int,
        feed_forward: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float = 0.0,
        max_length: int = 256,
        positions: Positions = "learned",
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.source = Embedding(source_symbols, width, dropout=dropout, max_length=max_length, positions=positions)
        self.target = Embedding(target_symbols, width, dropout=dropout, max_length=max_length, positions=positions)
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward, "dropout": dropout}
        self.encoder = nn.ModuleList(EncoderLayer(**sizes) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(DecoderLayer(**sizes) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, target_symbols, bias=False)
        self.head.weight = self.target.symbols.weight
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and layer is not self.head:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, source_ids: Tensor, source_mask: Tensor, target_ids: Tensor) -> Tensor:
        """Return the logits of the symbol after each of the target's, [N, T, V].

        Args:
            source_ids: int64 [N, S].
            source_mask: int64 [N, S], 0 for padding.
            target_ids: int64 [N, T], the sign of the beginning first; padding comes last and changes nothing before it.
        """
        length = target_ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=target_ids.device).tril()
        hidden, _ = self._decode(target_ids, source_mask, self.encode(source_ids, source_mask), (), seen=seen)
        return self.head(hidden)

    def encode(self, source_ids: Tensor, source_mask: Tensor) -> Cache:
        """Return what the decoder's layers read of a source: keys and values of each, [N, heads, S, width / heads].

        Args:
            source_ids: int64 [N, S].
            source_mask: int64 [N, S], 0 for padding.
        """
        hidden, seen = self.source(source_ids), _heads_of(source_mask)
        for layer in self.encoder:
            hidden = layer(hidden, seen)
        hidden = self.encoder_norm(hidden)
        return tuple(part for layer in self.decoder for part in layer.cross.project(hidden))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    def step(self, token: Tensor, source_mask: Tensor, cross: Cache, past: Cache) -> tuple[Tensor, Cache]:
        """Return the logits of the next symbol, [N, V], and what to give as ``past`` with it.

        Args:
            token: int64 [N, 1], the last symbol; the sign of the beginning at first.
            source_mask: int64 [N, S], 0 for padding.
            cross: what ``encode`` returned.
            past: keys and values of each layer, [N, heads, P, width / heads]; P is 0 at first.
        """
        hidden, present = self._decode(token, source_mask, cross, past, seen=None)
        return self.head(hidden[:, -1]), present

    def empty_past(self, cross: Cache) -> Cache:
        """Return the keys and values of no symbol, [N, heads, 0, size]; of each layer's own number of heads."""
        layers: list[Any] = [*self.decoder]
        shapes = [(len(cross[0]), layer.attention.num_heads, 0, cross[0].shape[3]) for layer in layers]
        return tuple(cross[0].new_zeros(shape) for shape in shapes for _ in ("keys", "values"))

    def keep_symbols(self, source: Tensor, target: Tensor) -> None:
        """Keep some symbols, in place, in ascending order.

        Args:
            source: int64, their numbers, of those that are read.
            target: of those that are written; embedding and output layer stay one.
        """
        for table, kept in ((self.source.symbols, source), (self.target.symbols, target)):
            table.weight = nn.Parameter(table.weight.detach()[kept].clone())
            table.num_embeddings = len(kept)
        self.head.weight, self.head.out_features = self.target.symbols.weight, len(target)

    @property
    def reader(self) -> tuple[nn.Module, ...]:
        """What reads a source, without what the decoder's layers make of it."""
        return self.source, self.encoder, self.encoder_norm

    def _decode(
        self, ids: Tensor, source_mask: Tensor, cross: Cache, past: Cache, *, seen: Tensor | None
    ) -> tuple[Tensor, Cache]:
        """Return the last layer's output and all layers' keys and values."""
        read, source_seen = past[0].shape[2] if past else 0, _heads_of(source_mask)
        hidden = self.target(ids, start=read)
        present: list[Tensor] = []
        for number, layer in enumerate(self.decoder):
            pair = slice(2 * number, 2 * number + 2)
            hidden, kept = layer(hidden, seen, past[pair], cross[pair], source_seen)
            present += kept
        return self.decoder_norm(hidden), tuple(present)


class Embedding(nn.Module):
    """Ids [N, L] to symbols and positions, [N, L, width]."""

    def __init__(self, symbols: int, width: int, *, dropout: float, max_length: int, positions: Positions) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        nn.init.normal_(self.symbols.weight, std=width**-0.5)
        self.scale = math.sqrt(width)  # as Vaswani et al. scale what is tied to the output layer
        if positions == "learned":
            self.places = nn.Embedding(max_length, width)
            nn.init.normal_(self.places.weight)
        else:
            self.register_buffer("places", sinusoids(max_length, width), persistent=False)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Return the embeddings of symbols that begin at a position."""
        places = self.places.weight if isinstance(self.places, nn.Embedding) else self.places
        assert isinstance(places, Tensor)
        return self.dropout(self.symbols(ids) * self.scale + places[start : start + ids.shape[1]])


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, [N, S, width] to [N, S, width]."""

    def __init__(self, *, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward = FeedForward(width, feed_forward, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """Return the layer's output; ``seen`` is false where there is padding, [N, 1, 1, S]."""
        normed = self.attention_norm(hidden)
        hidden = hidden + self.dropout(self.attention(normed, *self.attention.project(normed), seen))
        return hidden + self.dropout(self.feed_forward(hidden))


class DecoderLayer(nn.Module):
    """Attention to what was written, attention to the source, feed-forward: [N, T, width] to [N, T, width]."""

    def __init__(self, *, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward = FeedForward(width, feed_forward, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(
        self, hidden: Tensor, seen: Tensor | None, past: Cache, cross: Cache, source_seen: Tensor
    ) -> tuple[Tensor, Cache]:
        """Return the layer's output, and the keys and values of all symbols so far."""
        normed = self.attention_norm(hidden)
        present = self.attention.project(normed)
        if past:
            present = tuple(torch.cat([old, new], dim=2) for old, new in zip(past, present, strict=True))
        hidden = hidden + self.dropout(self.attention(normed, *present, seen))
        hidden = hidden + self.dropout(self.cross(self.cross_norm(hidden), *cross, source_seen))
        return hidden + self.dropout(self.feed_forward(hidden)), present


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


def sinusoids(length: int, width: int) -> Tensor:
    """Return sines in the first half and cosines in the second, float32 [length, width] (Vaswani et al. 2017, 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def _heads_of(mask: Tensor) -> Tensor:
    """Return which positions are no padding, for all heads and queries, bool [N, 1, 1, L]."""
    return (mask != 0)[:, None, None]
