"""A model that writes, from a recipe to its bundle: scored, raced, judged, verified and used as a program."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import writing_zoo
from rich.console import Console

from compress import Export, Quantize
from compress.benchmark.process import Worker
from compress.benchmark.tables import markdown
from compress.errors import ArtifactError, ModelError, StageError
from compress.export.feed import first_inputs
from compress.export.onnx_file import external_files, size_bytes
from compress.export.program_file import open_model, open_program
from compress.export.verify import verify_bundle
from compress.models import load_model, load_structure
from compress.pipeline.check import check
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, host_of, prepare, run, work_of
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.report.page import page
from compress.report.terminal import print_all
from compress.stage import Execution
from compress.store.store import Store

RECIPE = """
schema: 1
name: spelling
data:
  source: {table: {path: words.csv, text: word, target_text: sounds}}
  symbols: {text: characters, target_text: words, max_length: 16}
  written_limit: {symbols: 3, per_source_symbol: 2}
teacher:
  model:
    transducer: {width: 32, heads: 2, feed_forward: 64, encoder_layers: 1, decoder_layers: 1, max_length: 16, beams: 3}
  train: {epochs: 4, batch_size: 32, learning_rate: 0.005}
student:
  transducer: {width: 16, heads: 2, feed_forward: 32, encoder_layers: 1, decoder_layers: 1, max_length: 16}
loss: word
stages:
  - distill: {epochs: 4, batch_size: 32, learning_rate: 0.01}
  - quantize: {max_accuracy_drop: 0.5, min_agreement: 0, max_weight_bytes_fraction: 1}
  - export
