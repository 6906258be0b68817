"""Terms on intermediate features: hints, normalised hidden states, attention maps, relations between samples.

A feature is [N, D], [N, L, D] (tokens) or [N, C, H, W]. Unless a class says otherwise a value is the mean over all
positions and channels of one unit, so that neither size nor padding changes its scale; units are samples.

Where two maps differ in height or width, the larger is averaged down to the smaller. Where they differ in channels, a
trained projector takes the student's features to the teacher's width; it belongs to the loss and is never exported.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ModelError
from compress.loss.pairing import last_features, spread, stage_pairs
from compress.loss.projectors import Channelwise, Orthogonal, Shape, channels, linear_map
from compress.loss.taps import Tap, Trace
from compress.loss.term import Kind, Property, Term

Pairs = Literal["auto"] | Annotated[dict[str, str], Field(min_length=1)]
Form = Literal["tokens", "maps"]
INDEPENDENT: frozenset[Property] = frozenset(
    {"zero-at-equality", "duplication", "micro-batching", "bfloat16", "padding"}
)


@dataclass(frozen=True)
class Pair:
    """Two tensors that a term compares.

    Attributes:
        student: where in the student.
        teacher: where in the teacher.
        shapes: of both, batch first.
        heads: attention heads of both; 0 where the term does not split heads.
    """

    student: Tap
    teacher: Tap
    shapes: tuple[Shape, Shape]
    heads: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Compared:
    """A pair and what a batch gave for it.

    Attributes:
        pair: where it was read.
        student: after its projector, any float dtype.
        teacher: without gradient, any float dtype.
    """

    pair: Pair
    student: Tensor
    teacher: Tensor

    def resize(self) -> tuple[Tensor, Tensor]:
        """Return both in float32, maps averaged down to the smaller size; no gradient flows to the teacher."""
        ours, theirs = self.student.float(), self.teacher.detach().float()
        if ours.dim() == 4 and ours.shape[2:] != theirs.shape[2:]:
            size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
            ours, theirs = (
                side if side.shape[2:] == size else F.adaptive_avg_pool2d(side, size) for side in (ours, theirs)
            )
        return ours, theirs


class FeatureTerm(Term):
    """A term that compares tapped tensors pair by pair.

    Class attributes:
        taps_per_pair: tensors that one pair of places gives on each side; 3 for queries, keys and values.
        form: what `compress.testing` tries it on: ``tokens`` [N, L, D], or ``maps`` [N, C, H, W].
        every_pair: whether ``auto`` gives all layers of one side with all of the other, for the term to choose from.

    Attributes:
        pairs: student path to teacher path. ``*`` matches within one part of a path and ``**`` across parts, in the
            order in which modules run; ``path:input`` is what goes into a module. Where one side has more matches, the
            other's are spread evenly over its depth (layer m of M goes with layer ceil(m N / M) of N). ``auto`` pairs
            what the class says. `compressor plan` prints the result.
        progressive: compare one pair at a time, first to last, each for an equal share of the term's steps (the
            progressive knowledge transfer of MobileBERT, section 3.4, without freezing the layers below).
    """

    taps_per_pair: ClassVar[int] = 1
    form: ClassVar[Form] = "tokens"
    every_pair: ClassVar[bool] = False

    pairs: Pairs = "auto"
    progressive: bool = False

    def pair(self, student: Trace, teacher: Trace) -> tuple[Pair, ...]:
        """Return the pairs of two models.

        Raises:
            ModelError: when a path matches nothing, or two tensors cannot be compared.
        """
        taps = self.automatic(student, teacher) if self.pairs == "auto" else self.pair_named(student, teacher)
        found = tuple(Pair(ours, theirs, (student.shape(ours), teacher.shape(theirs))) for ours, theirs in taps)
        for pair in found:
            self.check(pair)
        return found

    def pair_named(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """Return the pairs that the globs of ``pairs`` name."""
        assert self.pairs != "auto"
        return [
            pair
            for ours, theirs in self.pairs.items()
            for pair in spread(student.matches(ours), teacher.matches(theirs))
        ]

    @abstractmethod
    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """Return the pairs of ``auto``."""

    def check(self, pair: Pair) -> None:
        """Refuse a pair that cannot be compared.

        Raises:
            ModelError: when the ranks or the numbers of tokens differ.
        """
        ours, theirs = pair.shapes
        if len(ours) != len(theirs) or (len(ours) == 3 and ours[1] != theirs[1]) or not 2 <= len(ours) <= 4:
            raise ModelError(
                "two features cannot be compared",
                expected="both [N, D], [N, L, D] with equal L, or [N, C, H, W]",
                got=f"student {list(ours)}, teacher {list(theirs)}",
                where=f"{pair.student} : {pair.teacher}",
                hint="name other modules under pairs",
            )

    def projectors(self, pairs: Sequence[Pair]) -> list[nn.Module | None]:
        """Return the projector of each pair; a module may serve several."""
        return [self.projector(pair) for pair in pairs]

    def projector(self, pair: Pair) -> nn.Module | None:
        """Return a trained map from the student's width to the teacher's; None where they are equal."""
        width_s, width_t = (channels(shape) for shape in pair.shapes)
        return None if width_s == width_t else linear_map(*pair.shapes)

    @abstractmethod
    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return float32 [N], or a float32 scalar for a coupled term.

        Args:
            compared: the pairs that count now, in the order of `pair`.
            mask: bool [N, L], true for valid tokens; None when all are.
        """


