"""A small causal transformer that continues one sequence of symbols: a prompt, then its completion.

It writes by the functions that an encoder-decoder writes by (`compress.models.transducer`). Its ``encode`` reads the
prompt, and what ``step`` reads of it are the keys and values of the same layers. So prompts are padded on the right as
sources are, and no position depends on what a sequence is batched with: a completion counts on from the end of its own
prompt. Pre-norm, the output layer tied to the embedding.

Sizes are named N: sequences, S: symbols of a prompt, T: symbols of a completion, V: symbols there are, P: symbols of
the completion that were read.
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
from compress.tasks.transduction import CONTINUING


class DecoderOnly(Model):
    """A causal transformer: pre-norm layers of attention to what was before, and feed-forward.

    The sign of the beginning stands between a prompt and its completion.

    Attributes:
        width: of the residual stream; a multiple of ``heads``.
        heads: of every attention.
        feed_forward: units between the two layers of each feed-forward block.
        decoder_layers: run once for each symbol that is written.
        dropout: probability of zeroing a number of an embedding, of a block's output or between its layers, [0, 1).
        max_length: symbols of the longest prompt and the longest completion together, the end among them.
        positions: a table that is learned, or sines and cosines.
        beams: texts that are followed for each prompt when it is deployed; 1 takes the likeliest symbol each time.
        length_penalty: of such a beam: a text ranks by its log-probability over its length to this power.
    """

    family: Literal["causal"] = "causal"
    width: Width = 128
    heads: Heads = 4
    feed_forward: Units = 512
    decoder_layers: Layers = 4
    dropout: Share = 0.1
    max_length: Annotated[int, Field(ge=8, le=200_000)] = 512
    positions: Positions = "learned"
    beams: Beams = 1
    length_penalty: LengthPenalty = 1.0

    def model_post_init(self, _context: object) -> None:
        """Refuse heads of different widths."""
        refuse_uneven(self.width, self.heads)

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the network with freshly drawn weights.

        Raises:
            ModelError: when the task does not continue prompts.
        """
        read_symbols(signature, CONTINUING, family=self.family)
        return CausalTransformer(symbols=len(signature.classes), **self.model_dump(exclude={"family", *BEAM}))

    @property
    def writing(self) -> Mapping[str, Any]:
        """Its beam."""
        return self.model_dump(include={*BEAM})

    def check(self, module: nn.Module, task: Task, *, where: object) -> None:
        """Refuse prompts with completions that are longer than there are positions.

        Raises:
            ModelError: when the task's limits are above the model's.
        """
        assert isinstance(module, CausalTransformer)
        refuse_long(task, module.max_length, where=where)


def refuse_long(task: Task, positions: int, *, where: object) -> None:
    """Refuse a task whose longest prompt and longest completion have more symbols together than there are positions.

    Raises:
        ModelError: saying how many there are.
    """
    limits = task.token_limits
    if limits is not None and 2 * limits[1] > positions:
        raise ModelError(
            "the model has too few positions for a prompt and its completion",
            expected=f"twice the task's max_length of {limits[1]}, that is {2 * limits[1]}, or more",
            got=positions,
            where=where,
            hint=f"set max_length under data.symbols, or data.tokenize, to at most {positions // 2}",
        )