benchmark: {preset: smoke, profiles: [{}, {runtime: torch-cpu}]}
gates: {max_accuracy_drop: 1.0}
"""
BLOCKED = (
    "torch",
    "onnx",
    "onnxscript",
    "mlflow",
    "pydantic",
    "sklearn",
    "scipy",
    "transformers",
    "tokenizers",
    "compress",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("writing")
    writing_zoo.write_table(found / "words.csv", 400)
    return found


@pytest.fixture(scope="module")
def recipe(folder):
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=folder)


@pytest.fixture(scope="module")
def options(folder):
    return Options(store=folder / "store", threads=1, reporter=Reporter(quiet=True), force_teacher=True)


@pytest.fixture(scope="module")
def outcome(recipe, options):
    return run(recipe, options)


@pytest.fixture(scope="module")
def bundle(outcome):
    return outcome.shipped.path


def words(folder):
    return [line.split(",")[0] for line in (folder / "words.csv").read_text().splitlines()[1:12]]


def test_every_row_is_a_program_that_writes_in_the_runtime(outcome):
    rows = {row.name: row for row in outcome.report.benchmark.rows}
    assert [*rows] == ["teacher", "teacher-dynamic", "distill", "quantize", "export:fp32", "export"]
    assert rows["export"].accuracy is not None
    assert rows["export"].latency_ms["ort-cpu-b1-t1"] > 0
    assert rows["teacher"].failures["torch-cpu-b1-t1"] == "programs are driven by ONNX Runtime alone"
    timed = outcome.report.benchmark.comparisons[0].measurements
    assert all(value > 0 for value in timed["teacher"].writing_ms.values())
    assert [*timed["teacher"].writing_ms] == [
        "first symbol, greedy", "each symbol, greedy", "first symbol, beam 3", "each symbol, beam 3",
    ]  # fmt: skip
    assert [*timed["export"].writing_ms] == ["first symbol, greedy", "each symbol, greedy"]
    assert [*timed["teacher"].writing_per_s] == ["symbols a second, greedy", "symbols a second, beam 3"]
    # 16 symbols in the time of the first and 15 further ones, but for the noise of medians.
    first, each = timed["export"].writing_ms.values()
    (rate,) = timed["export"].writing_per_s.values()
    assert rate == pytest.approx(16e3 / (first + 15 * each), rel=0.5)
    shown = markdown(outcome.report.benchmark)
    assert "| model | first symbol, greedy | each symbol, greedy |" in shown
    assert "| symbols a second, greedy | symbols a second, beam 3 |" in shown
    assert outcome.report.task.measure == "exact-match"
    assert outcome.report.verdict.test[-1].measures.keys() >= {"exact-match", "token-error-rate", "length-ratio"}
    teacher = next(row for row in outcome.report.stages if row.name == "teacher")
    assert teacher.scores.parity.max_abs < 1e-4 * teacher.scores.parity.scale
    assert teacher.scores.parity.argmax_agreement == 1.0
    assert outcome.report.absent["teacher-static"].startswith("a program is quantized with ranges")


def test_texts_that_are_written_otherwise_are_shown_beside_each_other(outcome, options, recipe):
    found, select = outcome.report.texts, prepare(recipe, options)[2].select
    assert found.samples == len(select)
    assert 0 <= found.lost <= found.differing <= found.samples
    assert found.examples  # so little training leaves few right answers, and many that differ
    shown = page(outcome.report)
    stream = io.StringIO()
    print_all(outcome.report, Console(file=stream, width=200))
    for example in found.examples:
        assert example.source == select.inputs[example.sample]
        assert example.reference == " | ".join(select.labels[example.sample])
        assert example.teacher != example.student
        assert f"<blockquote>{example.source}</blockquote>" in shown
        assert f"student: {example.student}" in stream.getvalue()
    for example in found.examples[: found.lost]:
        assert example.teacher in select.labels[example.sample]
        assert example.student not in select.labels[example.sample]


def test_sizes_are_those_of_all_files_and_the_key_of_the_bundle_proves_them(outcome, bundle):
    files = [bundle / "int8-x86.json", *external_files(bundle / "int8-x86.json")]
    row = next(row for row in outcome.report.benchmark.rows if row.name == "export")
    assert row.size_bytes == sum(file.stat().st_size for file in files) == size_bytes(files[0])
    int8 = json.loads((bundle / "int8-x86.json").read_text())
    assert int8["writing"]["beams"] == 1
    assert int8["writing"]["limit"] == [3, 2.0]
    assert outcome.shipped.facts["variants"]["int8-x86"]["size_bytes"] == row.size_bytes


def test_products_run_in_int8_kernels(outcome):
    facts = next(row.facts for row in outcome.report.stages if row.name == "quantize")
    assert facts["mode"] == "dynamic"
    assert facts["int8_macs_fraction"] == 1.0
    assert facts["kernels"]["DynamicQuantizeMatMul"] > 5


def test_the_bundle_verifies_and_a_changed_graph_is_found(bundle, tmp_path):
    report = verify_bundle(bundle)
    assert report.passed
    assert report.variants["fp32"].max_abs == 0.0
    changed = shutil.copytree(bundle, tmp_path / "bundle")
    graph = changed / "int8-x86.decoder.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="a file of the bundle was changed"):
        verify_bundle(changed)
    manifest = json.loads((changed / "bundle.json").read_text())
    del manifest["files"]["int8-x86.decoder.onnx"]
    (changed / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="a program names a graph that the manifest does not list"):
        verify_bundle(changed)


def test_verify_and_predict_need_onnxruntime_and_numpy_alone(bundle, folder):
    given = words(folder)
    block = f"import runpy, sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    script = block + "sys.path.insert(0, sys.argv[1])\nsys.argv = sys.argv[1:]\nsys.argv[0] += '/predict.py'\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle), *given], capture_output=True, text=True, check=True
    )
    vocabulary = json.loads((bundle / "vocabulary.json").read_text())
    numbers = {symbol: number for number, symbol in enumerate(vocabulary["source"]["symbols"], start=4)}
    decoder = open_program(bundle / "int8-x86.json").decoder
    written = []
    for word in given:
        ids = np.array([[numbers[letter] for letter in word]])
        tokens = decoder.write(ids, np.ones_like(ids)).tokens[0]
        written.append(" ".join(vocabulary["target"]["symbols"][number - 4] for number in tokens if number > 3))
    assert done.stdout.splitlines() == written


def test_predict_tells_of_symbols_it_does_not_know_and_refuses_what_is_empty(bundle):
    run_it = [sys.executable, str(bundle / "predict.py")]
    done = subprocess.run([*run_it, "ka!?"], capture_output=True, text=True, check=True)
    assert "ka!?: not in training, and taken as unknown: ! ?" in done.stderr
    done = subprocess.run(run_it, input="kate\n\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "expected a text, got an empty one"
    long = "k" * 20
    done = subprocess.run([*run_it, long], capture_output=True, text=True, check=True)
    assert f"{long}: only the first 16 symbols are read" in done.stderr


def test_a_worker_writes_what_scoring_read(recipe, options, outcome, bundle, tmp_path):
    recipe, _, data = prepare(recipe, options)
    work = work_of(recipe, data)
    inputs = first_inputs(work.task.deployed, data.select, 8)
    np.savez(tmp_path / "inputs.npz", source_ids=inputs[0], source_mask=inputs[1])
    with Worker() as worker:
        started = worker.load(
            runtime="ort-cpu", model=bundle / "int8-x86.json", inputs=tmp_path / "inputs.npz", batch_size=8
        )
        tokens, chances = worker.outputs({"source_ids": inputs[0], "source_mask": inputs[1]})
    ours = open_model(bundle / "int8-x86.json")(*inputs)
    np.testing.assert_array_equal(tokens, ours[0])
    np.testing.assert_array_equal(chances, ours[1])
    assert started.settings["writing"]["max_length"] == 16


def test_everything_is_found_again_and_plan_says_so(recipe, options, outcome):
    told = plan(recipe, options)
    assert {step.action for step in told.steps} == {"reuse", "none"}
    again = run(recipe, options, raced=outcome.race)
    assert again.shipped.digest == outcome.shipped.digest


def test_check_says_how_the_teacher_writes_and_after_a_run_the_student(recipe, options, outcome):
    found = {finding.title: finding for finding in check(recipe, options).findings}
    for name in ("teacher", "the trained student"):
        assert {f"{probe} {name}" for probe in ("beam-gap", "length-ratio", "runaway", "long-texts")} <= found.keys()
    assert "with a beam, 32 texts" in found["beam-gap teacher"].detail
    assert found["capacity"].value < 1


def test_what_was_made_of_other_symbols_is_refused_by_the_plan(recipe, options, outcome, tmp_path):
    teacher = next(row for row in outcome.report.stages if row.name == "teacher")
    artifact = Store.open(options.store).find(teacher.key)
    (tmp_path / "words.csv").write_text(recipe.data.source.path.read_text().replace("x", "z"))
    given = [f"teacher={{artifact: {artifact.path}}}", "loss=gkd"]
    other = Recipe.parse(RECIPE, origin="recipe.yaml", directory=tmp_path, overrides=given)
    with pytest.raises(ModelError, match="symbols of its own"):
        plan(other, options)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mode": "static"}, "ranges that are found at run time"),
        ({"keep_float": ("nowhere.*",)}, "keep_float matches no layer"),
        ({"max_weight_bytes_fraction": 0.1, "min_agreement": 0}, "the quantized weights take too many bytes"),
    ],
)
def test_what_a_program_cannot_have_is_refused(recipe, options, outcome, fields, words):
    recipe, _, data = prepare(recipe, options)
    work, host = (
        work_of(recipe, data),
        host_of(options, store=Store.open(options.store), execution=Execution(threads=1, precision="float32")),
    )
    source = next(row for row in outcome.report.stages if row.name == "distill")
    artifact = host.store.find(source.key)
    with pytest.raises(StageError, match=words):
        Quantize(**fields).run(artifact, work.reading(artifact), host)


def test_weights_of_few_bits_ship_beside_the_others(recipe, options, outcome, tmp_path):
    recipe, _, data = prepare(recipe, options)
    work, host = (
        work_of(recipe, data),
        host_of(options, store=Store.open(options.store), execution=Execution(threads=1, precision="float32")),
    )
    artifact = host.store.find(next(row for row in outcome.report.stages if row.name == "distill").key)
    stage = Export(variants=("fp32", "int8-weights", "int4-weights"), primary="int4-weights")
    module = load_model(artifact.path)
    stage.foresee(module, load_structure(artifact.path).model, work, host)
    bundle = stage.run(artifact, work.reading(artifact), host)
    sizes = {name: found["size_bytes"] for name, found in bundle.facts["variants"].items()}
    assert [*sizes] == ["fp32", "int8-weights", "int4-weights"]
    assert json.loads((bundle.path / "bundle.json").read_text())["primary"] == "int4-weights.json"
    assert verify_bundle(bundle.path).passed
    done = subprocess.run(
        [sys.executable, str(bundle.path / "predict.py"), "kate"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()