class Hint(FeatureTerm):
    """Squared error to the teacher's features after a trained projector (FitNets, Romero et al. 2015, arXiv 1412.6550).

    Equation 3 with two deviations: the mean over elements instead of half their sum (as in RepDistiller, whose weight
    of 100 is the default), and joint training with the other terms instead of a first stage of its own; a ``schedule``
    that ends early gives the two stages. ``auto`` takes the middle pair of stages, as the paper does. The sum over
    pairs.
    """

    unit: ClassVar[str] = "squared feature"
    properties: ClassVar[frozenset[Property]] = INDEPENDENT

    weight: Annotated[float, Field(gt=0, le=1e6)] = 100.0

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """The middle one of the pairs of stages."""
        pairs = stage_pairs(student, teacher)
        return [pairs[(len(pairs) - 1) // 2]]

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the sum over pairs of the mean squared error, float32 [N]."""
        errors = [unit_mean((ours - theirs).square(), mask) for ours, theirs in map(Compared.resize, compared)]
        return torch.stack(errors).sum(dim=0)


class Hidden(FeatureTerm):
    """Squared error relative to the teacher's own size, so that layers of any scale count alike.

    SquareHead (Kurtic et al. 2023, arXiv 2310.06927, equation 2): ||W f_s - f_t||^2 / ||f_t||^2. Deviations: the
    quotient is taken per unit, not per batch, so that units stay independent, and the mean over pairs is returned.
    ``auto`` takes all pairs of stages.
    """

    unit: ClassVar[str] = "relative squared error"
    properties: ClassVar[frozenset[Property]] = INDEPENDENT

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """All pairs of stages."""
        return stage_pairs(student, teacher)

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the mean over pairs of the relative error, float32 [N]."""
        ratios = [
            unit_mean((ours - theirs).square(), mask) / unit_mean(theirs.square(), mask).clamp(min=1e-12)
            for ours, theirs in map(Compared.resize, compared)
        ]
        return torch.stack(ratios).mean(dim=0)


class Cosine(FeatureTerm):
    """One minus the cosine between hidden states (DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 3).

    The mean over positions and pairs. ``auto`` takes the last pair of stages.
    """

    unit: ClassVar[str] = "1 - cosine"
    properties: ClassVar[frozenset[Property]] = frozenset(
        {"zero-at-equality", "duplication", "micro-batching", "bfloat16", "padding", "student-scale"}
    )

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """The last pair of stages."""
        return stage_pairs(student, teacher)[-1:]

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the mean over pairs, float32 [N]."""
        values = []
        for ours, theirs in map(Compared.resize, compared):
            dim = 1 if ours.dim() == 4 else -1
            cosines = F.cosine_similarity(ours, theirs, dim=dim, eps=1e-8)
            values.append(unit_mean(1 - cosines.unsqueeze(dim), mask))
        return torch.stack(values).mean(dim=0)


class AttentionTransfer(FeatureTerm):
    """Where activations are strong (Zagoruyko & Komodakis 2017, arXiv 1612.03928, equation 2, with p = 2).

    The mean over channels of squared features, L2-normalised over positions; the mean squared difference, as in the
    authors' code, whose weight of 1000 is the default. The sum over pairs. ``auto`` takes all pairs of stages that have
    a height and a width. No projector: channels are averaged out.
    """

    unit: ClassVar[str] = "squared normalised attention"
    form: ClassVar[Form] = "maps"
    properties: ClassVar[frozenset[Property]] = frozenset(
        {"zero-at-equality", "duplication", "micro-batching", "bfloat16", "student-scale"}
    )

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1000.0

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """All pairs of stages."""
        return stage_pairs(student, teacher)

    def check(self, pair: Pair) -> None:
        """Refuse anything but maps.

        Raises:
            ModelError: when either side has no height and width.
        """
        if any(len(shape) != 4 for shape in pair.shapes):
            raise ModelError(
                "attention transfer compares maps",
                expected="features [N, C, H, W] on both sides",
                got=f"student {list(pair.shapes[0])}, teacher {list(pair.shapes[1])}",
                where=f"{pair.student} : {pair.teacher}",
                hint="for transformers use scores or relations",
            )

    def projector(self, pair: Pair) -> None:
        """Return none."""

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the sum over pairs, float32 [N]."""
        del mask  # images have none
        values = []
        for ours, theirs in map(Compared.resize, compared):
            maps = [F.normalize(side.square().mean(dim=1).flatten(1), dim=1) for side in (ours, theirs)]
            values.append((maps[0] - maps[1]).square().mean(dim=1))
        return torch.stack(values).sum(dim=0)


class Rkd(FeatureTerm):
    """Distances and angles between the samples of a batch (Park et al. 2019, arXiv 1904.05068, equations 5 and 7).

    Smooth L1 on distances divided by their batch mean, and on the cosines of all triplets; memory grows with the cube
    of the batch. ``auto`` takes the last features. No projector: only relations are compared.

    Attributes:
        distance_weight: 25 in the paper.
        angle_weight: 50 in the paper.
    """

    kind: ClassVar[Kind] = "coupled"
    unit: ClassVar[str] = "smooth L1 of relations"
    properties: ClassVar[frozenset[Property]] = frozenset({"zero-at-equality", "bfloat16", "padding", "student-scale"})

    distance_weight: Annotated[float, Field(ge=0, le=1e6)] = 25.0
    angle_weight: Annotated[float, Field(ge=0, le=1e6)] = 50.0

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """The last features."""
        return [(last_features(student), last_features(teacher))]

    def projector(self, pair: Pair) -> None:
        """Return none."""

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the weighted sum, a float32 scalar."""
        total = torch.zeros(())
        for item in compared:
            ours, theirs = (pool(side, mask) for side in item.resize())
            total = total + self.distance_weight * F.smooth_l1_loss(distances(ours), distances(theirs))
            total = total + self.angle_weight * F.smooth_l1_loss(angles(ours), angles(theirs))
        return total


class LastFeature(FeatureTerm):
    """Squared error to the teacher's normalised last features through an orthogonal projector.

    VkD (Miles et al. 2024, arXiv 2403.06213, equations 4 and 5): a projector with orthonormal rows or columns cannot
    learn features of its own, so the student's must. Deviation: the teacher's features are standardised per unit, not
    whitened over the batch, so that units stay independent; the student's are standardised too.
    ``auto`` takes the input of the last linear layer.
    """

    unit: ClassVar[str] = "squared standardised feature"
    properties: ClassVar[frozenset[Property]] = frozenset(
        {"zero-at-equality", "duplication", "micro-batching", "bfloat16", "padding", "student-scale"}
    )

    def automatic(self, student: Trace, teacher: Trace) -> list[tuple[Tap, Tap]]:
        """The last features."""
        return [(last_features(student), last_features(teacher))]

    def projector(self, pair: Pair) -> nn.Module:
        """Return an orthogonal map, the identity at first where widths are equal."""
        width_s, width_t = (channels(shape) for shape in pair.shapes)
        return Channelwise(Orthogonal(width_s, width_t))

    def value(self, compared: Sequence[Compared], *, mask: Tensor | None) -> Tensor:
        """Return the mean squared error, float32 [N]."""
        values = []
        for item in compared:
            ours, theirs = (pool(side, mask) for side in item.resize())
            ours, theirs = (F.layer_norm(side, side.shape[-1:], eps=1e-12) for side in (ours, theirs))
            values.append((ours - theirs).square().mean(dim=-1))
        return torch.stack(values).sum(dim=0)


def unit_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of each unit over all else, float32 [N]; of tokens [N, L, D] those count that the mask allows.

    Vectors [N, D] of padded samples, such as a pooler's, have no tokens, and the mask says nothing of them.
    """
    if mask is None or values.dim() != 3:
        return values.flatten(1).mean(dim=1)
    return values.mean(dim=2).masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def pool(feature: Tensor, mask: Tensor | None) -> Tensor:
    """Return one float32 vector per unit: the feature itself, or its mean over positions."""
    feature = feature.float()
    if feature.dim() == 4:
        return feature.mean(dim=(2, 3))
    if feature.dim() == 3:
        if mask is None:
            return feature.mean(dim=1)
        return feature.masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return feature


def distances(features_ND: Tensor) -> Tensor:
    """Return Euclidean distances [N, N] divided by their mean over distinct pairs (Park et al., equation 4)."""
    gaps = features_ND.unsqueeze(1) - features_ND.unsqueeze(0)
    squares = gaps.square().sum(dim=-1)
    # The square root has no gradient at 0, where a sample meets itself or its twin.
    apart = squares > 0
    lengths = torch.where(apart, squares, 1.0).sqrt() * apart
    count = max(len(features_ND) * (len(features_ND) - 1), 1)
    return lengths / (lengths.sum() / count).clamp(min=1e-12)


def angles(features_ND: Tensor) -> Tensor:
    """Return cosines [N, N, N] of the angle at the second of every three samples (Park et al., equation 6).

    Where two of the three coincide there is no angle: 0, without a gradient, which normalising would make 10^12 long.
    """
    gaps = features_ND.unsqueeze(0) - features_ND.unsqueeze(1)
    squares = gaps.square().sum(dim=-1, keepdim=True)
    apart = squares > 0
    edges = torch.where(apart, gaps, 0.0) / torch.where(apart, squares, 1.0).sqrt()
    return torch.einsum("jid,jkd->ijk", edges, edges)