class CausalTransformer(nn.Module):
    """Prompt ids [N, S] and completion ids [N, T] to logits [N, T, V]; or step by step, with keys and values kept."""

    def __init__(
        self,
        *,
        symbols: int,
        width: int,
        heads: int,
        feed_forward: int,
        decoder_layers: int,
        dropout: float = 0.0,
        max_length: int = 512,
        positions: Positions = "learned",
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.symbols, self.scale = draw_symbols(symbols, width), math.sqrt(width)
        add_places(self, width, max_length=max_length, positions=positions)
        self.dropout = Dropout(dropout)
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward, "dropout": dropout}
        self.decoder = nn.ModuleList(CausalLayer(**sizes) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        self.head.weight = self.symbols.weight
        draw_layers(self, head=self.head)

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor) -> Tensor:
        """Return the logits of the symbol after each of the completion's, [N, T, V].

        Args:
            prompt_ids: int64 [N, S].
            prompt_mask: int64 [N, S], 0 for padding, which comes last.
            completion_ids: int64 [N, T], the sign of the beginning first; padding comes last and changes nothing before
                it.
        """
        length = completion_ids.shape[1]
        ids, seen = torch.cat([prompt_ids, completion_ids], dim=1), visible(prompt_mask, length)
        hidden, _ = self._decode(ids, places_of(prompt_mask, length), seen, (), ())
        return self.head(hidden[:, prompt_ids.shape[1] :])

    def encode(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Cache:
        """Return what the layers read of a prompt: keys and values of each, [N, heads, S, width / heads].

        Args:
            prompt_ids: int64 [N, S].
            prompt_mask: int64 [N, S], 0 for padding, which comes last.
        """
        _, present = self._decode(prompt_ids, places_of(prompt_mask, 0), visible(prompt_mask, 0), (), ())
        return present

    def step(self, token: Tensor, prompt_mask: Tensor, cross: Cache, past: Cache) -> tuple[Tensor, Cache]:
        """Return the logits of the next symbol, [N, V], and what to give as ``past`` with it.

        Args:
            token: int64 [N, 1], the last symbol; the sign of the beginning at first.
            prompt_mask: int64 [N, S], 0 for padding, which comes last.
            cross: what ``encode`` returned.
            past: keys and values of each layer, [N, heads, P, width / heads]; P is 0 at first.
        """
        read = past[0].shape[2]
        places = prompt_mask.sum(dim=1, keepdim=True) + read
        hidden, present = self._decode(token, places, visible_last(prompt_mask, read + 1), cross, past)
        return self.head(hidden[:, -1]), present

    def empty_past(self, cross: Cache) -> Cache:
        """Return the keys and values of no symbol, [N, heads, 0, width / heads]."""
        return tuple(part[:, :, :0] for part in cross)

    def keep_symbols(self, source: Tensor, target: Tensor) -> None:
        """Keep some symbols, in place, in ascending order; see `Transducer.keep_symbols`.

        Args:
            source: int64, their numbers.
            target: the same: prompts and completions have one table.
        """
        assert torch.equal(source, target)
        keep_rows(self.symbols, target)
        self.head.weight, self.head.out_features = self.symbols.weight, len(target)

    def _decode(self, ids: Tensor, places: Tensor, seen: Tensor, cross: Cache, past: Cache) -> tuple[Tensor, Cache]:
        """Return the last layer's output, and all layers' keys and values of what is not the prompt of ``cross``."""
        hidden = self.dropout(self.symbols(ids) * self.scale + F.embedding(places, table_of(self.places)))
        present: list[Tensor] = []
        for number, layer in enumerate(self.decoder):
            pair = slice(2 * number, 2 * number + 2)
            hidden, kept = layer(hidden, seen, cross[pair], past[pair])
            present += kept
        return self.decoder_norm(hidden), tuple(present)


class CausalLayer(nn.Module):
    """Attention to the prompt and to what was written, and feed-forward: [N, L, width] to [N, L, width]."""

    def __init__(self, *, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward = FeedForward(width, feed_forward, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, seen: Tensor, cross: Cache, past: Cache) -> tuple[Tensor, Cache]:
        """Return the layer's output, and the keys and values of ``past`` and of these symbols."""
        normed = self.attention_norm(hidden)
        present = joined(past, self.attention.project(normed))
        hidden = hidden + self.dropout(self.attention(normed, *joined(cross, present), seen))
        return hidden + self.dropout(self.feed_forward(hidden)), present


def places_of(mask: Tensor, length: int) -> Tensor:
    """Return where each symbol of a prompt and of so many after it stands, int64 [N, S + length].

    Args:
        mask: of the prompts, int64 [N, S], 0 for padding, which comes last.
        length: symbols that follow each prompt.
    """
    inside = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    if length == 0:
        return inside
    return torch.cat([inside, mask.sum(dim=1, keepdim=True) + torch.arange(length, device=mask.device)], dim=1)


def visible(mask: Tensor, length: int) -> Tensor:
    """Return what each symbol of a prompt and of so many after it sees, bool [N, 1, L, L]: nothing later, no pad."""
    places = torch.arange(mask.shape[1] + length, device=mask.device)
    return (places <= places[:, None]) & visible_last(mask, length)


def visible_last(mask: Tensor, length: int) -> Tensor:
    """Return what the last of so many symbols after a prompt sees, bool [N, 1, 1, S + length]."""
    after = torch.ones(mask.shape[0], length, dtype=torch.bool, device=mask.device)
    return torch.cat([mask != 0, after], dim=1)[:, None, None]
