"""The race: what it hands to the workers, what must be measured, when it stops."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import text_zoo

from compress.benchmark import tables
from compress.benchmark.compare import Comparison
from compress.benchmark.process import Worker
from compress.benchmark.runtimes.worker import batches
from compress.errors import EnvironmentFault, StageError
from compress.export.session import Session
from compress.judge.contenders import Contender
from compress.judge.race import RACED_SAMPLES, _check_measured, check_runtimes, run_race, sample_select
from compress.judge.scores import score
from compress.models import HuggingFace
from compress.recipe import Recipe
from compress.recipe.sections import Benchmark, Gates, Limits, ProfileChoice
from compress.stages.create import Create

NOWHERE = ProfileChoice(python="/nowhere/gpu/bin/python")


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
        run_race(recipe, *context, contenders, rivals=("rival",), directory=tmp_path)


def test_a_request_to_stop_is_heard_before_the_next_profile(recipe, context, teacher, tmp_path):
    contenders = [teacher, Contender("rival", teacher.artifact, teacher.scores)]
    with pytest.raises(KeyboardInterrupt):
        run_race(recipe, *replace(context, interrupted=lambda: True), contenders, rivals=("rival",), directory=tmp_path)
    assert np.load(tmp_path / "inputs.npz")["pixel_values"].shape == (256, 1, 8, 8)


def test_the_session_that_scores_and_the_worker_that_is_timed_give_the_same_outputs(context, teacher, tmp_path):
    samples = sample_select(context.work)
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


def test_a_runtime_that_does_not_work_is_told_in_the_report_and_the_others_are_measured(
    recipe, context, teacher, tmp_path
):
    recipe = recipe.model_copy(update={"benchmark": Benchmark(preset="quick", profiles=(ProfileChoice(), NOWHERE))})
    contenders = [teacher, Contender("small", teacher.artifact, teacher.scores)]
    result = run_race(recipe, *context, contenders, rivals=("small",), directory=tmp_path).result
    for row in result.rows:
        assert set(row.latency_ms) == {"ort-cpu-b1-t1"}
        assert "the worker did not start" in row.failures["ort-cpu-b1-t1@gpu"]
        assert "next: pip install onnxruntime" in row.failures["ort-cpu-b1-t1@gpu"]
    assert tables.markdown(result).count("the worker did not start") == 1


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
    result = run_race(recipe, *context, contenders, rivals=("small",), directory=tmp_path).result
    assert result.comparisons[0].measurements["small"].settings["shapes_vary"]
    with Worker() as worker:  # the module is run in the same way
        assert worker.load(runtime="torch-cpu", model=created.path, inputs=tmp_path / "inputs.npz").settings[
            "shapes_vary"
        ]
    raced = batches(tmp_path / "inputs.npz", batch_size=1)
    lengths = context.task.encode(data.select).lengths[:RACED_SAMPLES]
    expected = np.quantile(lengths, (np.arange(len(raced)) + 0.5) / len(raced), method="inverted_cdf")
    np.testing.assert_allclose(sorted(batch["input_ids"].shape[1] for batch in raced), expected, atol=1)
    assert len(set(lengths.tolist())) > 2
    assert all(batch["attention_mask"].all() for batch in raced)
