"""Terms on transformers: layers of hidden states, attention, relations between tokens, maps for pruned students.

Queries, keys and values are tapped where they leave their linear layers, so attention is computed here, the same for
every version of a model; nothing depends on a model returning its attention. What a model does to them afterwards
(rotary positions, relative biases) is not part of it. Attention with one linear layer for all three, or with fewer key
heads than query heads, is refused.

Shape letters: N units, L tokens, D width, H heads, d width of a head.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.errors import ModelError
from compress.loss.features import INDEPENDENT, Compared, FeatureTerm, Pair, unit_mean
from compress.loss.logits import kl
from compress.loss.pairing import spread, token_layers
from compress.loss.taps import Tap, Trace
from compress.loss.term import Kind, Property

# What transformers' families call the three linear layers of an attention module, and its number of heads.
NAMES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
)
HEADS = ("num_attention_heads", "num_heads", "n_heads")


@dataclass(frozen=True)
class Attention:
    """One attention module.

    Attributes:
        path: of the module.
        query: where its queries leave.
        key: where its keys leave.
        value: where its values leave.
        heads: number of heads.
    """

    path: str
    query: Tap
    key: Tap
    value: Tap
    heads: int


class Layers(FeatureTerm):
    """Squared error of hidden states, layer by layer, embeddings included.

    TinyBERT, Jiao et al. 2020 (arXiv 1909.10351), equations 8 and 9; MobileBERT's feature map transfer, Sun et al. 2020
    (arXiv 2004.02984), equation 1. The sum over pairs of the mean over tokens and channels. One projector a pair.
    ``auto`` spreads the student's layers evenly over the teacher's.

    Attributes:
        embeddings: with ``auto``, pair the embeddings too.
    """

    unit: ClassVar[str] = "squared feature"
    properties: ClassVar[frozenset[Property]] = INDEPENDENT

    embeddings: bool = True

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """All layers, and the embeddings where both have them under that name."""
        pairs = spread(transformer_layers(student), transformer_layers(teacher))
        below = [embeddings(trace) for trace in (student, teacher)] if self.embeddings else [None, None]
        return [(below[0], below[1]), *pairs] if below[0] is not None and below[1] is not None else pairs

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the sum over pairs, float32 [N]."""
        errors = [unit_mean((ours - theirs).square(), mask) for ours, theirs in map(Compared.resize, compared)]
        return torch.stack(errors).sum(dim=0)


