"""Where nobody knows labels the teacher decides: what is learnt, chosen and judged is agreement with it."""

from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import BRIEF, options

from compress.benchmark.compare import PRESETS
from compress.data.sources import Digits
from compress.data.teacher_labels import TeacherLabels
from compress.errors import DataError, RecipeError
from compress.pipeline import teacher_labels
from compress.pipeline.plan import plan
from compress.pipeline.run import read, run
from compress.recipe import Recipe

RECIPE = """
name: unlabelled
data:
  source: digits
  labels: {{of: teacher, classes: {classes}}}
teacher: {{artifact: {teacher}}}
student: {{cnn: {{widths: [8, 16], strides: [2, 1]}}}}
loss: {{kl: {{temperature: 2}}}}
stages:
  - distill: {{epochs: 2, batch_size: 64}}
  - export: {{variants: [fp32]}}
benchmark: {{preset: quick, profiles: [{{}}]}}
gates: {{max_accuracy_drop: 0.9}}
"""


def recipe(teacher, *, classes="10", overrides=()) -> Recipe:
    text = RECIPE.format(teacher=teacher.path, classes=classes)
    return Recipe.parse(text, origin="recipe.yaml", directory=Path(), overrides=overrides)


@pytest.mark.slow
def test_a_run_without_labels_is_judged_by_agreement_with_the_teacher(tmp_path, trained_digits, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", BRIEF)
    given, how = recipe(trained_digits), options(tmp_path)
    planned = plan(given, how)
    assert any("agreement" in note for note in planned.notes)
    monkeypatch.setattr(teacher_labels, "predict", None)  # what it has decided is noted
    outcome = run(given, how)
    teacher, *_, shipped = outcome.report.verdict.test
    assert teacher.accuracy.value == 1.0
    assert shipped.agreement.value == shipped.accuracy.value < 1
    assert any("agreement" in note for note in outcome.report.data.notes)


def test_only_what_is_judged_is_labelled_and_by_the_teacher(tmp_path, trained_digits):
    _, data = read(recipe(trained_digits), options(tmp_path))
    assert (data.train.labels, data.calibration.labels) == (None, None)
    known = Digits().load(code=()).roles["train"]
    true = dict(zip(known.hashes, known.labels.tolist(), strict=True))
    right = [true[one] == said for one, said in zip(data.select.hashes, data.select.labels, strict=True)]
    assert 0.9 < np.mean(right) < 1  # as good as the teacher is


def test_what_cannot_be_is_refused(tmp_path, trained_digits):
    trained = {"teacher.artifact=null", "teacher.model={cnn: {widths: [8], strides: [2]}}", "teacher.train={epochs: 1}"}
    with pytest.raises(RecipeError, match="cannot learn it here"):
        recipe(trained_digits, overrides=sorted(trained))
    with pytest.raises(RecipeError, match="the loss of distill reads labels, and train has none"):
        recipe(trained_digits, overrides=["loss=hinton"])
    names = tmp_path / "names.txt"
    with pytest.raises(DataError, match=r"names of the classes cannot be read[\s\S]*names.txt"):
        TeacherLabels(classes=names).name_classes()
    names.write_text("cat\ncat\n")
    with pytest.raises(DataError, match="2, of which 1 are different"):
        TeacherLabels(classes=names).name_classes()
    names.write_text("cat\ndog\n")
    assert TeacherLabels(classes=names).name_classes() == ("cat", "dog")
