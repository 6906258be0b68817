"""The verdict: one read of test, for the rows that it is about."""

from dataclasses import replace

import pytest

from compress.judge.contenders import Contender
from compress.judge.race import run_race
from compress.judge.scores import score
from compress.judge.verdict import read_rows, read_test
from compress.measures.intervals import estimate_change
from compress.recipe.sections import Gates
from compress.stages.quantize import Quantize


@pytest.fixture
def quantized(context, teacher) -> Contender:
    artifact = Quantize.without_limits(mode="dynamic").run(teacher.artifact, *context)
    return Contender("quantize", artifact, score(artifact, *context, role="select", teacher=teacher.scores))


def test_rows_are_compared_with_the_first_on_the_same_samples(context, teacher, quantized):
    scores = [score(teacher.artifact, *context, role="test", teacher=None)]
    scores.append(score(quantized.artifact, *context, role="test", teacher=scores[0]))
    first, second = read_rows([teacher, quantized], scores, context.task, seed=0)
    assert (first.change, first.changes, first.mcnemar_p, first.agreement) == (None, {}, None, None)
    assert first.samples == second.samples == len(context.data.test)
    theirs, ours = (found.correct for found in scores)
    assert second.accuracy.value == ours.mean()
    assert second.change == estimate_change(ours, theirs, seed=0)
    assert second.changes.keys() == second.measures.keys() == first.measures.keys()
    assert next(iter(second.measures)) == context.task.measure
    assert second.agreement.low <= second.agreement.value <= 1


def test_the_verdict_is_about_teacher_faster_rival_and_what_ships(recipe, context, teacher, quantized, tmp_path):
    recipe = recipe.model_copy(update={"gates": Gates(max_accuracy_drop=0.5, min_speedup=1e9)})
    slower = replace(quantized, name="slower")
    contenders = [teacher, slower, quantized, replace(quantized, name="distill")]
    race = run_race(recipe, *context, contenders, rivals=("slower", "quantize"), directory=tmp_path)
    verdict = read_test(recipe, *context, contenders, race, fitted=None)
    assert [row.name for row in verdict.test] == ["teacher", race.rival, "distill"]
    assert verdict.teacher.change is None
    assert verdict.shipped.change == verdict.test[1].change  # they are one file
    assert verdict.change_from_rival.value == 0
    drop, speed = verdict.gates
    assert (drop.passed, speed.passed, verdict.passed) == (True, False, False)
    assert drop.estimate == -verdict.shipped.change.value
    assert drop.judged == -verdict.shipped.change.low
    assert speed.remedy
    found = verdict.mistakes
    right = found.both_right + found.student_alone_right
    assert right / found.units == verdict.shipped.accuracy.value


def test_without_gates_nothing_passes_or_fails(recipe, context, teacher, quantized, tmp_path):
    contenders = [teacher, quantized]
    race = run_race(recipe, *context, contenders, rivals=("quantize",), directory=tmp_path)
    verdict = read_test(recipe, *context, contenders, race, fitted=None)
    assert verdict.gates == ()
    assert verdict.passed is None
