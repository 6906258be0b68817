"""Accuracy in the very runtime that was timed."""

import json
from dataclasses import asdict, replace
from unittest.mock import Mock

import numpy as np
import pytest

from compress.benchmark.measure import Profile
from compress.judge.contenders import Contender
from compress.judge.race import run_race, write_samples
from compress.judge.runtime_accuracy import score_in_runtimes
from compress.recipe.sections import Benchmark, ProfileChoice


def test_a_file_is_scored_in_the_runtime_that_was_timed(recipe, context, teacher, tmp_path):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino", batch_size=4))
    recipe = recipe.model_copy(update={"benchmark": Benchmark(preset="quick", profiles=profiles)})
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    result = run_race(recipe, *context, contenders, rivals=("small",), directory=tmp_path).result
    rows = {row.name: row for row in result.rows}
    assert set(rows["small"].runtime_accuracy) == {"ort-cpu-b1-t1", "openvino-b4-t1"}
    found = rows["small"].runtime_accuracy["openvino-b4-t1"]
    assert found.samples == len(context.data.select)
    assert found.accuracy.value == pytest.approx(teacher.scores.accuracy)
    assert found.teacher_agreement == 1
    assert found.change.value == 0
    assert "samples are few" in found.doubt
    assert rows["teacher"].runtime_accuracy["openvino-b4-t1"].change is None
    here = rows["small"].runtime_accuracy["ort-cpu-b1-t1"]  # from what scored the file before
    assert here.accuracy.value == teacher.scores.accuracy
    assert here.accuracy == rows["small"].accuracy
    assert (here.change.value, here.mcnemar_p, here.teacher_kl_nats) == (0, 1, 0)
    assert "samples are few" in here.doubt
    assert rows["teacher"].runtime_accuracy["ort-cpu-b1-t1"].change is None
    assert rows["small"].macs == teacher.scores.facts.macs
    assert set(rows["small"].verdict) == {"ort-cpu-b1-t1", "openvino-b4-t1"}
    json.dumps(asdict(result), allow_nan=False)


def test_a_software_adapter_scores_some_of_the_samples_and_can_be_stopped_between_files(
    context, teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr("compress.judge.runtime_accuracy.SOFTWARE_SAMPLES", 40)
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    timed = dict.fromkeys(["teacher", "small"])
    comparison = Mock(ranked=False, measurements=timed, profile=Profile(runtime="openvino"))
    inputs = write_samples(contenders, context.work, tmp_path)
    found = score_in_runtimes(contenders, [comparison], *context, inputs=inputs, seed=0)["small"]["openvino-b1-t1"]
    assert found.samples == 40 < len(context.data.select)
    rows = context.task.tally(teacher.scores.logits[:40], context.data.select.take(np.arange(40)))
    assert found.accuracy.value == pytest.approx(rows.value)
    assert found.teacher_agreement == 1
    answers = iter([False, True])
    stopped = replace(context, interrupted=lambda: next(answers))
    with pytest.raises(KeyboardInterrupt):
        score_in_runtimes(contenders, [comparison], *stopped, inputs=inputs, seed=0)
