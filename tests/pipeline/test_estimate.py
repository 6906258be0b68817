from pathlib import Path

import numpy as np
import pytest
import writing_zoo

from compress.pipeline.estimate import Measured, estimate, sentence
from compress.recipe import Recipe
from compress.report.document import Prediction
from compress.tasks.image_classification import MIXED_VIEWS

RECIPE = """
name: estimated
data: {source: digits}
teacher: {artifact: nowhere}
student: teacher
stages:
  - prune: {kept_macs_fraction: 0.5, steps: 4, recover: {epochs: 5}}
benchmark: {preset: quick, profiles: [{}]}
"""

WRITING = """
name: written
data:
  source: {{table: {{path: {words}, text: word, target_text: sounds}}}}
  symbols: {{text: characters, target_text: words, max_length: 16}}
teacher: {{artifact: nowhere}}
student: {{transducer: {{width: 16, heads: 2, max_length: 16}}}}
loss: word
stages:
  - distill: {{epochs: 3, label: {{decoding: {{beam: {{size: 4}}}}, keep_given: true, sources: {more}}}}}
benchmark: {{preset: quick, profiles: [{{}}]}}
"""


def predicted(text: str, digits, rows: dict[str, dict[str, float]]) -> Prediction:
    recipe = Recipe.parse(text, origin="recipe.yaml", directory=Path())
    measured = {name: Measured(2.0, facts, 1000) for name, facts in rows.items()}
    return estimate(recipe, digits, smoke_select=100, rows=measured, num_raced=len(rows))


def test_the_recovery_between_pruning_steps_counts(digits):
    text = RECIPE.replace("benchmark:", "  - distill: {epochs: 2}\nbenchmark:")
    found = predicted(text, digits, {"teacher": {}, "prune": {}, "distill": {"images_per_s": 500.0}})
    assert found.seconds["prune, recovery"] == 3 * 5 * 1000 / 500
    assert found.seconds["distill"] == 2 * 1000 / 500
    assert found.seconds["prune"] == 2.0 * 300 / 100
    assert found.hours == pytest.approx(sum(found.seconds.values()) / 3600, abs=1e-4)
    assert found.unknown == ()


def test_what_no_rate_was_measured_for_is_named(digits):
    found = predicted(RECIPE, digits, {"teacher": {}, "prune": {}})
    assert found.unknown == ("prune, recovery",)
    assert "without prune, recovery, not measured here" in sentence(found)
    trained = predicted(RECIPE, digits, {"teacher": {"images_per_s": 250.0}, "prune": {}})
    assert trained.seconds["prune, recovery"] == 3 * 5 * 1000 / 250


def test_what_teachers_write_and_students_learn_of_it_is_counted(tmp_path):
    data = writing_zoo.data()
    (tmp_path / "more.txt").write_text("kkk\nooo\n\nooo\n")
    recipe = WRITING.format(words=writing_zoo.write_table(tmp_path / "words.csv"), more=tmp_path / "more.txt")
    facts = {"images_per_s": 100.0, "label": {"seconds": 2.0, "symbols": 400}}
    rows = {"teacher": {"images_per_s": 50.0}, "distill": facts}
    found = predicted(recipe, data, rows).seconds
    sources = len(set(data.train.inputs)) + 2
    symbols = sources * 4 * np.mean([len(texts[0].split()) + 1 for texts in data.train.labels])
    assert found["distill, labels"] == pytest.approx(symbols / 200, abs=0.1)
    learnt = sources + len(data.train)
    assert found["distill"] == pytest.approx(3 * learnt / 100, abs=0.1)
    assert found["teacher outputs"] == pytest.approx(learnt / 3 / 50, abs=0.1)


def test_outputs_for_mixed_samples_are_counted_for_every_view(digits):
    rows = {"teacher": {"images_per_s": 500.0}, "prune": {}}
    plain, mixed = (
        predicted(RECIPE.replace("stages:", f"loss: {{kl: {{}}{mixup}}}\nstages:"), digits, rows)
        for mixup in ("", ", mixup: 0.5")
    )
    ratio = mixed.seconds["teacher outputs"] / plain.seconds["teacher outputs"]
    assert ratio == pytest.approx(MIXED_VIEWS, rel=0.1)  # they are told to a tenth of a second
    assert mixed.disk_bytes > plain.disk_bytes


def test_teachers_that_are_run_in_every_step_leave_no_outputs_to_count(digits):
    head, tail = RECIPE.split("stages:")[0], RECIPE[RECIPE.index("benchmark:") :]
    rows = {"teacher": {"images_per_s": 500.0}, "distill": {"images_per_s": 250.0}, "again": {"images_per_s": 500.0}}
    fresh = "  - distill: {epochs: 2, views: fresh}\n"
    live = predicted(f"{head}loss: function-matching\nstages:\n{fresh}{tail}", digits, rows)
    assert "teacher outputs" not in live.seconds
    assert live.seconds["distill"] == 2 * 1000 / 250
    again = "  - distill: {name: again, epochs: 1}\n"
    both = predicted(f"{head}loss: function-matching\nstages:\n{fresh}{again}{tail}", digits, rows)
    assert both.seconds["teacher outputs"] == pytest.approx(MIXED_VIEWS * 1000 / 3 / 500, abs=0.1)
    assert both.disk_bytes > live.disk_bytes
