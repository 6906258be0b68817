"""The loop: reuse, resume after kills, shared beginnings, one experiment list."""

import contextlib
import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from spoil import spoil_one
from tiny_pipeline import BRIEF, RECIPE, options, recipe, start

from compress.benchmark.compare import PRESETS
from compress.errors import ArtifactError, LockedError, ModelError
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.report.document import Report
from compress.store.artifact import Artifact
from compress.store.digest import hash_file
from compress.store.document import load
from compress.store.store import Store


class Overheard(Reporter):
    """A quiet reporter that keeps the names of the bars that were shown."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.names: set[str] = set()

    def bar(self, name, total=None):
        self.names.add(name)
        return super().bar(name, total)


@pytest.fixture(scope="module", autouse=True)
def brief():
    """Races of a second or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", BRIEF)
        yield


@pytest.fixture(scope="module")
def reporter():
    return Overheard()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, reporter):
    """One undisturbed run."""
    store = tmp_path_factory.mktemp("finished")
    return run(recipe(), replace(options(store), reporter=reporter)), store


def digests(report) -> dict[str, str]:
    return {stage.name: stage.digest for stage in report.stages}


def client_of(store: Path):
    from mlflow import MlflowClient

    from compress.tracking import database_uri

    return MlflowClient(database_uri(store))


def newest_run(store: Path, name: str, *, pipeline: str):
    """The newest tracked run of a stage, or of the pipeline itself."""
    client = client_of(store)
    mine = "tags.`compress.role` = 'pipeline'" if name == pipeline else f"tags.`compress.stage` = '{name}'"
    (found,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"{mine} AND tags.`compress.pipeline_id` LIKE '{pipeline}-%'",
        order_by=["start_time DESC"],
        max_results=1,
    )
    return found


def recorded(store: Path, run_id: str, folder: str = "") -> set[str]:
    return {entry.path for entry in client_of(store).list_artifacts(run_id, folder)}


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_tap_that_is_not_there_is_told_before_the_teacher_is_trained(tmp_path):
    hint = "{preset: hinton, hint: {pairs: {layers.99: layers.1}}}"
    steps = f"prune: {{kept_macs_fraction: 0.6, steps: 2, recover: {{epochs: 1}}, loss: {hint}}}"
    for change in (f"loss={hint}", f"stages=[{{{steps}}}]"):
        with pytest.raises(ModelError, match="no module of the student runs under this path"):
            run(recipe(change, "gates={}"), options(tmp_path))
    made = [json.loads(path.read_text())["inputs"] for path in tmp_path.glob("artifacts/*/manifest.json")]
    assert {inputs["stage"] for inputs in made if "stage" in inputs} == {"Create"}


def test_every_stage_is_a_row_scored_on_the_runtime(finished):
    outcome, _ = finished
    names = [row.name for row in outcome.report.benchmark.rows]
    baselines, stages = ["teacher-static", "teacher-dynamic"], ["distill", "prune", "recover", "quantize"]
    assert names == ["teacher", *baselines, *stages, "export:fp32", "export"]
    assert all(stage.scores.role == "select" for stage in outcome.report.stages)
    assert [row.name for row in outcome.report.verdict.test] == [
        "teacher",
        outcome.report.verdict.rival,
        "export",
    ]
    assert outcome.passed is True


def test_every_long_step_shows_that_it_is_at_work(finished, reporter):
    steps = {"reading the data", "advice", "scoring on select", "scoring on test", "report"}
    stages = {"teacher", "teacher-static", "distill", "prune", "prune, importance", "recover", "quantize", "export"}
    assert reporter.names > steps | stages | {"quantize, ranking"}


