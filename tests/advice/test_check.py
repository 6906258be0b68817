"""`compressor check` and the warnings of `run`, as a user meets them; digits, a small trained teacher."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from compress.advice.advise import reference_sample
from compress.advice.measures import Measure
from compress.advice.rules import RULES, Advice, judge, read_thresholds, rule_of
from compress.cli.main import app
from compress.errors import AdviceError, DataError
from compress.measures.intervals import Estimate
from compress.pipeline.check import check
from compress.pipeline.run import Options, work_of
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Execution, Host
from compress.store.store import Store

RECIPE = """
schema: 1
name: advised
data: {{source: digits, split: {{select: 0.2}}}}
teacher: {{model: {{cnn: {{widths: [16, 32, 32], strides: [1, 2, 1]}}}}, train: {{epochs: 10, batch_size: 64}}}}
student: {{cnn: {{widths: {widths}, strides: [1, 2]}}}}
loss: {loss}
stages:
  - distill: {{epochs: 1, batch_size: 64}}
  - export: {{variants: [fp32]}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the teacher, made as the advice says: `run --until teacher`."""
    root = tmp_path_factory.mktemp("store")
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE.format(widths=[8, 16], loss="hinton"))
    ran = CliRunner().invoke(
        app, ["run", str(recipe), "--store", str(root), "--threads", "1", "--until", "teacher", "-q", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    assert [row["name"] for row in json.loads(ran.stdout)["stages"]] == ["teacher"]
    return root


def written(path, *, widths=(8, 16), loss="hinton"):
    recipe = path / "recipe.yaml"
    recipe.write_text(RECIPE.format(widths=list(widths), loss=loss))
    return recipe


def checked(store, recipe, *options):
    return CliRunner().invoke(app, ["check", str(recipe), "--store", str(store), "--threads", "1", *options])


def probes(advice):
    return [finding.probe for finding in advice.findings]


def test_a_healthy_recipe_has_no_warnings_and_fits_the_page(store, tmp_path):
    result = checked(store, written(tmp_path))
    assert result.exit_code == 0, result.output
    assert "no warnings" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    for name in ("capacity", "calibration", "confidence-gap", "non-target-mass kl", "shift", "gradient-ratio kl"):
        assert name in result.stdout


def test_faults_are_warned_of_and_strict_makes_them_errors(store, tmp_path):
    recipe = written(tmp_path, widths=(1, 1), loss="{hard: {}, kl: {weight: 0.00001, temperature: 0.1}}")
    result = checked(store, recipe, "--json", "--strict")
    assert isinstance(result.exception, AdviceError)
    assert result.exception.exit_code == 8
    document = json.loads(result.stdout)
    flagged = {finding["probe"] for finding in document["findings"] if finding["flagged"]}
    assert {"capacity", "non-target-mass", "gradient-ratio"} <= flagged
    assert document["warnings"] == len([one for one in document["findings"] if one["flagged"]])
    for finding in document["findings"]:
        assert finding["low"] <= finding["value"] <= finding["high"]
        assert finding["advice"]
        assert finding["evidence"] in ("calibrated", "rule of thumb", "exact")


def test_the_second_call_finds_the_teachers_outputs_in_the_store(store, tmp_path, monkeypatch):
    recipe = Recipe.load(written(tmp_path))
    options = Options(store=store, threads=1, reporter=Reporter(quiet=True))
    first = check(recipe, options)
    monkeypatch.setattr("compress.training.teacher.forward_all", None)
    assert check(recipe, options) == first


def test_without_a_teacher_the_rest_is_told_and_how_to_get_it(tmp_path):
    recipe = Recipe.load(written(tmp_path))
    options = Options(store=tmp_path / "empty", threads=1, reporter=Reporter(quiet=True))
    advice = check(recipe, options)
    assert {"shift", "conformance", "capacity"} == set(probes(advice))
    assert "--until teacher" in " ".join(advice.notes)
    pilot = checked(tmp_path / "empty", tmp_path / "recipe.yaml", "--pilot")
    assert "a pilot needs the teacher" in str(pilot.exception)


def test_a_teacher_that_loses_to_the_simplest_model_is_told_so_first_and_by_a_run(store, tmp_path):
    poor = ("--set", "teacher.train.epochs=1", "--set", "teacher.train.learning_rate=0.01")
    recipe = str(written(tmp_path))
    made = ["run", recipe, "--store", str(store), "--threads", "1", *poor]
    assert CliRunner().invoke(app, [*made, "--until", "teacher", "-q"]).exit_code == 0
    result = checked(store, recipe, *poor)
    first, last = " ".join(result.stdout.partition("probe ")[0].split()), " ".join(result.stdout.split())
    assert first.startswith("WARNING simplest teacher: -")
    assert "is reached by a linear model on pixels (2.6 kB, " in first
    assert "WARNING simplest teacher: a model without a network does better than this teacher" in last
    ran = CliRunner().invoke(app, [*made, "--strict", "--until", "distill"])
    assert isinstance(ran.exception, AdviceError)
    assert "warning: simplest teacher: -" in ran.stderr


def test_without_a_teacher_it_is_told_what_the_simplest_model_reaches(tmp_path):
    options = Options(store=tmp_path / "empty", threads=1, reporter=Reporter(quiet=True))
    note = check(Recipe.load(written(tmp_path)), options).notes[-1]
    assert note.startswith("a teacher is to be better than the simplest model, which reaches 9")


def test_a_pilot_tells_its_cost_first_and_its_margins(store, tmp_path):
    result = checked(store, written(tmp_path), "--pilot", "--set", "stages.distill.epochs=2")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("pilot: ")
    assert "about" in result.stderr.splitlines()[0]
    for name in ("margin", "margin-at-end", "pilot-gain", "memorised-agreement"):
        assert name in result.stdout


def test_a_run_warns_before_it_distils_and_strict_stops_it_there(store, tmp_path):
    recipe = written(tmp_path, widths=(1, 1))
    result = CliRunner().invoke(app, ["run", str(recipe), "--store", str(store), "--threads", "1", "--strict"])
    assert isinstance(result.exception, AdviceError)
    assert "warning: capacity" in result.stderr
    assert "distill" not in result.stderr


def test_a_student_copied_from_its_teacher_is_not_measured_against_itself(store, tmp_path):
    recipe = Recipe.load(
        written(tmp_path),
        overrides=["student=teacher", 'stages=[{"prune": {"kept_macs_fraction": 0.5}}, {"distill": {"epochs": 1}}]'],
    )
    advice = check(recipe, Options(store=store, threads=1, reporter=Reporter(quiet=True)))
    assert not {"capacity", "gradient-ratio", "logits-only"} & set(probes(advice))
    assert "calibration" in probes(advice)
    assert "copy of the teacher" in advice.notes[0]


def test_a_recipe_that_distils_nothing_gets_no_advice(store, tmp_path):
    recipe = Recipe.load(written(tmp_path, loss="{hard: {}}"))
    advice = check(recipe, Options(store=store, threads=1, reporter=Reporter(quiet=True)))
    assert probes(advice) == ["lead", "simplest"]
    assert not advice.warnings
    assert "nothing to advise on" in advice.notes[0]


def test_a_reference_of_another_shape_is_refused(tmp_path):
    recipe = Recipe.load(written(tmp_path))
    data = recipe.data.load()
    arrays = tmp_path / "reference.npz"
    np.savez(arrays, train_inputs=np.zeros((40, 1, 5, 5), np.uint8), train_labels=np.arange(40) % 4)
    told = Recipe.load(written(tmp_path), overrides=[f"teacher.reference.numpy.archive={arrays}"])
    host = Host(store=Store.open(tmp_path), execution=Execution(1, "float32"))
    with pytest.raises(DataError, match="reference sample does not fit"):
        reference_sample(told, work_of(told, data), host)


def test_a_reference_that_is_too_small_is_refused(tmp_path):
    recipe = Recipe.load(written(tmp_path))
    data, arrays = recipe.data.load(), tmp_path / "reference.npz"
    np.savez(arrays, train_inputs=np.zeros((4, 1, 8, 8), np.uint8), train_labels=np.arange(4))
    told = Recipe.load(written(tmp_path), overrides=[f"teacher.reference.numpy.archive={arrays}"])
    host = Host(store=Store.open(tmp_path), execution=Execution(1, "float32"))
    with pytest.raises(DataError, match="32 samples or more"):
        reference_sample(told, work_of(told, data), host)


def test_a_missing_member_of_the_ensemble_is_a_missing_teacher(store, tmp_path):
    second = '{"second": {"teacher": {"model": {"cnn": {}}, "train": {"epochs": 1}}}}'
    recipe = Recipe.load(written(tmp_path), overrides=[f"ensemble={second}"])
    advice = check(recipe, Options(store=store, threads=1, reporter=Reporter(quiet=True)))
    assert "--until teacher" in " ".join(advice.notes)
    assert "gradient-ratio" not in probes(advice)


def test_a_pilot_of_another_measure_is_refused_before_it_trains(store, tmp_path):
    recipe = written(tmp_path)
    result = checked(store, recipe, "--pilot", "--set", "data.judge.measure=macro-f1")
    assert "judged by macro-f1" in str(result.exception)
    assert "pilot:" not in result.stderr


def test_an_interval_across_the_threshold_is_no_warning():
    def advice(low, high):
        return judge([Measure("gradient-ratio", Estimate((low * high) ** 0.5, low, high), "kl")])

    assert not advice(50, 150).warnings
    assert advice(150, 200).warnings
    assert advice(0.001, 0.002).warnings
    assert not advice(0.005, 0.02).warnings
    advice(0.005, 0.02).refuse()
    with pytest.raises(AdviceError, match="gradient-ratio kl: 173x"):
        advice(150, 200).refuse()


def test_every_rule_says_what_to_do_and_only_tested_thresholds_are_called_calibrated():
    for name in RULES:
        rule = rule_of(name)
        assert rule.advice
        assert rule.means
        assert (rule.evidence == "calibrated") == (name in read_thresholds()["thresholds"])


def test_notes_are_shown_without_findings():
    console = Console(width=80, record=True, file=io.StringIO())
    Advice((), ("there is nothing",)).show(console)
    assert "note: there is nothing" in console.export_text()


def test_a_ratio_over_nothing_is_null_in_json():
    advice = judge([Measure("gradient-ratio", Estimate(np.inf, 1e9, np.inf), "kl")])
    (finding,) = json.loads(json.dumps(advice.document(), allow_nan=False))["findings"]
    assert (finding["value"], finding["low"], finding["high"]) == (None, 1e9, None)
    assert finding["flagged"]
