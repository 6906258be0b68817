"""What the guided loss says of channels: importance for pruning, by the loss that the student is trained on."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import nn

from compress.errors import DataError
from compress.loss import GuidedLoss
from compress.progress import Bar
from compress.stage import Compute
from compress.surgery.groups import Group
from compress.surgery.importance import Importance, taylor
from compress.tasks import Batch
from compress.tasks.task import Problem
from compress.training.checks import AnyLoss, outputs_of, readable_loss
from compress.training.given import Plain, problem_of, read_batch
from compress.training.teaching import Objective, Teaching, live_teacher, per_sample_loss


def loss_importance(
    module: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Batch],
    *,
    task: Objective,
    problem: Problem,
    loss: GuidedLoss,
    teacher: Teaching | None,
    seed: int,
) -> Importance:
    """Return how much each channel matters to the loss on some batches; see `taylor`.

    Args:
        module: left as it was.
        groups: its prunable groups.
        batches: read once.
        task: runs the module on a batch, computes the hard loss.
        problem: what the outputs of a unit are.
        loss: of which only terms on logits with a value for each unit count.
        teacher: says what the teachers make of a batch; None when no term reads one.
        seed: of labels drawn from the module's own outputs.
    """
    return taylor(
        module,
        groups,
        batches,
        loss=lambda model, batch: per_sample_loss(model, task, batch, loss=loss, teacher=teacher),
        logits=task.forward,
        seed=seed,
        problem=problem,
    )


def loader_importance(
    module: nn.Module,
    groups: Sequence[Group],
    loader: Iterable[Any],
    host: Compute,
    *,
    loss: AnyLoss,
    teacher: nn.Module | None,
    count: int,
    problem: Problem | None,
    seed: int,
) -> Importance:
    """Return how much each channel matters to a loss, on the first batches of a user's own loader.

    Args:
        module: left as it was.
        groups: its prunable groups.
        loader: any iterable of batches.
        host: execution, progress.
        loss: terms; as values, as a recipe spells them, or the name of a preset.
        teacher: in evaluation mode; None when no term reads one.
        count: batches that are read at most.
        problem: what the outputs are; None reads it off the labels.
        seed: of labels drawn from the module's own outputs.

    Raises:
        DataError: when there are no batches, they are not understood, or the loss has no value for each sample.
        ModelError: when a model does not run on a batch, or a teacher is missing.
    """
    given = iter(loader)
    first = next(given, None)
    if first is None:
        raise DataError("the loader has no batches", where="loader")
    looked_at = read_batch(first)
    task = Plain(problem_of(looked_at.batch.labels, problem), looked_at.names)
    guided = readable_loss(loss, task.problem, teacher)
    if not guided.final_logit_terms(per_unit=True):
        raise DataError(
            "channels are ranked by what the loss says of each sample from its logits alone",
            expected="a term such as hard, kl or dkd",
            got=", ".join(guided.terms),
        )
    outputs_of(module, task, looked_at.batch, role="module")
    teaching = None
    if teacher is not None and guided.needs_teacher:
        outputs_of(teacher, task, looked_at.batch, role="teacher")
        teaching = live_teacher(teacher, task, host, ())

    def batches(bar: Bar) -> Iterator[Batch]:
        yield looked_at.batch
        for more in islice(given, count - 1):
            bar.advance()
            yield read_batch(more).batch

    with host.reporter.bar("prune, importance", count) as bar:
        return loss_importance(
            module, groups, batches(bar), task=task, problem=task.problem, loss=guided, teacher=teaching, seed=seed
        )
