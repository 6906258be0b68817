"""Fewer symbols for a model that writes: vocabularies, embeddings and the output layer together.

A unit of what is learnt must stay one: else a teacher with all symbols could not be compared symbol by symbol. So the
pieces of words that train's texts to be written consist of all stay, and such a text is split as before. Characters and
words that go become the unknown symbol, one for one.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.data import Data, Samples
from compress.errors import ModelError, StageError
from compress.models import CausalTransformer, Transducer
from compress.models.causal_lm import CausalLogits
from compress.models.fold import duplicate
from compress.models.seq2seq import Seq2SeqLogits
from compress.tasks import TransductionTask
from compress.tasks.pieces import Pieces
from compress.tasks.symbols import UNKNOWN

ROLES = ("train", "select")  # that what is lost is counted on
WRITERS = (Transducer, Seq2SeqLogits, CausalTransformer, CausalLogits)  # with `keep_symbols`
EQUAL = 1e-12  # as a fraction of the largest logit, in float64


@dataclass(frozen=True)
class Fewer:
    """A task with fewer symbols.

    Attributes:
        before: the task with all of them.
        task: reads and writes those that are kept.
        source: the number before of each number after, int64, ascending.
        target: the same of what is written.
    """

    before: TransductionTask
    task: TransductionTask
    source: NDArray[np.int64]
    target: NDArray[np.int64]

    def facts(self, data: Data) -> dict[str, Any]:
        """How many symbols there are, and what share of texts has some that cannot be read, or cannot be written."""
        sides = {"source": self.source, "target": self.target}
        before = {"source": self.before.vocabularies.source, "target": self.before.vocabularies.target}
        counts = {side: {"before": len(before[side].names), "after": len(old)} for side, old in sides.items()}
        lost = {
            name: {role: [count(task, data.roles[role]) for task in (self.before, self.task)] for role in ROLES}
            for name, count in (("unread_fraction", share_unread), ("unwritable_fraction", share_unwritable))
        }
        return {"symbols": counts, **lost}


def tell(facts: dict[str, Any]) -> str:
    """Return what `Fewer.facts` found, in a sentence."""
    kept = " and ".join(
        f"{counts['after']:,} of {counts['before']:,} {side} symbols" for side, counts in facts["symbols"].items()
    )
    told = ", ".join(
        f"{before:.2%} of {role}'s texts {verb} before and {after:.2%} after"
        for verb, name in (("had symbols unknown", "unread_fraction"), ("could not be written", "unwritable_fraction"))
        for role, (before, after) in facts[name].items()
    )
    return f"keeps {kept}; {told}"


def choose_symbols(
    module: nn.Module, task: TransductionTask, data: Data, *, min_count: int, further: Collection[str], where: str
) -> Fewer:
    """Return the task with the symbols that train needs.

    Args:
        module: reads and writes all of them; not changed.
        task: as the module reads.
        data: with the train role.
        min_count: symbols that occur less often in train go; of pieces those to be written stay.
        further: texts to be read whose symbols stay.
        where: named in messages.

    Raises:
        ModelError: when the model's symbols are not known, or both sides number theirs apart in one table.
        StageError: when all symbols are needed.
    """
    source, target = task.vocabularies.source, task.vocabularies.target
    if not isinstance(module, WRITERS):
        raise ModelError(
            "where the model keeps its symbols is not known",
            expected="a model of a family that writes",
            got=type(module).__name__,
            where=where,
            hint="leave prune-vocabulary out",
        )
    shared = not isinstance(module, Transducer)
    if shared and source != target:
        raise ModelError(
            "source and target have one table of embeddings, in which each numbers symbols of its own",
            expected="one tokenizer for both",
            got=f"{len(source.names)} symbols to read, {len(target.names)} to write",
            where=where,
            hint="leave prune-vocabulary out",
        )
    read = _frequent(task.sources(data.train).numbers, min_count)
    read |= {number for row in source.encode_all([*further]) for number in row}
    written = _frequent(task.targets(data.train).numbers, 1 if isinstance(target, Pieces) else min_count)
    smaller, of_source = source.keep(read | written if shared else read)
    writable, of_target = (smaller, of_source) if shared else target.keep(written)
    if len(of_source) == len(source.names) and len(of_target) == len(target.names):
        raise StageError(
            "all symbols are needed",
            got=f"{len(of_source)} to read, {len(of_target)} to write",
            where=where,
            hint="raise min_count",
        )
    vocabularies = replace(task.vocabularies, source=smaller, target=writable)
    return Fewer(task, replace(task, vocabularies=vocabularies), of_source, of_target)


def check_logits(before: nn.Module, after: nn.Module, fewer: Fewer, samples: Samples, *, most: int, where: str) -> None:
    """Compare logits of kept symbols on samples of kept symbols alone, in float64.

    Args:
        before: with all symbols.
        after: with fewer.
        fewer: which.
        samples: a labelled role.
        most: samples that are compared.
        where: named in messages.

    Raises:
        StageError: when they differ.
    """
    same = np.array([True] * len(samples))
    for old, ours, theirs in (
        (fewer.source, fewer.task.sources(samples), fewer.before.sources(samples)),
        (fewer.target, fewer.task.targets(samples), fewer.before.targets(samples)),
    ):
        own, given = (np.split(side.numbers, side.starts[1:-1]) for side in (ours, theirs))
        same &= [np.array_equal(old[new], all_) and UNKNOWN not in all_ for new, all_ in zip(own, given, strict=True)]
    index = torch.from_numpy(np.flatnonzero(same)[:most])
    if not len(index):
        return
    with torch.no_grad():
        found, expected = (
            task.forward(duplicate(module).cpu().double().eval(), task.batch(samples, index))
            for task, module in ((fewer.task, after), (fewer.before, before))
        )
    expected = expected[:, torch.from_numpy(fewer.target)]
    if isinstance(after, CausalLogits):  # what it has not is as far below the least likely of those that are left
        found, expected = found[:, ~after.absent], expected[:, ~after.absent]
    apart, scale = float((found - expected).abs().max()), float(expected.abs().max())
    if not apart <= EQUAL * scale:
        raise StageError(
            "logits changed on texts whose symbols are all kept",
            expected=f"difference at most {EQUAL * scale:.3g}",
            got=f"{apart:.3g}",
            where=where,
        )


def share_unread(task: TransductionTask, samples: Samples) -> float:
    """Return the share of a role's sources with a symbol that is unknown."""
    rows = task.vocabularies.source.encode_all(samples.array.tolist())
    return float(np.mean([UNKNOWN in row for row in rows]))


def share_unwritable(task: TransductionTask, samples: Samples) -> float:
    """Return the share of a role's samples of which no right text can be written."""
    if samples.labels is None:
        return 0.0
    target = task.vocabularies.target
    return float(np.mean([all(UNKNOWN in row for row in target.encode_all([*texts])) for texts in samples.labels]))


def _frequent(numbers: NDArray[np.int64], least: int) -> set[int]:
    found, counts = np.unique(numbers, return_counts=True)
    return {*found[counts >= least].tolist()}
