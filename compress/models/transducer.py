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

from compress.errors import ModelError
from compress.models.dropout import Dropout
from compress.models.spec import Model, read_symbols
from compress.models.writing import (
    BEAM,
    Attention,
    Beams,
    Cache,
    FeedForward,
    Heads,
    Layers,
    LengthPenalty,
    Positions,
    Share,
    Units,
    Width,
    add_places,
    draw_layers,
    draw_symbols,
    joined,
    keep_rows,
    refuse_uneven,
    table_of,
)
from compress.tasks.signature import Signature
from compress.tasks.task import Task
from compress.tasks.transduction import ANSWERING


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
    width: Width = 128
    heads: Heads = 4
    feed_forward: Units = 512
    encoder_layers: Layers = 3
    decoder_layers: Layers = 1
    dropout: Share = 0.1
    max_length: Annotated[int, Field(ge=4, le=100_000)] = 256
    positions: Positions = "learned"
    beams: Beams = 1
    length_penalty: LengthPenalty = 1.0

    def model_post_init(self, _context: object) -> None:
        """Refuse heads of different widths."""
        refuse_uneven(self.width, self.heads)

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with freshly drawn weights.

        Raises:
            ModelError: when the task does not read a source and write a target.
        """
        return Transducer(
            source_symbols=read_symbols(signature, ANSWERING, family=self.family),
            target_symbols=len(signature.classes),
            **self.model_dump(exclude={"family", *BEAM}),
        )

    @property
    def writing(self) -> Mapping[str, Any]:
        """Its beam."""
        return self.model_dump(include={*BEAM})

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
        draw_layers(self, head=self.head)

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
        keep_rows(self.source.symbols, source)
        keep_rows(self.target.symbols, target)
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
        self.symbols, self.scale = draw_symbols(symbols, width), math.sqrt(width)
        add_places(self, width, max_length=max_length, positions=positions)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Return the embeddings of symbols that begin at a position."""
        places = table_of(self.places)[start : start + ids.shape[1]]
        return self.dropout(self.symbols(ids) * self.scale + places)


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
        present = joined(past, self.attention.project(normed))
        hidden = hidden + self.dropout(self.attention(normed, *present, seen))
        hidden = hidden + self.dropout(self.cross(self.cross_norm(hidden), *cross, source_seen))
        return hidden + self.dropout(self.feed_forward(hidden)), present


def _heads_of(mask: Tensor) -> Tensor:
    """Return which positions are no padding, for all heads and queries, bool [N, 1, 1, L]."""
    return (mask != 0)[:, None, None]
