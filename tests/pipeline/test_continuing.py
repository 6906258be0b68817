"""A causal model, from a recipe to its bundle: trained on completions alone, judged, verified and used as a program."""

import json
import subprocess
import sys

import causal_zoo
import numpy as np
import pytest
import torch
from causal_zoo import make_model
from torch.nn import functional as F

from compress.errors import DataError, ModelError, StageError
from compress.export.program_file import open_program
from compress.export.verify import verify_bundle
from compress.models import load_model
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, prepare, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.store.store import Store
from compress.tasks.symbols import Vocabularies

RECIPE = """
schema: 1
name: turning
data:
  source: {table: {path: words.csv, prompt: word, completion: turned}}
  split: {test: 40, select: 40, calibration: 40}
  symbols: {max_length: 12}
teacher:
  model: {causal: {width: 24, heads: 2, feed_forward: 48, decoder_layers: 1, max_length: 24, beams: 2}}
  train: {epochs: 10, batch_size: 32, learning_rate: 0.01, label_smoothing: 0.05}
student: {causal: {width: 24, heads: 2, feed_forward: 48, decoder_layers: 1, max_length: 24, beams: 2}}
loss: word
stages:
  - distill: {label: {decoding: greedy, keep_given: true}, epochs: 3, batch_size: 32, learning_rate: 0.02}
  - quantize: {max_accuracy_drop: 0.5, min_agreement: 0, max_weight_bytes_fraction: 1}
  - export
benchmark: {preset: smoke}
gates: {max_accuracy_drop: 1.0}
"""
PUBLISHED = """
schema: 1
name: copied
data:
  source: {table: {path: words.csv, prompt: word, completion: turned}}
  split: {test: 40, select: 40, calibration: 40}
  tokenize: {max_length: 24}
teacher: {model: {causal_lm: {path: published, beams: 2}}, train: {epochs: 1, batch_size: 32}}
student: {causal_lm: {path: published, decoder_layers: 1}}
loss: distil-whisper
stages:
  - distill: {label: {decoding: greedy, keep_given: true}, epochs: 1, batch_size: 32}
  - quantize: {max_accuracy_drop: 1, min_agreement: 0, max_weight_bytes_fraction: 1}
  - export
benchmark: {preset: smoke}
gates: {max_accuracy_drop: 1.0}
"""
BLOCKED = ("torch", "onnx", "onnxscript", "mlflow", "pydantic", "scipy", "transformers", "compress")


def parse(text: str, folder, **changes: str) -> Recipe:
    for old, new in changes.items():
        text = text.replace(old, new)
    return Recipe.parse(text, origin="recipe.yaml", directory=folder)


def options_of(folder) -> Options:
    return Options(store=folder / "store", threads=1, reporter=Reporter(quiet=True), force_teacher=True)


def predict_alone(bundle, texts, *blocked: str) -> list[str]:
    """What predict.py of a bundle prints in a process that has none of the libraries."""
    block = f"import runpy, sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    script = block + "sys.path.insert(0, sys.argv[1])\nsys.argv = sys.argv[1:]\nsys.argv[0] += '/predict.py'\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    command = [sys.executable, "-c", script, str(bundle), *texts]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def written_by(bundle, texts) -> list[str]:
    """What the program of a bundle writes when it is driven here."""
    sides = Vocabularies.read((bundle / "vocabulary.json").read_text())
    assert sides.continues
    primary = json.loads((bundle / "bundle.json").read_text())["primary"]
    decoder = open_program(bundle / primary).decoder
    found = []
    for text in texts:
        ids = np.array([sides.source.read([text], most=24).numbers])
        tokens = decoder.write(ids, np.ones_like(ids)).tokens[0]
        found.append(sides.target.decode([number for number in tokens.tolist() if number]).strip())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("continuing")
    causal_zoo.write_table(found / "words.csv")
    return found


@pytest.fixture(scope="module")
def outcome(folder):
    return run(parse(RECIPE, folder), options_of(folder))


