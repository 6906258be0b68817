"""The pilot on digits: a capacity gap and a thin margin are caught, their healthy twin is not, and costs come first."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.advice import pilot
from compress.advice.lesson import Lesson
from compress.advice.rules import judge
from compress.loss import GuidedLoss
from compress.models import Cnn
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.train import Train

STAGE = Distill(epochs=40, batch_size=50, learning_rate=0.1, loss=GuidedLoss(preset="hinton"))
ENOUGH = Cnn(widths=(16, 32, 32), strides=(1, 2, 1))
TINY = Cnn(widths=(1, 1), strides=(4, 2))


def lesson(stage: Distill) -> Lesson:
    assert stage.loss is not None
    return Lesson(stage.title, stage.loss, stage, stage.cache_limit_gb)


LESSON = lesson(STAGE)


def maker(context, model):
    def fresh(seed):
        torch.manual_seed(0 if seed is None else seed)
        return model.build(context.task.signature, code=())

    return fresh


def warned(found):
    return {finding.probe for finding in judge(found).warnings}


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


def test_a_student_that_can_is_told_from_one_that_cannot(context):
    assert not warned([pilot.memorise(LESSON, *context, maker(context, ENOUGH))])
    assert warned([pilot.memorise(LESSON, *context, maker(context, TINY))]) == {"memorised-agreement"}


def test_a_thin_margin_is_caught_and_training_confirms_it(context):
    """The teacher saw a fortieth of the epochs that the student has."""
    weak = Train(epochs=1, batch_size=100, learning_rate=0.02).run(Create(model=ENOUGH).run(None, *context), *context)
    here = replace(context, teacher=weak)
    found = {measure.probe: measure for measure in pilot.pilot(LESSON, *here, maker(here, ENOUGH))}
    assert {"margin", "margin-at-end"} <= warned(found.values())
    accuracies = [
        pilot.right(
            pilot.train(LESSON, *here, maker(here, ENOUGH), loss=loss, schedule=pilot.short(LESSON, 1000), seed=1),
            *here,
        ).mean()
        for loss in (STAGE.loss, pilot.LABELS_ALONE)
    ]
    assert accuracies[0] < accuracies[1]


def test_seeds_are_paired_and_the_same_call_gives_the_same_numbers(context):
    stage = STAGE.model_copy(update={"epochs": 2})
    runs = [
        pilot.train(lesson(stage), *context, maker(context, TINY), loss=stage.loss, schedule=stage, seed=3)
        for _ in range(2)
    ]
    assert all(torch.equal(*pair) for pair in zip(*(run.state_dict().values() for run in runs), strict=True))


@pytest.mark.parametrize("labelled", [True, False])
def test_the_cost_counts_the_steps_that_are_made_and_what_the_teachers_see(context, monkeypatch, labelled):
    import compress.training.teacher

    stage = STAGE.model_copy(update={"epochs": 3, "accumulate": 2, "batch_size": 25})
    if not labelled:
        roles = {**context.data.roles, "train": replace(context.data.train, labels=None)}
        context = replace(context, data=replace(context.data, roles=roles))
        stage = stage.model_copy(update={"loss": GuidedLoss(preset="born-again")})
    context = replace(context, ensemble=((Create(model=TINY).run(None, *context), 1.0),))
    steps, seen, fit, forward = [], [], pilot.fit_guided, compress.training.teacher.forward_all

    def fitted(*arguments, **options):
        steps.append(fit(*arguments, **options).steps)

    def forwarded(*arguments, index, **options):
        seen.append(len(index))
        return forward(*arguments, index=index, **options)

    monkeypatch.setattr(pilot, "fit_guided", fitted)
    monkeypatch.setattr(compress.training.teacher, "forward_all", forwarded)
    told = pilot.cost(lesson(stage), *context, maker(context, TINY))
    pilot.pilot(lesson(stage), *context, maker(context, TINY))
    assert told.steps == sum(steps)
    assert told.teacher_images == sum(seen)
    assert told.seconds > 0
    assert f"{told.steps:,} steps" in str(told)


def test_a_short_run_has_a_tenth_of_the_epochs_but_enough_steps():
    assert pilot.short(LESSON, 50 * 100).epochs == 4
    assert pilot.short(LESSON, 50 * 20).epochs == 6  # 120 steps
    assert pilot.short(lesson(STAGE.model_copy(update={"epochs": 2})), 1000).epochs == 2


def test_margins_are_by_hand():
    half, whole, teacher = np.zeros(100, bool), np.zeros(100, bool), np.zeros(100, bool)
    half[:60], whole[:80], teacher[:95] = True, True, True
    assert pilot.margin([whole], teacher, share=0.5).value.value == pytest.approx(0.15)
    # Errors 0.4, then 0.2; two more doublings make 0.05.
    measure = pilot.margin_at_end([half], [whole], teacher, share=0.25, growth=2)
    assert measure.value.value == pytest.approx(0.0, abs=1e-9)
    # More training that did not help is not extrapolated to worse.
    worse = pilot.margin_at_end([whole], [half], teacher, share=0.25, growth=2)
    assert worse.value.value == pytest.approx(0.95 - 0.6)
    # The same errors after a third of the short budget, which is a ninth of the whole: two more such steps.
    tripled = pilot.margin_at_end([half], [whole], teacher, share=1 / 9, growth=3)
    assert tripled.value.value == pytest.approx(0.0, abs=1e-9)
    gain = pilot.slope([half, half], [whole, half])
    assert gain.value.value == pytest.approx(0.1)
    assert gain.value.low < 0.1 < gain.value.high


def test_without_labels_only_capacity_is_measured(context):
    data = context.data
    unlabelled = replace(data, roles={**data.roles, "train": replace(data.train, labels=None)})
    found = pilot.pilot(
        lesson(STAGE.model_copy(update={"loss": GuidedLoss(preset="born-again")})),
        *replace(context, data=unlabelled),
        maker(context, TINY),
    )
    assert [measure.probe for measure in found] == ["memorised-agreement"]


def test_test_is_not_read_and_one_epoch_is_not_extrapolated(context):
    data = context.data
    empty = {**data.roles, "test": data.test.take(np.arange(0))}
    here = replace(context, data=replace(data, roles=empty))
    for epochs, extrapolated in ((1, set()), (2, {"margin-at-end"})):
        stage = STAGE.model_copy(update={"epochs": epochs})
        found = {measure.probe for measure in pilot.pilot(lesson(stage), *here, maker(here, TINY))}
        assert found == {"margin", "pilot-gain", "memorised-agreement"} | extrapolated
