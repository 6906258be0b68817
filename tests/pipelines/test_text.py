"""Text through a whole recipe in seconds, and through the script that ships where nothing else is installed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import text_zoo
import torch
from record import compare

import compress
from compress.benchmark.compare import PRESETS, QUICK
from compress.export.session import Session
from compress.loss import GuidedLoss
from compress.loss.logits import Hard
from compress.models import HuggingFace, load_model
from compress.pipeline.run import Options
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stages.create import Create
from compress.stages.export import Export
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize
from compress.stages.vocabulary import PruneVocabulary
from compress.tasks import Task

ABSENT = ("torch", "transformers", "onnx", "compress", "datasets", "pandas", "pydantic", "sklearn", "scipy")

RECIPE = """
schema: 1
name: reviews
data:
  source: {table: {path: reviews.csv, text: text, label: label}}
  split: {test: 100, select: 100, calibration: 32}
  tokenize: {max_length: 24}
teacher:
  model: {huggingface: {path: bert}}
  train: {epochs: 8, batch_size: 20, optimizer: adamw, learning_rate: 0.003}
student: teacher
loss: {hard: {weight: 0.1}, kl: {weight: 0.9, temperature: 2}}
stages:
  - shorten: {layers: every-other}
  - prune-vocabulary
  - distill: {epochs: 3, batch_size: 20, optimizer: adamw, learning_rate: 0.003}
  - prune: {kept_params_fraction: 0.7, importance_batches: 2, importance_batch_size: 32, round_to: 8}
  - distill:
      name: recover
      epochs: 3
      batch_size: 20
      optimizer: adamw
      learning_rate: 0.003
      loss: {hard: {weight: 0.1}, kl: {weight: 0.9, temperature: 2}, dynamic_layers: {}}
  - quantize: {mode: dynamic}
  - export
benchmark: {preset: quick, profiles: [{}]}
gates: {max_accuracy_drop: 0.15, max_size_mb: 0.1}
"""


def told_by_script(bundle: Path, texts: list[str]) -> list[str]:
    """What predict.py says of these texts where only onnxruntime, numpy and tokenizers can be imported."""
    script = (
        "import runpy, sys\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, str(bundle / "predict.py")]
    done = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def logits_of_file(bundle: Path, task: Task, samples) -> list[np.ndarray]:
    """What the int8 file gives for each sample alone, a row for each unit."""
    session, found = Session(bundle / "int8-x86.onnx"), []
    for position in range(len(samples)):
        batch = task.batch(samples, torch.tensor([position]))
        found.append(task.rows(session(*(value.numpy() for value in batch.inputs))[0], batch))
    return found


def test_a_recipe_for_text_runs_to_its_verdict_and_its_script_labels_as_the_file_does(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", replace(QUICK, rounds=3, block_ms=2.0, warm_up_limit_ms=20.0))
    torch.manual_seed(0)
    text_zoo.make_bert(tmp_path / "bert")
    text_zoo.write_reviews(tmp_path / "reviews.csv")
    recipe = Recipe.parse(RECIPE, origin="recipe.yaml", directory=tmp_path)
    outcome = compress.run(recipe, Options(store=tmp_path / "store", threads=1, reporter=Reporter(quiet=True)))

    assert outcome.passed is True
    compare(json.loads((outcome.run_dir / "report.json").read_text()), "text")
    verdict, stages = outcome.report.verdict, {stage.name: stage for stage in outcome.report.stages}
    assert [gate.name for gate in verdict.gates] == ["max_accuracy_drop", "max_size_mb"]
    assert [row.name for row in verdict.test] == ["teacher", verdict.rival, "export"]
    assert verdict.shipped.accuracy.value > 0.8
    own = [GuidedLoss.model_validate(loss).fingerprint for loss in (recipe.loss, recipe.stages[4].loss)]
    assert [stages[name].loss_fingerprint for name in ("distill", "recover")] == own
    assert own[0] != own[1]
    installed = outcome.report.environment.versions
    assert {"transformers", "tokenizers", "scikit-learn", "torch-pruning"} <= installed.keys()
    assert not {"timm", "torchvision", "sacrebleu", "datasets", "openvino"} & installed.keys()
    sizes = [stages[name].scores.parameters for name in ("teacher", "shorten", "prune-vocabulary", "prune")]
    assert sizes == sorted(set(sizes), reverse=True)

    bundle = outcome.run_dir / "bundle"
    data = recipe.data.load()
    told = told_by_script(bundle, data.test.inputs.tolist())
    logits = np.concatenate(logits_of_file(bundle, recipe.task(data).reading(bundle), data.test))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [line.split()[0] for line in told] == [data.classes[index] for index in logits.argmax(axis=1)]
    assert [float(line.split()[1]) for line in told] == pytest.approx(chances.max(axis=1), abs=0.006)
    assert len({line.split()[0] for line in told}) == 2


def test_the_script_tags_words_as_the_pruned_int8_file_does(make_context, tmp_path):
    torch.manual_seed(0)
    folder = text_zoo.make_bert(tmp_path / "bert", initializer_range=0.5)
    data = text_zoo.review_data(kind="words")
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data, loss=GuidedLoss(hard=Hard()))
    created = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    context = replace(context, teacher=created)
    pruned = Prune(kept_params_fraction=0.8, importance_batches=2, round_to=8).run(created, *context)
    small = PruneVocabulary().run(pruned, *context)
    here = context.reading(small)
    quantized = Quantize(mode="dynamic", max_accuracy_drop=None, min_agreement=0.5).run(small, *here)
    bundle = Export().run(quantized, *here).path

    sizes = [sum(value.numel() for value in load_model(made.path).parameters()) for made in (created, pruned, small)]
    assert sizes == sorted(set(sizes), reverse=True)
    samples = data.test
    expected = []
    for words, logits in zip(samples.inputs, logits_of_file(bundle, here.task, samples), strict=True):
        tags = [data.classes[index] for index in logits.argmax(axis=1)]
        expected.append(" ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True)))
    assert told_by_script(bundle, [" ".join(words) for words in samples.inputs]) == expected
    assert all(f"/{name}" in " ".join(expected) for name in data.classes)
