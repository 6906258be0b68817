"""Choose how many channels each group keeps, and which, to meet a target cost."""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Literal

from torch import Tensor

from compress.errors import StageError
from compress.surgery.cost import Cost, CostModel
from compress.surgery.groups import Group, keep_all

Ranking = Literal["per_cost", "global", "uniform"]
Measure = Literal["macs", "parameters"]
Widths = dict[str, int]
Legal = Mapping[str, list[int]]
Fraction = Callable[[Mapping[str, int]], float]


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
    depthwise convolution the next time. Heads and layers are whole already and are not rounded.

    Args:
        group: the group.
        round_to: every width is a multiple of it (1 allows all). None: multiples of 8 up to 64, of 16 above. ONNX
            Runtime's blocked convolutions hold 8 or 16 channels by instruction set, and fall back to a plain layout
            where the output channels do not divide. In transformers, multiples of 64 (32 below a width of 768), which
            blocks of matrix products and of weight-only quantization divide.
    """
    if group.kind in ("heads", "layers"):
        return list(range(group.unit, group.width + 1, group.unit))
    if group.kind != "channels" and round_to is None:
        round_to = 64 if group.width >= 768 else 32
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

    "global" and "uniform" remove the channels that stand lowest in a class, the same share of every class: with
    "global" a class is all isomorphic groups together (Fang et al., arXiv 2407.04616), so one layer may lose more than
    its twin, with "uniform" it is each group alone. Only ranks within a class count, so scores of unlike layers are
    never compared. Widths are rounded to the nearest legal one.

    "per_cost" spends the target where it hurts least, whatever the kind: again and again it takes the step to a
    narrower legal width that loses the least score for the cost that it saves now (the greedy solution of the knapsack,
    as in HALP, Shen et al., arXiv 2110.10811). Scores must be in one unit and add up, as those of `taylor` do.

    What rounding left over goes back to the best channels that fit.

    Args:
        groups: every prunable group.
        scores: group name -> importance [width], larger is more important.
        costs: prices a choice.
        ranking: see above; "per_cost" for scores in one unit only.
        measure: which cost the target is about.
        target: fraction of that cost to keep, between 0 and 1.
        round_to: see `legal_widths`.
        tolerance: largest allowed shortfall below the target, as a fraction of the unpruned cost; None allows any.

    Raises:
        StageError: no widths reach the target, or none come within the tolerance; names what can be reached.
    """
    before = costs.cost(keep_all(groups))
    total = before.macs if measure == "macs" else before.parameters
    by_name = {group.name: group for group in groups}

    @cache
    def pick(name: str, width: int) -> Tensor:
        return by_name[name].pick(scores[name], width)

    def fraction(widths: Mapping[str, int]) -> float:
        # Which channels stay does not change a cost as long as channels are used alike; picking is exact all the same.
        cost = costs.cost(keep(widths))
        return (cost.macs if measure == "macs" else cost.parameters) / total

    def keep(widths: Mapping[str, int]) -> dict[str, Tensor]:
        return {name: pick(name, width) for name, width in widths.items()}

    legal = {group.name: legal_widths(group, round_to) for group in groups}
    smallest = fraction({name: widths[0] for name, widths in legal.items()})
    if smallest > target:
        raise StageError(
            f"No widths reach the {measure} target",
            expected=f"a fraction of at least {smallest:.4f}",
            got=target,
            hint="ask for less, protect fewer layers, or lower round_to",
        )
    search = _cheapest_first if ranking == "per_cost" else partial(_even_shares, ranking=ranking)
    widths = search(groups, scores, legal, fraction, target)
    reached = fraction(widths)
    if tolerance is not None and target - reached > tolerance:
        raise StageError(
            f"No widths come close enough to the {measure} target",
            expected=f"a fraction from {target - tolerance:.4f} to {target:.4f}",
            got=f"{reached:.4f} is the nearest below, {smallest:.4f} the smallest",
            hint="ask for the nearest, raise tolerance, or lower round_to",
        )
    chosen = keep(widths)
    return Choice(chosen, before, costs.cost(chosen), measure, target, reached, smallest)


