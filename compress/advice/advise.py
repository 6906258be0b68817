"""From a recipe and its context to advice: which probes apply, in what order."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from compress.advice import measures
from compress.advice.measures import PROBED, SEED, Measure, probed
from compress.advice.rules import Advice, judged
from compress.data import Samples
from compress.data.checks import MIN_SELECT_SAMPLES
from compress.errors import DataError, UsageError
from compress.models import load_model
from compress.recipe import Recipe, Teacher
from compress.stage import Context
from compress.stages.create import Create
from compress.stages.distill import Distill

COPY = "the student begins as a copy of the teacher: its capacity, layers and first gradients are the teacher's own"
MANY_DECISIONS = "advice is for tasks of one class a sample; for several labels, words or numbers there is none yet"
NO_TEACHER = (
    "the teacher, or another of the ensemble, is not in the store yet, so what they say is not measured; "
    "`compressor run RECIPE --until teacher` trains it and nothing else"
)


def advise(recipe: Recipe, context: Context, *, also: Sequence[Measure] = ()) -> Advice:
    """Return what can be known of a recipe's distillations before they are paid for; test is not read.

    Args:
        recipe: as it is run.
        context: of the run; while it has no teacher, only what needs none is measured.
        also: what a pilot measured.
    """
    stages = guided(recipe, context)
    if not stages:
        return Advice((), ("the recipe distils nothing from a teacher: there is nothing to advise on",))
    if not one_decision(context):
        return Advice((), (MANY_DECISIONS,))
    few, reference = replace(context, data=probed(context.data)), reference_sample(recipe.teacher, context)
    found: list[Measure] = measures.shift(few.data, reference)
    notes = [COPY] if recipe.student == "teacher" else []
    for title, stage in stages.items():
        for measure in measures.conformance(stage.guided_loss(context)):
            found.append(_of_stage(measure, title, stages))
    if context.teacher is None:
        found += _untaught(recipe, few)
        return judged(found, notes=[*notes, NO_TEACHER])
    teacher = load_model(context.teacher.path, code=context.code)
    make = fresh(recipe, context)
    student = copy.deepcopy(teacher) if make is None else make(None)
    first = next(iter(stages.values())).guided_loss(context)
    train = measures.train_logits(few, first, student, teacher)
    found += measures.of_teacher(few, train, reference=reference)
    example = few.task.batch(few.data.select, torch.arange(2)).inputs
    if make is not None:
        found += measures.capacity(student, teacher, example)
    for title, stage in stages.items():
        loss = stage.guided_loss(context)
        own = measures.softness(train, loss)
        if make is not None:
            own += measures.logits_only(loss, student, teacher, example)
            own += measures.pairing(loss, student, teacher, few)
            own += measures.audit(loss, few, student=student, teacher=teacher)
        found += [_of_stage(measure, title, stages) for measure in own]
    return judged([*found, *also], notes=notes)


def pilot_of(recipe: Recipe, context: Context) -> tuple[Distill, Callable[[int | None], nn.Module]]:
    """Return the distillation that a pilot tries, the first one, and what makes its student.

    Raises:
        UsageError: when there is none, no teacher yet, no student of its own, or the task is not judged by accuracy.
    """
    if not one_decision(context) or context.task.measure != "accuracy":
        raise UsageError(
            "a pilot compares shares of right samples",
            expected="a task of one class a sample, judged by accuracy",
            got=f"{context.task.problem}, judged by {context.task.measure}",
            hint="leave out --pilot",
        )
    stages, make = guided(recipe, context), fresh(recipe, context)
    if context.teacher is None:
        raise UsageError(
            "a pilot needs the teacher", got="none in the store", hint="compressor run RECIPE --until teacher"
        )
    if not stages or make is None:
        raise UsageError(
            "there is no fresh student to try", expected="a recipe that distils into a model of its own", hint=COPY
        )
    return next(iter(stages.values())), make


def one_decision(context: Context) -> bool:
    """Whether each sample is decided for one class."""
    return context.task.problem == "single-label" and bool((context.task.units(context.data.select) == 1).all())


def guided(recipe: Recipe, context: Context) -> dict[str, Distill]:
    """Return the stages that learn from a teacher, by name, each loss once."""
    found: dict[str, Distill] = {}
    for stage in recipe.stages:
        if isinstance(stage, Distill) and stage.guided_loss(context).needs_teacher:
            found.setdefault(stage.guided_loss(context).fingerprint, stage)
    return {stage.title: stage for stage in found.values()}


def fresh(recipe: Recipe, context: Context) -> Callable[[int | None], nn.Module] | None:
    """Return what makes the student from a seed, None for the run's own; None when it is a copy of the teacher."""
    if recipe.student == "teacher":
        return None
    create = Create(model=recipe.student)

    def make(seed: int | None) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(create.seed(None, context) if seed is None else seed)
            return create.built(context)

    return make


def reference_sample(given: Teacher, context: Context) -> Samples | None:
    """Return a sample of what the teacher was trained on, if the recipe names any.

    Raises:
        DataError: when its samples are not the task's, or too few to tell anything.
    """
    if given.reference is None:
        return None
    samples, ours = given.reference.load(code=context.code).roles.get("train"), context.data.train.inputs
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


def _untaught(recipe: Recipe, context: Context) -> list[Measure]:
    """Measure what an untrained teacher shows."""
    make, model = fresh(recipe, context), recipe.teacher.model
    if make is None or model is None:
        return []
    teacher = Create(model=model).built(context)
    example = context.task.batch(context.data.select, torch.arange(2)).inputs
    return measures.capacity(make(None), teacher, example)


def _of_stage(measure: Measure, title: str, stages: dict[str, Distill]) -> Measure:
    """Return the measure with the stage in its subject, where there are several."""
    return measure if len(stages) == 1 else replace(measure, subject=f"{title} {measure.subject}".strip())
