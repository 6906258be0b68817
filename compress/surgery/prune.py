"""prune(): from a plain module to a smaller one: find what is coupled, score it, choose, cut, and prove the result."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.models.fold import computed_weights, folded
from compress.surgery import cut, encoders, verify
from compress.surgery.attention import rewired
from compress.surgery.cost import CostModel, cost_model
from compress.surgery.find import DEFAULT_UNITS, Found, Left, find
from compress.surgery.groups import Group, keep_all
from compress.surgery.importance import Importance, magnitude
from compress.surgery.plan import describe
from compress.surgery.widths import Choice, Measure, Ranking, choose, legal_widths

Scores = Callable[[nn.Module, Sequence[Group]], Importance]


@dataclass(frozen=True)
class Pruned:
    """A smaller module, and how it came about.

    Attributes:
        module: a plain module of its own, in the mode of the one that it was made from.
        groups: everything that could be cut, with the channels before the cut.
        left: channels that could not, with the reason.
        folded: weights that other tensors computed (weight_norm and the like), and that are plain ones now.
        importance: the scores that the choice was made by.
        choice: what is kept, and what it costs.
        masked_difference: largest difference from the masked copy of the unpruned module, in float64, as a fraction of
            the largest output; of a model that writes also that of its steps from its own pass over whole targets.
        sample_shapes: of one sample of each input; multiply-accumulates are those of such a sample.
    """

    module: nn.Module
    groups: tuple[Group, ...]
    left: tuple[Left, ...]
    folded: tuple[str, ...]
    importance: Importance
    choice: Choice
    masked_difference: float
    sample_shapes: tuple[tuple[int, ...], ...]

    @property
    def plan(self) -> dict[str, Any]:
        """What was done, as JSON values: the content of plan.json."""
        measured = {
            "masked_difference": self.masked_difference,
            "sample_shapes": [list(shape) for shape in self.sample_shapes],
        }
        stayed = {"left": [asdict(left) for left in self.left]} if self.left else {}
        return describe(self.groups, self.importance, self.choice) | measured | stayed

    def __str__(self) -> str:
        """What is kept, of what, by which scores."""
        choice, kinds = self.choice, " and ".join(dict.fromkeys(group.kind for group in self.groups))
        reason = ", because the loss has no gradient here" if self.importance.method == "fisher" else ""
        return (
            f"kept {choice.reached:.4f} of the {choice.measure} ({choice.target:.4f} asked), "
            f"{kinds} ranked by {self.importance.method}{reason}"
            + (f"; {len(self.left)} groups of {self.left[0].kind} stay, see plan.json" if self.left else "")
            + (f"; computed weights made plain: {', '.join(self.folded)}" if self.folded else "")
        )


def prune(
    module: nn.Module,
    example: tuple[Tensor, ...],
    scores: Scores,
    *,
    measure: Measure,
    target: float,
    of: int | None = None,
    units: Sequence[encoders.Unit] = DEFAULT_UNITS,
    ranking: Ranking | None = None,
    round_to: int | None = None,
    tolerance: float | None = None,
    protected: Sequence[str] = (),
    where: str = "prune",
) -> Pruned:
    """Return a smaller module that equals the masked copy of the given one.

    Args:
        module: not changed.
        example: positional arguments, the batch in dimension 0, at least 2 samples; the proof runs on them.
        scores: gives the importance of every channel of every group of a module.
        measure: what the target is a share of.
        target: share to keep, 0 to 1.
        of: the cost that the target is a share of; None takes the module's own, and then something must be removed.
        units: what may be cut in a transformer.
        ranking: see `choose`; None takes ``per_cost`` for a transformer with scores in one unit, else ``global``.
        round_to: see `legal_widths`.
        tolerance: largest shortfall below the target, as a share of the unpruned cost; None allows any.
        protected: globs of module paths whose outputs keep all their channels.
        where: named in messages.

    Raises:
        StageError: when a glob matches nothing, there is nothing to cut, the target cannot be reached, nothing was
            removed, or the result is not the masked model.
        ModelError: when a layer that depends on prunable channels cannot be cut; it is named.
    """
    module, given = rewired(folded(module), example), module
    found = _find(module, example, protected=protected, units=units, where=where)
    groups = found.groups
    importance, costs = scores(module, groups), cost_model(module, groups, example)
    by_cost = importance.method != "magnitude" and any(group.kind != "channels" for group in groups)
    now = asdict(costs.cost(keep_all(groups)))[measure]
    choice = choose(
        groups,
        importance.scores,
        costs,
        ranking=ranking or ("per_cost" if by_cost else "global"),
        measure=measure,
        target=target * (now if of is None else of) / now,
        round_to=round_to,
        tolerance=tolerance,
    )
    smaller = copy.deepcopy(module)
    cut.apply(smaller, groups, choice.kept)
    difference = verify.against_masked(module, smaller, groups, choice.kept, example)
    if verify.writes(smaller):
        difference = max(difference, verify.against_steps(smaller, example))
    if of is None and choice.after == choice.before:
        raise StageError(
            "pruning removed nothing",
            expected=f"a cost below {choice.target:.4f} of the unpruned one",
            got=f"{choice.reached:.4f}",
            where=where,
            hint="ask for less, or lower round_to",
        )
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in example)
    return Pruned(smaller, groups, found.left, _computed(given), importance, choice, difference, shapes)


@dataclass(frozen=True)
class Reach:
    """What a prune could do.

    Attributes:
        smallest: least share of the cost that can be kept.
        left: channels that stay, with the reason.
        folded: weights that become plain ones.
        groups: what can be cut.
        costs: prices a choice.
        module: as it would be cut, which groups name the parts of.
    """

    smallest: float
    left: tuple[Left, ...]
    folded: tuple[str, ...]
    groups: tuple[Group, ...] = field(repr=False)
    costs: CostModel = field(repr=False)
    module: nn.Module = field(repr=False)

    def nearest(self, *, measure: Measure, target: float, round_to: int | None) -> float:
        """Share of the cost, at most the target, that is kept where every group loses the same share of its width."""
        scores = magnitude(self.module, self.groups).scores
        choice = choose(
            self.groups, scores, self.costs, ranking="uniform", measure=measure, target=target, round_to=round_to
        )
        return choice.reached


def find_reach(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    measure: Measure,
    units: Sequence[encoders.Unit] = DEFAULT_UNITS,
    round_to: int | None = None,
    protected: Sequence[str] = (),
    where: str = "prune",
) -> Reach:
    """Return how far `prune` could go, without scores; arguments as there.

    After a trial, but for transformers, of which a table says what can be cut.

    Raises:
        StageError: when a glob matches nothing, or there is nothing to cut.
        ModelError: when the model cannot be traced.
    """
    given, module = module, rewired(folded(module), example)
    found = _find(module, example, protected=protected, units=units, where=where, trial=False)
    costs = cost_model(module, found.groups, example)
    least = {
        group.name: group.pick(torch.zeros(group.width), legal_widths(group, round_to)[0]) for group in found.groups
    }
    smallest, whole = (asdict(costs.cost(kept))[measure] for kept in (least, keep_all(found.groups)))
    return Reach(smallest / whole, found.left, _computed(given), found.groups, costs, module)


def tell_left(left: Sequence[Left]) -> list[str]:
    """Return a line for every group of channels that stays, and the globs that say so in a recipe."""
    if not left:
        return []
    globs = ", ".join(json.dumps(item.name) for item in left if item.kind == "channels")
    told = [f"the others are cut; protected: [{globs}] keeps these without a trial"] if globs else []
    return [*map(str, left), *told]


def _computed(module: nn.Module) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for path, name in computed_weights(module))


def _find(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    protected: Sequence[str],
    units: Sequence[encoders.Unit],
    where: str,
    trial: bool = True,
) -> Found:
    """What can be cut, and something can.

    Raises:
        StageError: when a glob matches nothing, or there is nothing to cut.
    """
    found = find(module, example, protected=_matching(module, protected, where=where), units=units, trial=trial)
    if not found.groups:
        raise StageError(
            "the model has no channels that could be removed",
            got="; ".join(map(str, found.left)) or "every layer is an input or output of the model, or protected",
            where=where,
            hint="leave prune out; a smaller student can be distilled",
        )
    return found


def _matching(module: nn.Module, globs: Sequence[str], *, where: str) -> frozenset[str]:
    """Return the paths of the modules that any glob names."""
    paths = [path for path, _ in module.named_modules() if path]
    for glob in globs:
        if not any(fnmatchcase(path, glob) for path in paths):
            raise StageError("protected matches no module", expected=f"one of {paths}", got=glob, where=where)
    return frozenset(path for path in paths if any(fnmatchcase(path, glob) for glob in globs))