def _even_shares(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    legal: Legal,
    fraction: Fraction,
    target: float,
    *,
    ranking: Ranking,
) -> Widths:
    """Widths at or below the target after the fewest removals from the bottom of every class."""
    order = _removal_order(groups, scores, ranking)
    low, high = 0, len(order)  # removing `high` steps meets the target
    while low < high:
        middle = (low + high) // 2
        if fraction(_round(groups, legal, order[:middle])) <= target:
            high = middle
        else:
            low = middle + 1
    return _give_back(_round(groups, legal, order[:high]), order, legal, fraction, target)


def _give_back(widths: Widths, order: Sequence[str], legal: Legal, fraction: Fraction, target: float) -> Widths:
    """Widths after giving back all that fits below the target, what was removed last first."""
    restored = True
    while restored:
        restored = False
        for name in dict.fromkeys(reversed(order)):
            wider = {**widths, name: next((w for w in legal[name] if w > widths[name]), widths[name])}
            if wider != widths and fraction(wider) <= target:
                widths, restored = wider, True
    return widths


def _cheapest_first(
    groups: Sequence[Group], scores: Mapping[str, Tensor], legal: Legal, fraction: Fraction, target: float
) -> Widths:
    """Widths at or below the target after the steps that lose the least score for what they save.

    What a step saves shrinks as others are taken, and what it loses does not, so a price only rises: a step whose price
    is still the lowest when worked out anew is the cheapest (lazy evaluation, Minoux 1978).

    The last step may be a large one, such as a layer, where little was missing. So the steps are also followed without
    it, and without the next that would be the last, and of all the ends the one that loses the least is taken.
    """
    by_name = {group.name: group for group in groups}
    lost = {}
    for group in groups:
        ascending = group.step_scores(scores[group.name]).flip(0).tolist()
        lost[group.name] = [0.0, *accumulate(score * len(group.atoms_by_block) for score in ascending)]

    def loss(name: str, width: int) -> float:
        return lost[name][(by_name[name].width - width) // by_name[name].unit]

    def step(name: str) -> tuple[float, int, str, int, float]:
        """The next step of a group: score per cost, a tie-break, the group, its width after it, the cost after it."""
        width = legal[name][legal[name].index(widths[name]) - 1]
        after = fraction({**widths, name: width})
        price = (loss(name, width) - loss(name, widths[name])) / (now - after) if after < now else math.inf
        return price, position[name], name, width, after

    position = {name: index for index, name in enumerate(by_name)}
    widths = {group.name: group.width for group in groups}
    now = fraction(widths)
    waiting = [step(name) for name in widths if len(legal[name]) > 1]
    heapq.heapify(waiting)
    order: list[str] = []
    ends: list[Widths] = [] if now > target else [widths]
    while waiting and now > target:
        current = step(heapq.heappop(waiting)[2])
        if waiting and current > waiting[0]:
            heapq.heappush(waiting, current)
            continue
        _, _, name, width, after = current
        if after <= target:
            ends.append(_give_back({**widths, name: width}, [*order, name], legal, fraction, target))
            continue
        widths, now = {**widths, name: width}, after
        order.append(name)
        if width > legal[name][0]:
            heapq.heappush(waiting, step(name))
    return min(ends, key=lambda end: sum(loss(name, width) for name, width in end.items()))


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


def _round(groups: Sequence[Group], legal: Mapping[str, list[int]], removed: Sequence[str]) -> dict[str, int]:
    """Nearest legal widths after removing one step per name; a tie goes to the wider."""
    lost = {group.name: 0 for group in groups}
    for name in removed:
        lost[name] += 1
    widths = {}
    for group in groups:
        wanted = group.width - lost[group.name] * group.unit
        widths[group.name] = min(legal[group.name], key=lambda width, wanted=wanted: (abs(width - wanted), -width))
    return widths