def test_the_page_and_the_table_show_the_result(finished):
    outcome, _ = finished
    report = outcome.report
    assert json.loads((outcome.run_dir / "report.json").read_text()) == json.loads(json.dumps(asdict(report)))
    assert load(Report, outcome.run_dir / "report.json") == report
    page = (outcome.run_dir / "report.html").read_text()
    assert f"{100 * report.verdict.shipped.accuracy.value:.2f}" in page
    assert 'id="mistakes"' in page
    lines = (outcome.run_dir / "report.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [row.name for row in report.benchmark.rows]
    shipped = report.stages[-1]
    owned = sum(layer.size_bytes for layer in shipped.layers)
    assert 0.1 * shipped.scores.size_bytes < owned < shipped.scores.size_bytes
    found = report.verdict.mistakes
    right = found.both_right + found.student_alone_right
    assert right / found.units == report.verdict.shipped.accuracy.value


def test_the_pruned_and_quantized_files_are_smaller(finished):
    size = {stage.name: stage.scores.size_bytes for stage in finished[0].report.stages}
    assert size["prune"] < size["distill"]
    assert size["quantize"] < 0.45 * size["recover"]


def test_every_variant_of_the_bundle_is_scored_and_timed(finished):
    report = finished[0].report
    rows = {row.name: row for row in report.benchmark.rows}
    scores = report.variants["export:fp32"]
    assert scores.role == "select"
    assert scores.size_bytes == (finished[0].run_dir / "bundle" / "fp32.onnx").stat().st_size
    assert scores.size_bytes == rows["export:fp32"].size_bytes > 2 * rows["export"].size_bytes
    assert scores.accuracy == rows["export:fp32"].accuracy.value
    assert rows["export:fp32"].latency_ms.keys() == rows["export"].latency_ms.keys()


def test_what_is_quantized_decides_alike_at_every_batch_size(finished):
    parity = {stage.name: stage.scores.parity for stage in finished[0].report.stages}
    assert parity["quantize"].argmax_agreement >= 0.9  # the recipe's bound
    assert parity["export"] == parity["quantize"]
    assert parity["distill"].max_abs < 1e-4 * parity["distill"].scale


def test_a_finished_run_answers_at_once_and_nothing_is_measured_or_registered_twice(finished, tmp_path, monkeypatch):
    outcome, original = finished
    store, said = tmp_path / "moved", []
    shutil.copytree(original, store)  # with the times of all files
    monkeypatch.setattr("compress.pipeline.run.read", lambda *_: pytest.fail("it was run"))
    reporter = Reporter(quiet=True)
    monkeypatch.setattr(reporter, "say", said.append)
    answered = run(recipe(), replace(options(store), reporter=reporter))
    assert (answered.passed, answered.report, answered.race) == (True, outcome.report, None)
    assert answered.run_dir == store / "runs" / outcome.run_dir.name
    assert answered.shipped.digest == outcome.shipped.digest
    assert said == [
        f"nothing has changed since {outcome.report.environment.date}: this is what was found then; "
        "--again measures anew"
    ]
    assert run(recipe(), options(store, judged=False)).passed is True
    for changes in ({"again": True}, {"threads": 2}, {"force": ("export",)}, {"until_stage": "distill"}):
        with pytest.raises(pytest.fail.Exception):
            run(recipe(), replace(options(store), **changes))
    (answered.run_dir / "bundle" / "labels.json").write_text("{}")
    with pytest.raises(pytest.fail.Exception):
        run(recipe(), options(store))


def test_a_run_that_is_asked_again_reuses_everything_and_registers_no_second_version(finished):
    outcome, store = finished
    before = client_of(store).search_model_versions("name = 'tiny'")
    assert "# tiny" in before[0].description
    versions = {found.version for found in before}
    again = run(recipe(), options(store, again=True))
    assert {found.version for found in client_of(store).search_model_versions("name = 'tiny'")} == versions
    assert all(stage.reused for stage in again.report.stages)
    assert digests(again.report) == digests(outcome.report)
    assert again.run_dir == outcome.run_dir


def test_what_stages_decided_and_what_ships_is_recorded_also_when_it_was_reused(finished):
    """Without gates, so that nothing is registered, and with every stage from the store."""
    _, store = finished
    bare = RECIPE[: RECIPE.index("gates:")].replace("name: tiny", "name: ungated")
    outcome = run(Recipe.parse(bare, origin="recipe.yaml", directory=Path()), options(store))
    assert outcome.passed is None
    assert all(stage.reused for stage in outcome.report.stages)
    parent = newest_run(store, "ungated", pipeline="ungated").info.run_id
    assert {"report.json", "report.md", "recipe.yaml", "plan.json", "waterfall.png", "bundle"} <= recorded(
        store, parent
    )
    assert {"bundle/int8-x86.onnx", "bundle/fp32.onnx", "bundle/bundle.json"} <= recorded(store, parent, "bundle")
    for name, files in (("prune", {"plan.json"}), ("quantize", {"quant_plan.json", "quant_curve.json"})):
        assert recorded(store, newest_run(store, name, pipeline="ungated").info.run_id) == files
    plan = json.loads((outcome.run_dir / "plan.json").read_text())
    assert [(row["name"], row["action"], row["key"]) for row in plan] == [
        (stage.name, "reused", stage.key) for stage in outcome.report.stages
    ]
    assert client_of(store).search_model_versions("name = 'ungated'") == []


def test_a_student_that_passes_its_gates_is_registered_as_the_very_file_that_ships(finished):
    from mlflow.models import Model

    outcome, store = finished
    client = client_of(store)
    version = client.get_model_version_by_alias("tiny", "candidate")
    bundle = outcome.run_dir / "bundle"
    manifest = json.loads((bundle / "bundle.json").read_text())
    model = Path(client.download_artifacts(version.run_id, "bundle/" + manifest["primary"]))
    logged = Path(version.source.removeprefix("file://"))
    described = Model.load(str(logged / "MLmodel"))
    kept = logged / described.flavors["onnx"]["data"]
    digests_found = {sha256(path) for path in (bundle / manifest["primary"], model, kept)}
    assert digests_found == {version.tags["compress.sha256"]} == {manifest["files"][manifest["primary"]]["sha256"]}
    labelled = subprocess.run([sys.executable, bundle / "predict.py"], capture_output=True, text=True, check=True)
    assert set(labelled.stdout.split()) <= set("0123456789")


def test_the_registered_student_answers_image_files_with_labels_and_tensors_with_scores(finished, tmp_path):
    import mlflow
    from sklearn.datasets import load_digits

    outcome, store = finished
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for path, pixels in zip(paths, load_digits().images, strict=False):
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(path)
    source = client_of(store).get_model_version_by_alias("tiny", "candidate").source
    told = mlflow.pyfunc.load_model(source).predict(pd.DataFrame({"image": [path.read_bytes() for path in paths]}))
    command = [sys.executable, outcome.run_dir / "bundle" / "predict.py", "--json", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [*told["label"]] == [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert [value.name for value in mlflow.onnx.load_model(source).graph.input] == ["pixel_values"]


def test_recipes_with_a_common_beginning_share_it_and_those_on_equal_data_their_experiment(finished):
    outcome, store = finished
    other = run(recipe("stages.prune.kept_macs_fraction=0.8", name="other"), options(store))
    reused = {stage.name: stage.reused for stage in other.report.stages}
    assert reused["teacher"]
    assert reused["distill"]
    assert not reused["prune"]
    assert digests(other.report)["distill"] == digests(outcome.report)["distill"]

    client = client_of(store)
    experiments = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    (name,) = (name for name in experiments if name.startswith("digits-"))
    parents = client.search_runs([experiments[name]], "tags.`compress.role` = 'pipeline'")
    assert {"tiny", "other"} <= {parent.info.run_name for parent in parents}
    for parent in parents:
        headline = {"select_accuracy", "size_mb", "latency_p50_ms", "speedup_x", "throughput_per_s", "memory_peak_mb"}
        assert headline <= set(parent.data.metrics)
        assert parent.data.tags["compress.hw"] == outcome.report.environment.cpu_model
        stages = client.search_runs([experiments[name]], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        shared = [f"compress.{key}" for key in ("pipeline_id", "recipe_sha256", "hw")]
        assert stages
        assert all(run.data.tags[key] == parent.data.tags[key] for run in stages for key in shared)
    recipes = {(parent.info.run_name, parent.data.tags["compress.recipe_sha256"]) for parent in parents}
    assert len({sha256 for name, sha256 in recipes if name in ("tiny", "other")}) == 2


def test_a_run_that_is_refused_by_the_lock_changes_nothing(finished):
    outcome, store = finished
    noted = (outcome.run_dir / "execution.json").read_text()
    with Store.open(store).lock(f"run-{outcome.run_dir.name}", wait=None), pytest.raises(LockedError):
        run(recipe(), Options(store=store, threads=2, reporter=Reporter(quiet=True)))
    assert (outcome.run_dir / "execution.json").read_text() == noted


def test_a_report_cut_off_by_a_kill_is_written_anew(finished):
    outcome, store = finished
    whole = {path: path.read_bytes() for path in outcome.run_dir.iterdir() if path.is_file()}
    (outcome.run_dir / "report.json").write_text("{")
    again = run(recipe(), options(store, until_stage="distill"))
    assert json.loads((outcome.run_dir / "report.json").read_text())["stages"][0]["digest"] == (
        again.report.stages[0].digest
    )
    for path, content in whole.items():
        path.write_bytes(content)


USER_MODEL = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
"""


def test_torch_measures_a_model_of_the_users_own_file(finished, tmp_path):
    _, store = finished
    code = tmp_path / "my_model.py"
    code.write_text(USER_MODEL)
    text = RECIPE[: RECIPE.index("student:")].replace("name: tiny", "name: own") + (
        f"student: {{file: {{path: {code}, factory: small}}}}\n"
        "stages: [{distill: {epochs: 1, batch_size: 64}}, export]\n"
        "benchmark: {preset: quick, profiles: [{}, {runtime: torch-cpu}]}\n"
    )
    own = Recipe.parse(text, origin="recipe.yaml", directory=Path())
    outcome = run(own, options(store, code=[code]))
    rows = {row.name: row for row in outcome.report.benchmark.rows}
    assert not any(row.failures for row in rows.values())
    measured = {name for name, row in rows.items() if "torch-cpu-b1-t1" in row.latency_ms}
    assert measured == {"teacher", "distill"}


@pytest.mark.parametrize("student_is_teacher", [False, True])
def test_a_model_that_prune_does_not_know_is_refused_by_name_before_anything_trains(student_is_teacher, tmp_path):
    from transformers import Dinov2Config

    from compress.pipeline.plan import plan

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Config(image_size=8, patch_size=4, num_channels=1, **sizes).save_pretrained(tmp_path / "dino")
    model = f'{{"huggingface": {{"path": "{tmp_path / "dino"}", "pretrained": false}}}}'
    changes = ["student=teacher", f"teacher.model={model}"] if student_is_teacher else [f"student={model}"]
    unknown = recipe(*changes)
    with pytest.raises(ModelError, match="'dinov2'"):
        plan(unknown, options(tmp_path / "planned"))
    with pytest.raises(ModelError, match="'dinov2'"):
        run(unknown, options(tmp_path / "store"))
    manifests = (tmp_path / "store" / "artifacts").glob("*/manifest.json")
    assert {json.loads(path.read_text())["inputs"]["stage"] for path in manifests} == {"Create"}


def test_force_runs_a_stage_again_and_until_stops(finished, tmp_path):
    _, store = finished
    forced = run(recipe(), options(store, force=("distill",), until_stage="distill"))
    reused = {stage.name: stage.reused for stage in forced.report.stages}
    assert reused == {"teacher": True, "distill": False}
    assert forced.passed is None


def test_a_run_that_stops_early_leaves_the_report_of_a_whole_one(finished):
    outcome, store = finished
    before = {path: path.read_bytes() for path in outcome.run_dir.iterdir() if path.is_file()}
    assert load(Report, outcome.run_dir / "report.json").benchmark is not None
    early = run(recipe(), options(store, until_stage="distill"))
    assert {path: path.read_bytes() for path in outcome.run_dir.iterdir() if path.is_file()} == before
    assert early.run_dir.parent == store / "parts"
    assert load(Report, early.run_dir / "report.json") == early.report


def test_several_teachers_are_rows_and_the_student_learns_from_their_average(finished):
    _, store = finished
    model = "{cnn: {widths: [16, 32], strides: [1, 2]}}"
    second = f"{{teacher: {{model: {model}, train: {{epochs: 1, batch_size: 64}}}}, weight: 0.5}}"
    both = run(recipe(f"ensemble.second={second}", name="both"), options(store, until_stage="distill"))
    assert [stage.name for stage in both.report.stages] == ["teacher", "second", "distill"]
    alone = run(recipe(), options(store, until_stage="distill"))
    assert digests(both.report)["teacher"] == digests(alone.report)["teacher"]
    assert digests(both.report)["distill"] != digests(alone.report)["distill"]


def test_a_variant_has_gates_of_its_own_and_is_read_on_test_for_them(finished):
    _, store = finished
    outcome = run(recipe("gates.variants={fp32: {max_size_mb: 0.0001, max_accuracy_drop: 0.5}}"), options(store))
    verdict = outcome.report.verdict
    assert [row.name for row in verdict.test] == ["teacher", verdict.rival, "export:fp32", "export"]
    judged = {gate.name: gate.passed for gate in verdict.gates}
    assert judged["fp32: max_size_mb"] is False
    assert judged["fp32: max_accuracy_drop"] is True
    assert judged["max_size_mb"] is True
    assert outcome.passed is False
    sizes = outcome.report.variants["export:fp32"].size_bytes / 1e6
    assert next(gate.estimate for gate in verdict.gates if gate.name == "fp32: max_size_mb") == sizes


def test_a_missed_gate_keeps_the_best_student_and_names_the_gap(finished):
    _, store = finished
    outcome = run(recipe("gates.min_speedup=1000"), options(store))
    assert outcome.passed is False
    (gate,) = [gate for gate in outcome.report.verdict.gates if gate.name == "min_speedup"]
    assert not gate.passed
    assert "By stage, on select: distill " in gate.remedy
    assert "; prune with recover " in gate.remedy
    assert gate.remedy in (outcome.run_dir / "report.md").read_text()
    assert (outcome.run_dir / "bundle" / "predict.py").exists()
    parent = newest_run(store, "tiny", pipeline="tiny").info.run_id
    assert "bundle" in recorded(store, parent)
    assert not [v for v in client_of(store).search_model_versions("name = 'tiny'") if v.run_id == parent]


def test_killed_again_and_again_it_ends_with_the_same_bits(finished, tmp_path):
    """SIGKILL at random moments, until it is through; every artifact equals the undisturbed run's."""
    outcome, _ = finished
    chance = random.Random(0)
    kills = 0
    for attempt in range(40):
        process = start(tmp_path)
        process.join(timeout=0.5 + chance.uniform(0, 2.5) + 0.7 * attempt)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert process.exitcode == 0
    assert kills >= 3
    (report,) = (tmp_path / "runs").glob("tiny-*/report.json")
    assert digests(load(Report, report)) == digests(outcome.report)


# In the order of a run: functions, which call of them, and whether the kill comes after it.
MOMENTS = [
    ("compress.store.store:sync", 1, False),  # what prune has made is written, and not yet in its place
    ("compress.quantization.quantize:observe", 1, False),
    ("compress.benchmark.measure:Subject.run_block", 7, True),
]
MORE_MOMENTS = [
    ("compress.stages.prune:loss_importance", 1, True),
    ("compress.stages.prune:loss_importance", 1, False),
    ("compress.stages.prune:prune", 1, False),
    ("compress.stages.prune:prune", 1, True),
    ("compress.store.store:sync", 1, True),
    ("compress.stages.quantize:deployable_of", 1, True),
    ("compress.stages.quantize:quantize", 1, False),
    ("compress.stages.quantize:quantize", 1, True),
    ("compress.judge.race:write_samples", 1, True),
    ("compress.benchmark.measure:Subject.run_block", 1, False),
    ("compress.benchmark.measure:Subject.run_block", 40, True),
    ("compress.judge.race:score_in_runtimes", 1, False),
    ("compress.judge.race:score_in_runtimes", 1, True),
    ("compress.pipeline.publish:place_bundle", 1, True),
]


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(MORE_MOMENTS, marks=pytest.mark.slow)], ids=["few", "many"])
def test_killed_inside_prune_quantize_and_race_it_ends_with_the_same_bits(finished, tmp_path, moments):
    outcome, _ = finished
    for dies_at, call, after in moments:
        process = start(tmp_path, dies_at=dies_at, call=call, after=after)
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"it never came to call {call} of {dies_at}"
    process = start(tmp_path)
    process.join()
    assert process.exitcode == 0
    (report,) = (tmp_path / "runs").glob("tiny-*/report.json")
    assert digests(load(Report, report)) == digests(outcome.report)


def contents(artifact: Artifact) -> tuple:
    files = {path.name: hash_file(path) for path in artifact.path.iterdir() if path.name != "manifest.json"}
    timed = ("_s", "_ms")  # what is made anew is timed anew
    facts = {name: value for name, value in artifact.facts.items() if not name.endswith(timed)}
    return artifact.key, artifact.digest, artifact.inputs, facts, files


@pytest.mark.parametrize(("count", "runs"), [(60, 1), pytest.param(1000, 8, marks=pytest.mark.slow)])
def test_whatever_happens_to_the_store_of_a_pipeline_no_result_changes(finished, tmp_path, count, runs):
    """What is found is what was committed, and all else is made anew: here copied, now and then by the pipeline."""
    outcome, original = finished
    root, draw, said = tmp_path / "store", random.Random(count), []
    shutil.copytree(original, root, ignore=shutil.ignore_patterns("mlflow*", "tracking"))
    expected = {path.name: contents(Store.open(original).find(path.name)) for path in (root / "artifacts").iterdir()}
    scores = {stage.name: (stage.digest, stage.scores) for stage in outcome.report.stages}
    caught = 0
    for number in range(count):
        spoil_one(root, draw)
        if number % (count // runs) == count // runs - 1:
            with contextlib.suppress(ArtifactError):  # threads and precision are no guess: their note is refused
                run(recipe(), options(root, until_stage="teacher"))
            shutil.rmtree(root / "runs", ignore_errors=True)
            report = run(recipe(), options(root, until_stage="quantize")).report
            assert all((stage.digest, stage.scores) == scores[stage.name] for stage in report.stages)
        store = Store.open(root, say=said.append)
        for key, content in expected.items():
            found = store.find(key)
            if found is None:
                caught += 1
                shutil.copytree(original / "artifacts" / key, root / "artifacts" / key)
            else:
                assert contents(found) == content
        shutil.rmtree(root / "damaged", ignore_errors=True)
    assert caught > count // 4
    assert all("set aside" in line for line in said)


def test_a_clock_that_runs_backwards_changes_no_bits(finished, tmp_path, monkeypatch):
    outcome, _ = finished
    clock = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    report = run(recipe(), options(tmp_path, until_stage="distill")).report
    expected = digests(outcome.report)
    assert digests(report) == {name: expected[name] for name in digests(report)}
    assert all(stage.made_s >= 0 for stage in report.stages)


def test_killed_inside_training_it_continues_from_the_checkpoint(finished, tmp_path):
    outcome, _ = finished
    process = start(tmp_path)
    work = tmp_path / "work"
    while process.is_alive() and not list(work.glob("*/checkpoint.safetensors")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert list(work.glob("*/checkpoint.safetensors"))
    resumed = run(recipe(), options(tmp_path, until_stage="distill"))
    expected = digests(outcome.report)
    assert digests(resumed.report) == {name: expected[name] for name in ("teacher", "distill")}
    assert Store.open(tmp_path).find(resumed.report.stages[0].key, verify=True)
