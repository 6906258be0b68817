"""The probes that train: short runs of the student alone and distilled, and one on few samples; their cost first."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.advice import probes
from compress.advice.lesson import Lesson
from compress.advice.measures import SEED, Measure
from compress.errors import UsageError
from compress.loss import GuidedLoss
from compress.loss.logits import Hard, Kl
from compress.measures.intervals import agreement
from compress.models import load_model
from compress.progress import Reporter
from compress.stage import Host, Optimization, Unrecorded, Work
from compress.training.guided import fit_guided
from compress.training.inference import predict
from compress.training.numerics import numerics, place_batch, placed
from compress.training.teacher import num_checked, teacher_outputs

LABELS_ALONE = GuidedLoss(hard=Hard())
SHARE = 0.1  # of the stage's epochs
SHORTEST = 120  # steps of a short run, unless the stage has fewer
SEEDS = 2  # of the short runs, paired
MEMORISED = 512  # samples of the capacity probe
MEMORISED_STEPS = 200
MEMORISED_BATCH = 128
TIMED = 3  # steps, before the cost is told

Fresh = Callable[[int | None], nn.Module]  # gives a new student of a seed


@dataclass(frozen=True)
class Cost:
    """What a pilot takes.

    Attributes:
        steps: updates of the student in the short runs and the capacity probe.
        teacher_images: forward passes of all teachers, at most: what is stored already is not computed again.
        seconds: of all of it, from a few timed steps on this machine.
    """

    steps: int
    teacher_images: int
    seconds: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"pilot: {self.steps:,} steps of the student, at most {self.teacher_images:,} samples through the teacher "
            f"(most of them stored for the run): about {self.seconds:,.0f} s"
        )


def cost(lesson: Lesson, work: Work, host: Host, fresh: Fresh) -> Cost:
    """Return what a pilot takes, from TIMED steps of the student and one batch through the teacher.

    Args:
        lesson: the distillation.
        work: with the teacher and all data.
        host: store, execution.
        fresh: gives the student.
    """
    train, learnt = work.data.train, min(MEMORISED, len(work.data.train))
    schedule, capacity = short(lesson, len(train)), few(lesson, learnt)
    epochs = SEEDS * (2 * schedule.epochs + half_of(schedule).epochs) if _has_labels(work) else 0
    sizes = schedule.batch_size * schedule.accumulate, capacity.batch_size
    updates = epochs * (len(train) // sizes[0]), capacity.epochs * (learnt // sizes[1])
    samples = updates[0] * sizes[0] + updates[1] * sizes[1]
    images = _teacher_images(lesson, work, schedule=schedule, capacity=capacity)
    student, teacher = fresh(SEED), load_model(work.teacher.artifact.path, code=host.code)
    student.train()
    batch = place_batch(work.task.batch(train, torch.arange(min(schedule.batch_size, len(train)))), host.device)
    seconds = []
    with numerics(host, seed=SEED), placed(host, student, teacher):
        for _ in range(TIMED):
            started_s = time.monotonic()
            with host.autocast():
                output = work.task.forward(student, batch)
            loss = output.float().square().mean()
            loss.backward()
            loss.item()  # waits for a device
            seconds.append(time.monotonic() - started_s)
        started_s = time.monotonic()
        with torch.no_grad(), host.autocast():
            work.task.forward(teacher.eval(), batch).sum().item()
        per_image = (time.monotonic() - started_s) / len(batch.index)
    per_sample = min(seconds) / len(batch.index)
    judged = SEEDS * len(work.data.select) * per_sample if epochs else 0.0  # three forward passes, a step's worth
    return Cost(sum(updates), images, samples * per_sample + images * per_image + judged)


def _teacher_images(lesson: Lesson, work: Work, *, schedule: Optimization, capacity: Optimization) -> int:
    """Return the forward passes of all teachers in a pilot: outputs, their live checks, taps that are not stored."""
    train, loss = len(work.data.train), lesson.loss
    learnt = min(MEMORISED, train)
    outputs, live = learnt + capacity.epochs * num_checked(learnt), 0
    if _has_labels(work):
        outputs += len(work.task.views(mixup=loss.mixup)) * train + len(work.data.select)
        outputs += SEEDS * schedule.epochs * num_checked(train)
        live = SEEDS * schedule.epochs * train if loss.feature_terms else 0
    return len(work.teachers) * outputs + live


def _has_labels(work: Work) -> bool:
    """Whether the student alone can be trained and judged; else only capacity is measured."""
    return work.data.train.labels is not None and work.data.select.labels is not None


def pilot(lesson: Lesson, work: Work, host: Host, fresh: Fresh) -> list[Measure]:
    """Measure margin, pilot gain and capacity.

    Args:
        lesson: the distillation.
        work: with the teacher and all data; test is not read.
        host: store, execution.
        fresh: gives a new student of a seed.
    """
    found = [memorise(lesson, work, host, fresh)]
    if not _has_labels(work):
        return found
    select, whole = work.data.select, short(lesson, len(work.data.train))
    half = half_of(whole)
    halves, alone, distilled = (
        [
            right(train(lesson, work, host, fresh, loss=loss, schedule=schedule, seed=seed), work, host)
            for seed in seeds()
        ]
        for loss, schedule in ((LABELS_ALONE, half), (LABELS_ALONE, whole), (lesson.loss, whole))
    )
    logits = teacher_outputs(work, host, select, views=(None,)).logits(None).numpy()
    teacher, share = decide(logits, work), whole.epochs / lesson.optimization.epochs
    margins = [margin(alone, teacher, share=share)]
    if whole.epochs > half.epochs:
        growth = whole.epochs / half.epochs
        margins.append(margin_at_end(halves, alone, teacher, share=share, growth=growth))
    return [*margins, slope(alone, distilled), *found]


def seeds() -> range:
    """Return the seeds of the short runs, apart from those of real ones."""
    return range(900_001, 900_001 + SEEDS)


def short(lesson: Lesson, samples: int) -> Optimization:
    """Return the stage's schedule at the pilot's share of its epochs, at least SHORTEST steps of it."""
    whole = lesson.optimization
    steps = max(1, samples // (whole.batch_size * whole.accumulate))
    return _schedule(whole, epochs=min(whole.epochs, max(round(SHARE * whole.epochs), -(-SHORTEST // steps))))


def half_of(schedule: Optimization) -> Optimization:
    """Return a schedule of half the epochs, rounded down, at least one."""
    return schedule.model_copy(update={"epochs": max(1, schedule.epochs // 2)})


def few(lesson: Lesson, samples: int) -> Optimization:
    """Return how the capacity probe trains: the stage's rule, without decay, for at least MEMORISED_STEPS steps."""
    batch = min(MEMORISED_BATCH, samples)
    epochs = -(-MEMORISED_STEPS // (samples // batch))
    return _schedule(lesson.optimization, epochs=epochs, batch_size=batch, accumulate=1, weight_decay=0.0)


def _schedule(whole: Optimization, **changes: float) -> Optimization:
    fields = {name: getattr(whole, name) for name in Optimization.model_fields}
    return Optimization.model_validate(fields | changes)


def train(
    lesson: Lesson, work: Work, host: Host, fresh: Fresh, *, loss: GuidedLoss, schedule: Optimization, seed: int
) -> nn.Module:
    """Return a student of a seed after a schedule; nothing is committed but the teacher's outputs."""
    student = fresh(seed)
    with tempfile.TemporaryDirectory() as checkpoints:
        fit_guided(
            student,
            work,
            replace(host, recorder=Unrecorded(), checkpoint_every_s=float("inf")),
            loss=loss,
            optimization=schedule,
            seed=seed,
            checkpoints=Path(checkpoints),
            name=f"pilot of {lesson.title}",
            cache_limit_gb=lesson.cache_limit_gb,
        )
    return student


def right(module: nn.Module, work: Work, host: Host) -> NDArray[np.bool_]:
    """Return which select decisions are right, bool [N]."""
    return decide(predict(module, work.task, host, work.data.select).numpy(), work)


def decide(logits: NDArray[np.float32], work: Work) -> NDArray[np.bool_]:
    """Return which select decisions are right, bool [N].

    Raises:
        UsageError: when the task is not one right or wrong decision a sample.
    """
    right = work.task.tally(logits, work.data.select).binary
    if right is None:
        raise UsageError("a pilot compares shares of right samples", expected="accuracy", got=work.task.measure)
    return right


def memorise(lesson: Lesson, work: Work, host: Host, fresh: Fresh) -> Measure:
    """Measure on how many of a few samples a student decides as the teacher does after learning them by heart.

    On the softened KL alone, at the loss's temperature, on plain images. Below about 0.95 the student is too small, or
    the training too weak, to say what the teacher says (Stanton et al. 2021, arXiv 2106.05945, tell the two apart).
    """
    data, loss = work.data, lesson.loss
    samples = data.train.take(np.arange(min(MEMORISED, len(data.train))))
    few_plain = replace(
        work,
        data=replace(data, roles={**data.roles, "train": samples}),
        task=work.task.plain(),
        teachers=tuple(replace(member, task=member.task.plain()) for member in work.teachers),
    )
    silent = replace(host, reporter=Reporter(quiet=True))
    softened = GuidedLoss(kl=Kl(temperature=loss.kl.temperature if loss.kl else 1.0))
    module = train(lesson, few_plain, silent, fresh, loss=softened, schedule=few(lesson, len(samples)), seed=SEED)
    ours = predict(module, few_plain.task, silent, samples).numpy()
    theirs = teacher_outputs(few_plain, silent, samples, views=(None,)).logits(None).numpy()
    value = agreement(ours.argmax(axis=1), theirs.argmax(axis=1))
    return Measure(
        "memorised-agreement", value, detail=f"on {len(samples)} samples after about {MEMORISED_STEPS} steps"
    )


def margin(alone: Sequence[NDArray[np.bool_]], teacher: NDArray[np.bool_], *, share: float) -> Measure:
    """Measure the teacher's accuracy over the student's alone on held-out samples.

    Args:
        alone: right decisions [N] of each seed's short run.
        teacher: of the teacher [N].
        share: of the budget that the short runs had.
    """
    value = probes.bootstrap(_difference, (np.mean(alone, axis=0), teacher.astype(np.float64)), seed=SEED)
    rates = f"teacher {teacher.mean():.2%}, alone {np.mean(alone):.2%} after {share:.0%} of the epochs"
    return Measure("margin", value, detail=rates)


def margin_at_end(
    halves: Sequence[NDArray[np.bool_]],
    alone: Sequence[NDArray[np.bool_]],
    teacher: NDArray[np.bool_],
    *,
    share: float,
    growth: float,
) -> Measure:
    """Measure the same at the end of the budget, by a power law through the student's errors at two budgets.

    Errors fall about as a power of the training (Hestness et al. 2017, arXiv 1712.00409), so as often as the training
    grows by a factor, they are divided by what that divided them by before. Two points fix two numbers: there is
    nothing left to test the law on, and the interval is over samples alone.

    Args:
        halves: right decisions [N] of each seed's run with about half the short budget.
        alone: with the whole short budget.
        teacher: of the teacher [N].
        share: of the stage's budget that the short one is.
        growth: the whole short budget over that of ``halves``, above 1.
    """
    steps = np.log(1 / share) / np.log(growth)

    def remaining(half: probes.Array, whole: probes.Array, theirs: probes.Array) -> float:
        errors = 1 - half.mean(), 1 - whole.mean()
        factor = min(1.0, errors[1] / errors[0]) if errors[0] > 0 else 1.0
        return float(theirs.mean() - (1 - errors[1] * factor**steps))

    arrays = np.mean(halves, axis=0), np.mean(alone, axis=0), teacher.astype(np.float64)
    rates = f"alone {np.mean(halves):.2%}, then {np.mean(alone):.2%} with {growth:.3g} times the training"
    return Measure("margin-at-end", probes.bootstrap(remaining, arrays, seed=SEED), detail=rates)


def slope(alone: Sequence[NDArray[np.bool_]], distilled: Sequence[NDArray[np.bool_]]) -> Measure:
    """Measure the distilled student's accuracy over the student's alone, short runs paired by seed and sample.

    The interval is over samples; that other seeds would differ too is not in it.
    """
    value = probes.bootstrap(_difference, (np.mean(alone, axis=0), np.mean(distilled, axis=0)), seed=SEED)
    by_seed = ", ".join(f"{ours.mean() - rival.mean():+.2%}" for rival, ours in zip(alone, distilled, strict=True))
    return Measure("pilot-gain", value, detail=f"by seed {by_seed}")


def _difference(before: probes.Array, after: probes.Array) -> float:
    return float(after.mean() - before.mean())