def test_a_causal_model_is_trained_distilled_quantized_and_judged(outcome):
    rows = {row.name: row for row in outcome.report.benchmark.rows}
    assert [*rows] == ["teacher", "teacher-dynamic", "distill", "quantize", "export:fp32", "export"]
    teacher = next(row for row in outcome.report.stages if row.name == "teacher")
    assert teacher.scores.parity.max_abs < 1e-4 * teacher.scores.parity.scale
    assert teacher.scores.parity.argmax_agreement == 1.0
    timed = outcome.report.benchmark.comparisons[0].measurements
    assert [*timed["teacher"].writing_ms] == [
        "first symbol, greedy", "each symbol, greedy", "first symbol, beam 2", "each symbol, beam 2",
    ]  # fmt: skip
    assert outcome.report.texts.examples
    facts = {row.name: row.facts for row in outcome.report.stages}
    assert facts["distill"]["label"]["learnt"] > 0
    assert facts["quantize"]["int8_macs_fraction"] == 1.0
    measured = outcome.report.verdict.shipped.measures
    assert measured.keys() >= {"exact-match", "token-accuracy", "length-ratio", "perplexity"}


def test_perplexity_of_the_file_is_that_of_the_model_on_the_completions(outcome, folder):
    recipe, _, data = prepare(parse(RECIPE, folder), options_of(folder))
    row = next(row for row in outcome.report.stages if row.name == "teacher")
    artifact = Store.open(folder / "store").find(row.key)
    task = recipe.task(data).reading(artifact.path)
    batch = task.batch(data.test, torch.arange(len(data.test)))
    with torch.no_grad():
        nats = F.cross_entropy(task.forward(load_model(artifact.path), batch), batch.labels)
    found = outcome.report.verdict.teacher.measures["perplexity"]
    assert found.value == pytest.approx(float(nats.exp()), rel=1e-3)
    assert found.low < found.value < found.high
    assert found.value < len(task.classes)


def test_the_bundle_verifies_and_writes_without_the_libraries(outcome, folder):
    bundle = outcome.shipped.path
    assert verify_bundle(bundle).passed
    words = [line.split(",")[0] for line in (folder / "words.csv").read_text().splitlines()[1:12]]
    printed = predict_alone(bundle, words, *BLOCKED, "tokenizers")
    assert printed == written_by(bundle, words)
    assert len(set(printed)) > 2


def test_everything_is_found_again(outcome, folder):
    told = plan(parse(RECIPE, folder), options_of(folder))
    assert {step.action for step in told.steps} == {"reuse", "none"}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"prompt: word, completion: turned": "text: word, target_text: turned"}, ModelError, "transducer and seq2seq"),
        ({"max_length: 24": "max_length: 16"}, ModelError, "too few positions"),
        ({"{max_length: 12}": "{max_length: 12, target_text: words}"}, DataError, "the symbols of its prompt"),
    ],
)
def test_plan_refuses_what_does_not_fit(folder, change, kind, words):
    with pytest.raises((kind, StageError), match=words):
        plan(parse(RECIPE, folder, **change), options_of(folder))


@pytest.mark.parametrize("row", [",TAK\n", "kat,\n"])
def test_empty_prompts_and_completions_are_refused(tmp_path, row):
    table = causal_zoo.write_table(tmp_path / "words.csv")
    table.write_text(table.read_text() + row)
    with pytest.raises(DataError, match="empty"):
        prepare(parse(RECIPE, tmp_path), options_of(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_published_model_becomes_a_bundle(family, tmp_path):
    causal_zoo.write_table(tmp_path / "words.csv", before=" ")
    (tmp_path / "published").mkdir()
    make_model(family, tmp_path / "published")
    outcome = run(parse(PUBLISHED, tmp_path), options_of(tmp_path))
    bundle = outcome.shipped.path
    assert verify_bundle(bundle).passed
    facts = {row.name: row.facts for row in outcome.report.stages}
    assert facts["quantize"]["int8_macs_fraction"] == 1.0
    words = [line.split(",")[0] for line in (tmp_path / "words.csv").read_text().splitlines()[1:8]]
    assert predict_alone(bundle, words, *BLOCKED) == written_by(bundle, words)
