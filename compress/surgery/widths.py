"""Choose how many channels each group keeps, and which, to meet a target cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compress.errors import StageError
from compress.surgery.cost import Cost, CostModel
from compress.surgery.groups import Group, keep_all

Ranking = Literal["global", "uniform"]
Measure = Literal["macs", "parameters"]


@dataclass(frozen=True)
class Choice:
    """The channels to keep, and what that costs."""

    kept: dict[str, Tensor]
    """Group name -> channels to keep."""
    before: Cost
    after: Cost
    measure: Measure
    target: float
    """Fraction of the cost that was asked for."""
    reached: float
    """Fraction of the cost that is kept, at most `target`."""
    smallest: float
    """Smallest fraction that any choice of widths can reach."""


def legal_widths(group: Group, round_to: int | None) -> list[int]:
    """Widths that a group may have, ascending: multiples of its unit that kernels like, and its own width.

    Blocks of grouped convolutions keep at least 2 channels each: with 1, torch-pruning would take the layer for a
    depthwise convolution the next time.

    Args:
        group: the group.
        round_to: every width is a multiple of it (1 allows all). None: multiples of 8 up to 64, of 16 above. ONNX
            Runtime's blocked convolutions hold 8 or 16 channels by instruction set, and fall back to a plain layout
            where the output channels do not divide.
    """
    narrowest = group.unit * (2 if len(group.atoms_by_block) > 1 else 1)
    aligned = [kept for kept in range(narrowest, group.width, group.unit) if kept % (round_to or 8) == 0]
    return [*(kept for kept in aligned if round_to or kept <= 64 or kept % 16 == 0), group.width]


def choose(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    costs: CostModel,
    *,
    ranking: Ranking,
    measure: Measure,
    target: float,
    round_to: int | None = None,
    tolerance: float | None = None,
) -> Choice:
    """Choose the channels to keep so that the model costs the target or less, as near to it as widths allow.

    Both rankings remove the channels that stand lowest in a class, the same share of every class: with "global" a class
    is all isomorphic groups together (Fang et al., arXiv 2407.04616), so one layer may lose more than its twin, with
    "uniform" it is each group alone. Only ranks within a class count, so scores of unlike layers are never compared.
    Widths are rounded to the nearest legal one, and what rounding left over goes back to the best channels that fit.

    Args:
        groups: every prunable group.
        scores: group name -> importance [width], larger is more important.
        costs: prices a choice.
        ranking: see above.
        measure: which cost the target is about.
        target: fraction of that cost to keep, between 0 and 1.
        round_to: see `legal_widths`.
        tolerance: largest allowed shortfall below the target, as a fraction of the unpruned cost; None allows any.

    Raises:
        StageError: no widths reach the target, or none come within the tolerance; names what can be reached.
    """
    before = costs.cost(keep_all(groups))
    total = before.macs if measure == "macs" else before.parameters

    def fraction(widths: Mapping[str, int]) -> float:
        # Which channels stay does not change a cost as long as channels are used alike; picking is exact all the same.
        cost = costs.cost(kept(widths))
        return (cost.macs if measure == "macs" else cost.parameters) / total

    def kept(widths: Mapping[str, int]) -> dict[str, Tensor]:
        return {group.name: group.pick(scores[group.name], widths[group.name]) for group in groups}

    legal = {group.name: legal_widths(group, round_to) for group in groups}
    smallest = fraction({name: widths[0] for name, widths in legal.items()})
    if smallest > target:
        raise StageError(
            f"No widths reach the {measure} target",
            expected=f"a fraction of at least {smallest:.4f}",
            got=target,
            hint="ask for less, protect fewer layers, or lower round_to",
        )
    order = _removal_order(groups, scores, ranking)
    low, high = 0, len(order)  # removing `high` steps meets the target
    while low < high:
        middle = (low + high) // 2
        if fraction(_rounded(groups, legal, order[:middle])) <= target:
            high = middle
        else:
            low = middle + 1
    widths = _rounded(groups, legal, order[:high])
    restored = True
    while restored:
        restored = False
        for name in dict.fromkeys(reversed(order)):
            wider = {**widths, name: next((w for w in legal[name] if w > widths[name]), widths[name])}
            if wider != widths and fraction(wider) <= target:
                widths, restored = wider, True
    reached = fraction(widths)
    if tolerance is not None and target - reached > tolerance:
        raise StageError(
            f"No widths come close enough to the {measure} target",
            expected=f"a fraction from {target - tolerance:.4f} to {target:.4f}",
            got=f"{reached:.4f} is the nearest below, {smallest:.4f} the smallest",
            hint="ask for the nearest, raise tolerance, or lower round_to",
        )
    chosen = kept(widths)
    return Choice(chosen, before, costs.cost(chosen), measure, target, reached, smallest)


def _removal_order(groups: Sequence[Group], scores: Mapping[str, Tensor], ranking: Ranking) -> list[str]:
    """Group names in the order in which the groups lose a step; ties go by the groups' order."""
    classes: dict[str, list[tuple[float, int, str]]] = {}
    for position, group in enumerate(groups):
        steps = classes.setdefault(group.signature if ranking == "global" else group.name, [])
        steps.extend((score, position, group.name) for score in group.step_scores(scores[group.name]).tolist())
    ranked = [
        ((rank + 0.5) / len(steps), position, name)
        for steps in classes.values()
        for rank, (_, position, name) in enumerate(sorted(steps))
    ]
    return [name for _, _, name in sorted(ranked)]


def _rounded(groups: Sequence[Group], legal: Mapping[str, list[int]], removed: Sequence[str]) -> dict[str, int]:
    """Nearest legal widths after removing one step per name; a tie goes to the wider."""
    lost = {group.name: 0 for group in groups}
    for name in removed:
        lost[name] += 1
    widths = {}
    for group in groups:
        wanted = group.width - lost[group.name] * group.unit
        widths[group.name] = min(legal[group.name], key=lambda width, wanted=wanted: (abs(width - wanted), -width))
    return widths
