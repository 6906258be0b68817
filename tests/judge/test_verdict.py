"""The verdict: what it needs measured, what it hands to the workers, when it stops."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import text_zoo

from compress.benchmark import tables
from compress.benchmark.compare import Comparison
from compress.benchmark.measure import Profile
from compress.benchmark.process import Worker
from compress.benchmark.runtimes.worker import batches
from compress.errors import EnvironmentFault, StageError
from compress.export.session import Session
from compress.judge.scores import score
from compress.judge.verdict import (
    RACED_SAMPLES,
    Contender,
    _check_measured,
    check_runtimes,
    gates_on_select,
    judge,
    judge_gates,
    needed_rows,
    raced_samples,
    run_race,
    runtime_accuracy,
    write_samples,
)
from compress.measures.intervals import Estimate
from compress.models import HuggingFace
from compress.recipe import Recipe
from compress.recipe.sections import Benchmark, Gates, Limits, ProfileChoice
from compress.stages.create import Create

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
    return Contender("teacher", trained_digits, score(trained_digits, *context, role="select", teacher=None))


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
        judge(recipe, *context, contenders, rivals=("rival",), directory=tmp_path)


def test_a_request_to_stop_is_heard_before_the_next_profile(recipe, context, teacher, tmp_path):
    contenders = [teacher, Contender("rival", teacher.artifact, teacher.scores)]
    with pytest.raises(KeyboardInterrupt):
        judge(recipe, *replace(context, interrupted=lambda: True), contenders, rivals=("rival",), directory=tmp_path)
    assert np.load(tmp_path / "inputs.npz")["pixel_values"].shape == (256, 1, 8, 8)


def test_a_file_is_scored_in_the_runtime_that_was_timed(recipe, context, teacher, tmp_path):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino", batch_size=4))
    recipe = recipe.model_copy(update={"benchmark": Benchmark(preset="quick", profiles=profiles)})
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    document = run_race(recipe, *context, contenders, rivals=("small",), directory=tmp_path).document
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows["small"]["runtime_accuracy"]) == {"ort-cpu-b1-t1", "openvino-b4-t1"}
    found = rows["small"]["runtime_accuracy"]["openvino-b4-t1"]
    assert found["samples"] == len(context.data.select)
    assert found["accuracy"]["value"] == pytest.approx(teacher.scores.accuracy)
    assert found["teacher_agreement"] == 1
    assert found["change"]["value"] == 0
    assert "samples are few" in found["doubt"]
    assert "change" not in rows["teacher"]["runtime_accuracy"]["openvino-b4-t1"]
    here = rows["small"]["runtime_accuracy"]["ort-cpu-b1-t1"]  # from what scored the file before
    assert here["accuracy"]["value"] == teacher.scores.accuracy
    assert here["accuracy"] == rows["small"]["accuracy"]
    assert (here["change"]["value"], here["mcnemar_p"], here["teacher_kl_nats"]) == (0, 1, 0)
    assert "samples are few" in here["doubt"]
    assert "change" not in rows["teacher"]["runtime_accuracy"]["ort-cpu-b1-t1"]
    assert rows["small"]["macs"] == teacher.scores.facts["macs"]
    assert set(rows["small"]["verdict"]) == {"ort-cpu-b1-t1", "openvino-b4-t1"}
    json.dumps(document, allow_nan=False)


def test_a_software_adapter_scores_some_of_the_samples_and_can_be_stopped_between_files(
    context, teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr("compress.judge.verdict.SOFTWARE_SAMPLES", 40)
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    timed = dict.fromkeys(["teacher", "small"])
    comparison = Mock(ranked=False, measurements=timed, profile=Profile(runtime="openvino"))
    inputs = write_samples(contenders, context.work, tmp_path)
    found = runtime_accuracy(contenders, [comparison], *context, inputs=inputs, seed=0)["small"]["openvino-b1-t1"]
    assert found["samples"] == 40 < len(context.data.select)
    rows = context.task.tally(teacher.scores.logits[:40], context.data.select.take(np.arange(40)))
    assert found["accuracy"]["value"] == pytest.approx(rows.value)
    assert found["teacher_agreement"] == 1
    answers = iter([False, True])
    stopped = replace(context, interrupted=lambda: next(answers))
    with pytest.raises(KeyboardInterrupt):
        runtime_accuracy(contenders, [comparison], *stopped, inputs=inputs, seed=0)


def test_the_session_that_scores_and_the_worker_that_is_timed_give_the_same_outputs(context, teacher, tmp_path):
    samples = raced_samples(context.work)
    np.savez(tmp_path / "inputs.npz", allow_pickle=False, **samples)
    (images,) = samples.values()
    session = Session(teacher.scores.onnx_path, threads=1)
    with Worker() as worker:
        worker.load(runtime="ort-cpu", model=teacher.scores.onnx_path, inputs=tmp_path / "inputs.npz", batch_size=8)
        for at in range(0, 64, 8):
            batch = {name: array[at : at + 8] for name, array in samples.items()}
            np.testing.assert_array_equal(worker.outputs(batch)[0], session(images[at : at + 8])[0])
        # Batches of another size may be summed in another order.
        np.testing.assert_allclose(worker.outputs(samples)[0], teacher.scores.logits[: len(images)], atol=1e-5)


def test_a_verdict_does_not_rest_on_a_software_adapter():
    with pytest.raises(StageError, match="software adapter"):
        _check_measured(Mock(ranked=False), needed=())


def test_every_limit_is_judged_on_the_unfavourable_bound():
    limits = Limits(max_accuracy_drop=0.02, max_size_mb=1, min_speedup=2, max_latency_ms={"a": 1.0, "b": 1.0})
    found = judge_gates(
        limits,
        change={"value": -0.01, "low": -0.03, "high": 0.01},
        size_bytes=1_000_000,
        speedup=Estimate(2.5, 1.9, 3.0),
        latency_ms={"a": Estimate(0.9, 0.8, 1.1), "b": Estimate(0.9, 0.8, 1.0)},
        primary="a",
        variant="fp32",
    )
    assert [(gate.name, gate.judged, gate.passed, gate.profile) for gate in found] == [
        ("fp32: max_accuracy_drop", 0.03, False, ""),
        ("fp32: max_size_mb", 1.0, True, ""),
        ("fp32: min_speedup", 1.9, False, "a"),
        ("fp32: max_latency_ms.a", 1.1, False, "a"),
        ("fp32: max_latency_ms.b", 1.0, True, "b"),
    ]
    assert [gate.field for gate in found[2:4]] == ["min_speedup", "max_latency_ms"]
    assert found[2].gap.startswith("fp32: min_speedup: at least 2 asked")
    assert found[3].gap == "fp32: max_latency_ms.a: at most 1 asked, 1.1 at the interval's bound (0.9 measured)"


def test_a_profile_with_a_limit_must_measure_the_file_and_only_that(recipe, teacher):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino"), ProfileChoice(batch_size=8))
    recipe = recipe.model_copy(
        update={
            "benchmark": Benchmark(profiles=profiles),
            "gates": Gates(
                max_latency_ms={"openvino-b1-t1": 1}, variants={"fp32": Limits(max_latency_ms={"ort-cpu-b8-t1": 2})}
            ),
        }
    )
    float_file = Contender("export:fp32", teacher.artifact, teacher.scores, "fp32")
    contenders = [teacher, float_file, replace(teacher, name="export")]
    assert needed_rows(recipe, contenders, rivals=("rival",)) == {
        "ort-cpu-b1-t1": ["teacher", "rival", "export:fp32", "export"],
        "ort-cpu-b8-t1": ["export:fp32"],
        "openvino-b1-t1": ["export"],
    }


def test_a_latency_has_a_limit_in_each_runtime_and_a_missed_one_says_what_to_change(recipe, context, teacher, tmp_path):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino"))
    limits = {"ort-cpu-b1-t1": 60_000, "openvino-b1-t1": 1e-9}
    recipe = recipe.model_copy(
        update={"benchmark": Benchmark(preset="quick", profiles=profiles), "gates": Gates(max_latency_ms=limits)}
    )
    contenders = [teacher, Contender("distill", teacher.artifact, teacher.scores)]
    race = run_race(recipe, *context, contenders, rivals=("distill",), directory=tmp_path)
    loose, tight = gates_on_select(recipe, contenders, race)
    assert loose.passed
    assert not loose.remedy
    assert not tight.passed
    assert tight.estimate == race.comparisons[1].latency_ms("distill").value
    assert tight.judged == race.comparisons[1].latency_ms("distill").high > tight.estimate
    assert "nothing is quantized" in tight.remedy
    assert "By stage, on select: distill +0.00 points, 1.00x" in tight.remedy


NOWHERE = ProfileChoice(python="/nowhere/gpu/bin/python")


def test_a_runtime_that_does_not_work_is_told_in_the_report_and_the_others_are_measured(
    recipe, context, teacher, tmp_path
):
    recipe = recipe.model_copy(update={"benchmark": Benchmark(preset="quick", profiles=(ProfileChoice(), NOWHERE))})
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    document = run_race(recipe, *context, contenders, rivals=("small",), directory=tmp_path).document
    for row in document["rows"]:
        assert set(row["latency_ms"]) == {"ort-cpu-b1-t1"}
        assert "the worker did not start" in row["failures"]["ort-cpu-b1-t1@gpu"]
        assert "next: pip install onnxruntime" in row["failures"]["ort-cpu-b1-t1@gpu"]
    assert tables.markdown(document).count("the worker did not start") == 1


def test_a_runtime_that_the_verdict_rests_on_must_work_before_anything_is_trained(recipe):
    def asks(*profiles, **limits) -> Recipe:
        benchmark = Benchmark(preset="quick", profiles=profiles)
        return recipe.model_copy(update={"benchmark": benchmark, "gates": Gates(**limits)})

    check_runtimes(asks(ProfileChoice(), NOWHERE))  # a row of the report, no more
    for refused in (
        asks(NOWHERE),
        asks(ProfileChoice(), NOWHERE, max_latency_ms={"ort-cpu-b1-t1@gpu": 1}),
        asks(ProfileChoice(), NOWHERE, variants={"fp32": Limits(max_latency_ms={"ort-cpu-b1-t1@gpu": 1})}),
    ):
        with pytest.raises(EnvironmentFault, match=r"(?s)ort-cpu does not work at gpu.*pip install onnxruntime"):
            check_runtimes(refused)


def test_a_limit_on_a_runtime_that_measured_nothing_ends_the_run():
    nothing = Mock(spec=Comparison, ranked=True, measurements={}, failures={"export": "no such runtime"})
    nothing.profile.name = "openvino-b1-t1"
    with pytest.raises(StageError, match=r"(?s)export could not be measured.*no such runtime.*openvino-b1-t1"):
        _check_measured(nothing, needed=["export"])


def test_texts_are_raced_at_their_own_lengths(recipe, make_context, tmp_path):
    data = text_zoo.review_data()
    folder = text_zoo.make_bert(tmp_path / "bert")
    context = replace(make_context(), data=data, task=text_zoo.text_task(folder, data))
    created = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    teacher = Contender("teacher", created, score(created, *context, role="select", teacher=None))
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    document = run_race(recipe, *context, contenders, rivals=("small",), directory=tmp_path).document
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
