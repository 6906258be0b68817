"""The verdict: what it needs measured, what it hands to the workers, when it stops."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import text_zoo

from compress.benchmark.process import Worker
from compress.benchmark.runtimes.worker import batches
from compress.errors import StageError
from compress.models import HuggingFace
from compress.recipe import Recipe
from compress.recipe.sections import Benchmark, Gates, Limits, ProfileChoice
from compress.scoring import score
from compress.stages.create import Create
from compress.verdict import RACED_SAMPLES, Contender, _check_measured, judge, run_race

RECIPE = """
name: raced
data: {source: digits}
teacher: {artifact: nowhere}
student: teacher
stages: [distill]
benchmark: {preset: quick, profiles: [{}]}
"""


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path())


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


@pytest.fixture
def teacher(context, trained_digits) -> Contender:
    return Contender("teacher", trained_digits, score(trained_digits, context, role="select", teacher=None))


def test_a_file_that_its_worker_cannot_load_is_told_with_the_reason(recipe, context, teacher, tmp_path):
    path = tmp_path / "broken"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"not a model")
    scores = replace(teacher.scores, artifact=replace(teacher.scores.artifact, path=path))
    contenders = [
        teacher,
        Contender("rival", teacher.artifact, teacher.scores),
        Contender("small", teacher.artifact, scores),
    ]
    with pytest.raises(StageError, match=r"(?s)small could not be measured.*INVALID_PROTOBUF.*ort-cpu-b1-t1"):
        judge(recipe, context, contenders, rivals=("rival",), work=tmp_path)


def test_a_request_to_stop_is_heard_before_the_next_profile(recipe, context, teacher, tmp_path):
    contenders = [teacher, Contender("rival", teacher.artifact, teacher.scores)]
    with pytest.raises(KeyboardInterrupt):
        judge(recipe, replace(context, interrupted=lambda: True), contenders, rivals=("rival",), work=tmp_path)
    assert np.load(tmp_path / "inputs.npz")["pixel_values"].shape == (256, 1, 8, 8)


def test_a_file_is_scored_in_the_runtime_that_was_timed(recipe, context, teacher, tmp_path):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino", batch_size=4))
    recipe = recipe.model_copy(update={"benchmark": Benchmark(preset="quick", profiles=profiles)})
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    document = run_race(recipe, context, contenders, rivals=("small",), work=tmp_path).document
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows["small"]["runtime_accuracy"]) == {"openvino-b4-t1"}  # the other is what scored the file before
    found = rows["small"]["runtime_accuracy"]["openvino-b4-t1"]
    assert found["samples"] == len(context.data.select)
    assert found["accuracy"]["value"] == pytest.approx(teacher.scores.accuracy)
    assert found["teacher_agreement"] == 1
    assert found["change"]["value"] == 0
    assert "samples are few" in found["doubt"]
    assert "change" not in rows["teacher"]["runtime_accuracy"]["openvino-b4-t1"]
    assert rows["small"]["macs"] == teacher.scores.facts["macs"]
    assert set(rows["small"]["verdict"]) == {"ort-cpu-b1-t1", "openvino-b4-t1"}
    json.dumps(document, allow_nan=False)


def test_a_verdict_does_not_rest_on_a_software_adapter():
    with pytest.raises(StageError, match="software adapter"):
        _check_measured(Mock(ranked=False), needed=())


def test_texts_are_raced_at_their_own_lengths(recipe, make_context, tmp_path):
    data = text_zoo.review_data()
    folder = text_zoo.make_bert(tmp_path / "bert")
    context = replace(make_context(), data=data, task=text_zoo.text_task(folder, data))
    created = Create(model=HuggingFace(path=str(folder))).run(None, context)
    teacher = Contender("teacher", created, score(created, context, role="select", teacher=None))
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    document = run_race(recipe, context, contenders, rivals=("small",), work=tmp_path).document
    assert document["comparisons"][0]["measurements"]["small"]["settings"]["shapes_vary"]
    with Worker() as worker:  # the module is run in the same way
        assert worker.load(runtime="torch-cpu", model=created.path, inputs=tmp_path / "inputs.npz")["settings"][
            "shapes_vary"
        ]
    raced = batches(tmp_path / "inputs.npz", batch_size=1)
    lengths = context.task.encoded(data.select).lengths[:RACED_SAMPLES]
    expected = np.quantile(lengths, (np.arange(len(raced)) + 0.5) / len(raced), method="inverted_cdf")
    np.testing.assert_allclose(sorted(batch["input_ids"].shape[1] for batch in raced), expected, atol=1)
    assert len(set(lengths.tolist())) > 2
    assert all(batch["attention_mask"].all() for batch in raced)
