"""Every problem on text end to end: created, trained, distilled, quantized, exported, scored, read by predict.py."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch

from compress.errors import RecipeError
from compress.judge.scores import score
from compress.loss import GuidedLoss
from compress.models import HuggingFace, load_model
from compress.recipe import Recipe
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.quantize import Quantize
from compress.stages.train import Train
from compress.training.inference import predict

LOSSES = {
    "pairs": {"hard": {}, "kl": {}},
    "words": {"hard": {}, "kl": {}},
    "labels": {"hard": {}, "bernoulli": {}},
    "targets": {"hard": {}, "mse": {}},
}
# What a few epochs reach, and chance does not.
REACHED = {"pairs": 0.8, "words": 0.8, "labels": 0.8, "targets": 0.6}


@pytest.mark.parametrize(
    "kind",
    ["targets", "labels", pytest.param("words", marks=pytest.mark.slow), pytest.param("pairs", marks=pytest.mark.slow)],
)
def test_it_learns_ships_and_is_read_by_the_script_that_ships(kind, make_context, tmp_path):
    torch.manual_seed(0)
    folder = text_zoo.make_bert(tmp_path / "bert")
    data = text_zoo.review_data(kind=kind, count=400)
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    context = replace(context, loss=GuidedLoss.model_validate(LOSSES[kind]))
    created = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    optimization = {"batch_size": 10, "optimizer": "adamw", "learning_rate": 5e-3}
    teacher = Train(epochs=12, **optimization).run(created, *context)
    context = replace(context, teacher=teacher)
    student = Distill(epochs=1, **optimization | {"learning_rate": 1e-4}).run(teacher, *context)
    outputs = predict(load_model(student.path), context.task, context.host, data.test).numpy()
    assert context.task.tally(outputs, data.test).value > REACHED[kind]
    if kind in ("labels", "targets"):
        student = Quantize(mode="dynamic", min_agreement=0.8).run(student, *context)
    bundle = Export().run(student, *context)
    scores = score(bundle, *context, role="test", teacher=None)
    assert scores.accuracy > REACHED[kind] - 0.1
    if student.kind == "model":
        assert np.allclose(scores.logits, outputs, atol=1e-4)
    _check_script(kind, bundle, scores, data)


def _check_script(kind, bundle, scores, data):
    given = data.test.inputs[:3]
    lines = [" ".join(text) if kind == "words" else "\t".join(text) if kind == "pairs" else text for text in given]
    command = [sys.executable, str(bundle.path / "predict.py"), *lines]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    told = done.stdout.splitlines()
    assert len(told) == 3
    start = 0
    for line, text, row in zip(told, given, scores.logits, strict=False):
        if kind == "words":
            decided = scores.logits[start : start + len(text)].argmax(1)
            start += len(text)
            assert line.split() == [f"{word}/{data.classes[tag]}" for word, tag in zip(text, decided, strict=True)]
        elif kind == "targets":
            name, value = line.split()
            assert name == "score"
            assert float(value) == pytest.approx(row[0], abs=0.05)
        elif kind == "labels":
            chances = [float(part) for part in line.split()[1::2]]
            assert line.split()[::2] == ["good", "bad"]
            assert chances == pytest.approx(1 / (1 + np.exp(-row)), abs=0.02)
        else:
            assert line.split()[0] == data.classes[row.argmax()]


RECIPE = """
name: texts
data: {{source: {{table: {{path: rows.csv, text: text, label: label}}}}, tokenize: {{max_length: 48}}}}
teacher: {{model: {{huggingface: {{path: {folder}}}}}, train: {{epochs: 1}}}}
student: teacher
loss: {loss}
stages:
  - distill: {{epochs: 1}}
  - export: {{variants: [fp32]}}
"""


@pytest.mark.parametrize(
    ("kind", "loss", "message"),
    [
        ("targets", "hinton", r"(?s)mean nothing for regression.*got:\s+kl.*loss of the pipeline.*mse"),
        ("labels", "hinton", r"(?s)mean nothing for multi-label.*got:\s+kl.*loss of the pipeline.*bernoulli"),
        ("label", "{hard: {}, bernoulli: {}}", r"(?s)mean nothing for single-label.*got:\s+bernoulli.*hinton"),
        ("label", "{kl: {}, mixup: 0.5}", r"(?s)only images can be mixed.*0\.5"),
        ("label", "gkd", r"(?s)only texts can be written by the student.*target_text"),
        ("targets", "{hard: {}, mse: {}}", None),
        ("labels", "{hard: {}, bernoulli: {}}", None),
        ("words", "hinton", None),
    ],
)
def test_a_loss_that_means_nothing_for_the_outputs_is_refused_before_anything_runs(kind, loss, message, tmp_path):
    folder = text_zoo.make_bert(tmp_path / "bert")
    recipe = Recipe.parse(RECIPE.format(folder=folder, loss=loss), origin="test", directory=tmp_path)
    data = text_zoo.review_data(kind=kind)
    if message is None:
        assert recipe.task(data).classes == data.classes
    else:
        with pytest.raises(RecipeError, match=message):
            recipe.task(data)