class DynamicLayers(FeatureTerm):
    """Layers of the teacher matched anew with the closest layers that a pruned student still has.

    CoFi, Xia et al. 2022 (arXiv 2204.00408), equation 4. For every batch the map from teacher layers to student layers
    that keeps their order and has the least squared error is taken. One projector for all, which starts as the identity
    where widths are equal. Deviation: the best ordered map as a whole, where the authors choose greedily.

    Attributes:
        teacher_layers: how many of the teacher's layers, spread evenly over its depth; 4 in the paper.
    """

    kind: ClassVar[Kind] = "coupled"  # the map is chosen by the whole batch
    unit: ClassVar[str] = "squared feature"
    properties: ClassVar[frozenset[Property]] = frozenset({"zero-at-equality", "duplication", "bfloat16", "padding"})
    every_pair: ClassVar[bool] = True

    teacher_layers: Annotated[int, Field(ge=1, le=1000)] = 4

    def model_post_init(self, _context: object) -> None:
        """Refuse pairs: they are what this term finds."""
        if self.pairs != "auto" or self.progressive:
            raise ValueError("dynamic_layers pairs layers by itself; use layers for given pairs, or one after another")

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """Every surviving layer of the student with every chosen layer of the teacher."""
        theirs = transformer_layers(teacher)
        count = min(self.teacher_layers, len(theirs))
        chosen = [theirs[-(-(index + 1) * len(theirs) // count) - 1] for index in range(count)]
        return [(ours, tap) for tap in chosen for ours in transformer_layers(student)]

    def projectors(self, pairs: Sequence[Pair]) -> list[nn.Module | None]:
        """One linear layer for all pairs, the identity at first where widths are equal.

        Raises:
            ModelError: when the student's layers have different widths.
        """
        shapes = {pair.shapes[0][-1] for pair in pairs}, {pair.shapes[1][-1] for pair in pairs}
        if any(len(widths) > 1 for widths in shapes):
            raise ModelError("one projector needs layers of one width", expected="one width", got=shapes)
        linear = nn.Linear(shapes[0].pop(), shapes[1].pop(), bias=False)
        if linear.in_features == linear.out_features:
            nn.init.eye_(linear.weight)
        return [linear] * len(pairs)

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the error of the best ordered map, a float32 scalar: mean over units, sum over teacher layers."""
        errors = [unit_mean((ours - theirs).square(), mask).mean() for ours, theirs in map(Compared.resize, compared)]
        rows = len({item.pair.teacher for item in compared})
        table = torch.stack(errors).view(rows, -1)
        chosen = find_ordered_map(table.detach())
        return table.gather(1, chosen.unsqueeze(1)).sum()


class AttentionTerm(FeatureTerm):
    """A term on attention modules: a pair of modules becomes three pairs of taps, in the order query, key, value."""

    taps_per_pair: ClassVar[int] = 3

    def pair(self, student: Trace, teacher: Trace) -> tuple[Pair, ...]:
        """Return the pairs of taps of all pairs of attention modules.

        Raises:
            ModelError: when a model has no attention that is known, or two modules cannot be compared.
        """
        ours, theirs = attentions(student), attentions(teacher)
        by_path = [{attention.path: attention for attention in side} for side in (ours, theirs)]
        paths = self.automatic(student, teacher) if self.pairs == "auto" else self.pair_named(student, teacher)
        found: list[Pair] = []
        for left, right in paths:
            sides = []
            for side, trace, tap in ((0, student, left), (1, teacher, right)):
                if tap.path not in by_path[side]:
                    raise ModelError(
                        f"no attention module of the {trace.role}",
                        expected=f"one of {list(by_path[side])}",
                        got=tap.path,
                    )
                sides.append(by_path[side][tap.path])
            for name in ("query", "key", "value"):
                taps = [getattr(side, name) for side in sides]
                shapes = (student.shape(taps[0]), teacher.shape(taps[1]))
                pair = Pair(taps[0], taps[1], shapes, (sides[0].heads, sides[1].heads))
                self.check(pair)
                found.append(pair)
        return tuple(found)

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """All attention modules by depth."""
        return spread(*([Tap(attention.path) for attention in attentions(trace)] for trace in (student, teacher)))

    def projector(self, pair: Pair) -> None:
        """Return none: attention has no width."""

    @abstractmethod
    def check(self, pair: Pair) -> None:
        """Refuse a pair that cannot be compared."""


class Scores(AttentionTerm):
    """Attention of each head, for equal numbers of heads.

    ``mse`` compares scores before the softmax (TinyBERT, arXiv 1909.10351, equation 7), ``kl`` probabilities after it
    (MobileBERT, arXiv 2004.02984, equation 2). The mean over heads and valid pairs of tokens (rows, for ``kl``), and
    the sum over layers. Deviation: padded positions are left out, where TinyBERT's code compares them as zeros.

    Attributes:
        divergence: ``mse`` or ``kl``.
    """

    unit: ClassVar[str] = "squared score, or nats"
    properties: ClassVar[frozenset[Property]] = INDEPENDENT

    divergence: Literal["mse", "kl"] = "mse"

    def check(self, pair: Pair) -> None:
        """Refuse other than equal heads and tokens.

        Raises:
            ModelError: with what could be used instead.
        """
        if pair.heads[0] != pair.heads[1] or pair.shapes[0][1] != pair.shapes[1][1]:
            raise ModelError(
                "attention scores need equal heads and tokens",
                expected=f"{pair.heads[1]} heads and {pair.shapes[1][1]} tokens, as the teacher has",
                got=f"{pair.heads[0]} heads and {pair.shapes[0][1]} tokens",
                where=f"{pair.student} : {pair.teacher}",
                hint="relations compares attention of any number of heads",
            )

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the sum over layers, float32 [N]."""
        values = []
        for query, key in zip(compared[::3], compared[1::3], strict=True):
            heads = query.pair.heads[0]
            (query_s, query_t), (key_s, key_t) = query.resize(), key.resize()
            scores = products(query_s, key_s, heads=heads), products(query_t, key_t, heads=heads)
            values.append(self._compare(*scores, mask))
        return torch.stack(values).sum(dim=0)

    def _compare(self, ours_NHLL: Tensor, theirs_NHLL: Tensor, mask: Tensor | None) -> Tensor:
        if self.divergence == "kl":
            rows = kl(log_attention(ours_NHLL, mask), log_attention(theirs_NHLL, mask))
            return unit_mean(rows.mean(dim=1).unsqueeze(-1), mask)
        squares = (ours_NHLL - theirs_NHLL).square().mean(dim=1)
        if mask is None:
            return squares.flatten(1).mean(dim=1)
        valid = mask.unsqueeze(1) & mask.unsqueeze(2)
        return squares.masked_fill(~valid, 0.0).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)


class Relations(AttentionTerm):
    """How queries, keys and values of one layer relate to themselves, whatever its width and heads.

    MiniLM v2, Wang et al. 2021 (arXiv 2012.15828), equations 5 to 8: each of the three is split anew into a common
    number of relation heads; the softmax of its scaled products with itself is compared by KL. The mean over relation
    heads and tokens, the sum over the three. ``auto`` takes the last attention of both models; the paper takes one of
    the upper middle for large teachers.

    Attributes:
        relation_heads: how many; None takes the most, at most the teacher's heads, that divide both widths.
    """

    properties: ClassVar[frozenset[Property]] = INDEPENDENT

    relation_heads: Annotated[int, Field(ge=1, le=1024)] | None = None

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """The last attention of both."""
        return super().automatic(student, teacher)[-1:]

    def pair(self, student: Trace, teacher: Trace) -> tuple[Pair, ...]:
        """Return the pairs, with the common number of relation heads."""
        found = super().pair(student, teacher)
        return tuple(replace(pair, heads=(self._heads(pair), self._heads(pair))) for pair in found)

    def _heads(self, pair: Pair) -> int:
        width = math.gcd(pair.shapes[0][-1], pair.shapes[1][-1])
        if self.relation_heads is not None:
            return self.relation_heads
        return max(count for count in range(1, pair.heads[1] + 1) if width % count == 0)

    def check(self, pair: Pair) -> None:
        """Refuse unequal tokens, and widths that the relation heads do not divide.

        Raises:
            ModelError: with the values that would do.
        """
        width = math.gcd(pair.shapes[0][-1], pair.shapes[1][-1])
        if pair.shapes[0][1] != pair.shapes[1][1] or width % self._heads(pair):
            raise ModelError(
                "relations need equal tokens and relation heads that divide both widths",
                expected=f"{pair.shapes[1][1]} tokens, relation_heads dividing {width}",
                got=f"{pair.shapes[0][1]} tokens, {self._heads(pair)} relation heads",
                where=f"{pair.student} : {pair.teacher}",
            )

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the sum over the three relations of all layers, float32 [N]."""
        values = []
        for item in compared:
            heads = item.pair.heads[0]
            relations = [log_attention(products(side, side, heads=heads), mask) for side in item.resize()]
            values.append(unit_mean(kl(*relations).mean(dim=1).unsqueeze(-1), mask))
        return torch.stack(values).sum(dim=0)


def products(first_NLD: Tensor, second_NLD: Tensor, *, heads: int) -> Tensor:
    """Return scaled products of every two tokens in each head, [N, H, L, L]: first second^T / sqrt(d)."""
    split = [side.unflatten(-1, (heads, -1)).transpose(1, 2) for side in (first_NLD, second_NLD)]
    return split[0] @ split[1].transpose(-1, -2) / math.sqrt(split[0].shape[-1])


def log_attention(scores_NHLL: Tensor, mask: Tensor | None) -> Tensor:
    """Return log-probabilities over the valid tokens of each row."""
    if mask is not None:
        scores_NHLL = scores_NHLL.masked_fill(~mask[:, None, None, :], -math.inf)
    return scores_NHLL.log_softmax(dim=-1)


def find_ordered_map(errors: Tensor) -> Tensor:
    """Return a column for each row, never to the left of the row before, with the least sum (dynamic programming).

    Args:
        errors: float [rows, columns].

    Returns:
        int64 [rows], on the device of the errors, which is not waited for.
    """
    best, cells = errors[0], list[Tensor]()
    for row in errors[1:]:
        least = best.cummin(dim=0)
        cells.append(least.indices)
        best = least.values + row
    chosen = [best.argmin(dim=0, keepdim=True)]
    for indices in reversed(cells):
        chosen.append(indices.gather(0, chosen[-1]))
    return torch.cat(chosen[::-1])


def transformer_layers(trace: Trace) -> list[Tap]:
    """Return the layers of a transformer.

    Raises:
        ModelError: when the model has no list of modules from tokens to tokens.
    """
    layers = token_layers(trace)
    if not layers:
        raise ModelError(
            f"the {trace.role} is no transformer",
            expected="a list of modules that return [batch, tokens, width]",
            got=f"{len(trace.seen)} modules, none of them",
            hint="for convolutional networks use hidden, hint or attention_transfer",
        )
    return layers


def embeddings(trace: Trace) -> Tap | None:
    """Return the first module named so that gives tokens, or None."""
    found = [
        path
        for path, seen in trace.seen.items()
        if path.rpartition(".")[2] == "embeddings" and seen.output is not None and len(seen.output) == 3
    ]
    return Tap(found[0]) if found else None


def attentions(trace: Trace) -> list[Attention]:
    """Return the attention modules of a model, in the order in which they run.

    Raises:
        ModelError: when none is known by the names of its linear layers and heads.
    """
    found: list[Attention] = []
    for path, seen in trace.seen.items():
        children = dict(seen.module.named_children())
        names = next((names for names in NAMES if set(names) <= set(children)), None)
        heads = next((int(vars(seen.module)[name]) for name in HEADS if name in vars(seen.module)), 0)
        if names is not None and heads:
            query, key, value = (Tap(f"{path}.{name}") for name in names)
            if len({trace.shape(tap) for tap in (query, key, value)}) > 1:
                raise ModelError(
                    f"an attention module of the {trace.role} has other widths of queries than of keys or values",
                    expected="one width",
                    got=[list(trace.shape(tap)[1:]) for tap in (query, key, value)],
                    where=path,
                    hint="use layers or hidden",
                )
            found.append(Attention(path, query, key, value, heads))
    if not found:
        raise ModelError(
            f"the {trace.role} has no attention that is known",
            expected=f"modules with linear layers named {' or '.join('/'.join(names) for names in NAMES)}, and one of "
            f"the attributes {', '.join(HEADS)}",
            where=trace.role,
            hint="use hidden or layers, which need no attention",
        )
    return found
