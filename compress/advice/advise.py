"""From a recipe and its data to advice: which probes apply, in what order."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from compress.advice import measures
from compress.advice.lesson import Lesson, lessons
from compress.advice.measures import PROBED, SEED, Measure, draw_probe
from compress.advice.rules import Advice, judge
from compress.data import Samples
from compress.data.checks import MIN_SELECT_SAMPLES
from compress.errors import DataError, UsageError
from compress.models import load_model
from compress.models.fold import duplicate
from compress.recipe import Recipe
from compress.stage import Host, Work
from compress.stages.create import Create

COPY = "the student begins as a copy of the teacher: its capacity, layers and first gradients are the teacher's own"
MANY_DECISIONS = (
    "advice is for tasks of one class a sample and for those that write; for several labels, tags or numbers there is "
    "none yet"
)
NO_TEACHER = (
    "the teacher, or another of the ensemble, is not in the store yet, so what they say is not measured; "
    "`compressor run RECIPE --until teacher` trains it and nothing else"
)


def advise(recipe: Recipe, work: Work, host: Host, *, also: Sequence[Measure] = ()) -> Advice:
    """Return what can be known of a recipe's distillations before they are paid for; test is not read.

    Args:
        recipe: as it is run.
        work: of the run; while it has no teacher, only what needs none is measured.
        host: store, execution.
        also: what a pilot measured.
    """
    found_lessons = lessons(recipe)
    if not found_lessons:
        return Advice((), ("the recipe distils nothing from a teacher: there is nothing to advise on",))
    if work.task.deployed.problem == "written":
        return judge([*also, *_of_writing(recipe, work, host, found_lessons)])
    if not one_decision(work):
        return Advice((), (MANY_DECISIONS,))
    few, reference = replace(work, data=draw_probe(work.data)), reference_sample(recipe, work, host)
    found: list[Measure] = measures.shift(few.data, reference)
    notes = [COPY] if recipe.student == "teacher" else []
    for lesson in found_lessons:
        found += _of_lesson(measures.conformance(lesson.loss), lesson, found_lessons)
    if not work.teachers:
        found += _untaught(recipe, few, host)
        return judge(found, notes=[*notes, NO_TEACHER])
    teacher = load_model(work.teacher.artifact.path, code=host.code)
    make = fresh(recipe, work, host)
    student = duplicate(teacher) if make is None else make(None)
    train = measures.train_logits(few, host, found_lessons[0].loss, student, teacher)
    found += measures.of_teacher(few, host, train, reference=reference)
    example = few.task.batch(few.data.select, torch.arange(2)).inputs
    if make is not None:
        found += measures.capacity(student, teacher, example)
    for lesson in found_lessons:
        loss = lesson.loss
        own = measures.softness(train, loss)
        if make is not None:
            own += measures.logits_only(loss, student, teacher, example)
            own += measures.pairing(loss, student, teacher, few, host)
            own += measures.audit(loss, few, host, student=student, teacher=teacher)
        found += _of_lesson(own, lesson, found_lessons)
    return judge([*found, *also], notes=notes)


def pilot_of(recipe: Recipe, work: Work, host: Host) -> tuple[Lesson, Callable[[int | None], nn.Module]]:
    """Return the distillation that a pilot tries, the first one, and what makes its student.

    Raises:
        UsageError: when there is none, no teacher yet, no student of its own, or the task is not judged by accuracy.
    """
    if not one_decision(work) or work.task.measure != "accuracy":
        raise UsageError(
            "a pilot compares shares of right samples",
            expected="a task of one class a sample, judged by accuracy",
            got=f"{work.task.problem}, judged by {work.task.measure}",
            hint="leave out --pilot",
        )
    found, make = lessons(recipe), fresh(recipe, work, host)
    if not work.teachers:
        raise UsageError(
            "a pilot needs the teacher", got="none in the store", hint="compressor run RECIPE --until teacher"
        )
    if not found or make is None:
        raise UsageError(
            "there is no fresh student to try", expected="a recipe that distils into a model of its own", hint=COPY
        )
    return found[0], make


def one_decision(work: Work) -> bool:
    """Whether each sample is decided for one class."""
    return work.task.problem == "single-label" and bool((work.task.units(work.data.select) == 1).all())


def fresh(recipe: Recipe, work: Work, host: Host) -> Callable[[int | None], nn.Module] | None:
    """Return what makes the student from a seed, None for the run's own; None when it is a copy of the teacher."""
    if recipe.student == "teacher":
        return None
    create = Create(model=recipe.student)

    def make(seed: int | None) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(create.seed(None, work, host) if seed is None else seed)
            return create.build(work, host)

    return make


def reference_sample(recipe: Recipe, work: Work, host: Host) -> Samples | None:
    """Return a sample of what the teacher was trained on, if the recipe names any.

    Raises:
        DataError: when its samples are not the task's, or too few to tell anything.
    """
    if recipe.teacher.reference is None:
        return None
    raw, ours = recipe.data.open(recipe.teacher.reference, code=host.code), work.data.train.inputs
    samples = raw.roles.get("train")
    if samples is None or len(samples) < MIN_SELECT_SAMPLES:
        raise DataError(
            "the teacher's reference sample is too small",
            expected=f"a train role of {MIN_SELECT_SAMPLES} samples or more",
            got="no train role" if samples is None else len(samples),
            where="teacher.reference",
        )
    if samples.inputs.shape[1:] != ours.shape[1:] or samples.inputs.dtype != ours.dtype:
        raise DataError(
            "the teacher's reference sample does not fit the data",
            expected=f"{ours.dtype} {list(ours.shape[1:])}",
            got=f"{samples.inputs.dtype} {list(samples.inputs.shape[1:])}",
            where="teacher.reference",
        )
    order = np.random.default_rng(SEED).permutation(len(samples))
    return samples.take(np.sort(order[:PROBED]))


def _untaught(recipe: Recipe, work: Work, host: Host) -> list[Measure]:
    """Measure what an untrained teacher shows."""
    make, model = fresh(recipe, work, host), recipe.teacher.model
    if make is None or model is None:
        return []
    teacher = Create(model=model).build(work, host)
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    return measures.capacity(make(None), teacher, example)


def _of_writing(recipe: Recipe, work: Work, host: Host, among: Sequence[Lesson]) -> list[Measure]:
    """Measure what is known of models that write before they do; what teachers write, the pipeline measures."""
    if work.teachers:
        make, example = fresh(recipe, work, host), work.task.batch(work.data.select, torch.arange(2)).inputs
        teacher = load_model(work.teacher.artifact.path, code=host.code)
        found = [] if make is None else measures.capacity(make(None), teacher, example)
    else:
        found = _untaught(recipe, work, host)
    for lesson in among:
        found += _of_lesson(measures.conformance(lesson.loss), lesson, among)
    return found


def _of_lesson(found: Sequence[Measure], lesson: Lesson, among: Sequence[Lesson]) -> list[Measure]:
    """Return measures with the stage in their subject, where there are several lessons."""
    if len(among) == 1:
        return list(found)
    return [replace(measure, subject=f"{lesson.title} {measure.subject}".strip()) for measure in found]
