"""A plan is read back while nothing that decides it has changed; else what the change is part of is proved anew."""

from dataclasses import replace

import numpy as np
import pytest
import text_zoo

from compress.errors import DataError, RecipeError
from compress.export import stored
from compress.pipeline import acceptance
from compress.pipeline import plan as planning
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stages.vocabulary import PruneVocabulary

RECIPE = """
schema: 1
name: noted
data: {source: {numpy: {archive: data.npz}}}
teacher: {model: {cnn: {widths: [4, 8], strides: [1, 2]}}, train: {epochs: 1, batch_size: 8}}
student: {cnn: {widths: [4, 4], strides: [1, 2]}}
loss: fitnets
stages:
  - distill: {epochs: 1, batch_size: 8}
"""


def write_data(folder, *, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (400, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", train_inputs=images, train_labels=np.arange(400) % 4)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    write_data(tmp_path, seed=0)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = Options(tmp_path / "store", until_stage="distill", threads=1, reporter=Reporter(quiet=True))
    looked, look = [], planning._look

    def count(*arguments):
        looked.append(arguments)
        return look(*arguments)

    monkeypatch.setattr(planning, "_look", count)

    def ask(*overrides, **changes):
        before = len(looked)
        found = planning.plan(Recipe.load(tmp_path / "recipe.yaml", overrides=overrides), replace(options, **changes))
        return found, len(looked) > before

    return ask


def test_the_same_plan_is_read_back_and_is_equal(asked):
    first, looked = asked()
    assert looked
    assert first.pairs
    second, looked = asked()
    assert not looked
    assert second == first


def test_other_settings_data_code_or_store_are_looked_at_anew(asked, tmp_path):
    asked()
    assert asked("stages.distill.epochs=2")[1]
    assert asked(force=("distill",))[1]
    assert not asked()[1]
    write_data(tmp_path, seed=1)
    assert asked()[1]
    assert not asked()[1]
    for name in ("artifacts/0123/manifest.json", "artifacts/0123/model.safetensors", "runs/a/b.json"):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
        assert asked()[1]
        assert not asked()[1]
    (tmp_path / "store" / "mlflow.db").write_text("")
    assert not asked()[1]


def test_what_was_allowed_once_is_refused_when_it_no_longer_is(asked):
    profiles = "benchmark.profiles=[{launcher: [taskset, -c, '0']}]"
    asked(profiles, allow=["taskset -c 0"])
    with pytest.raises(RecipeError, match="--allow 'taskset -c 0'"):
        asked(profiles)


def test_a_run_makes_no_trial_that_a_plan_has_made(asked, tmp_path, monkeypatch):
    trials = count_calls(monkeypatch, acceptance, "_ask")
    asked()
    assert len(trials) == 1
    options = Options(
        tmp_path / "store", until_stage="teacher", threads=1, force_teacher=True, reporter=Reporter(quiet=True)
    )
    run(Recipe.load(tmp_path / "recipe.yaml"), options)
    assert len(trials) == 1


def test_a_plan_tells_how_what_is_reused_was_rounded_and_reproducing_reuses_none_of_it(asked, tmp_path):
    quiet = Reporter(quiet=True)
    options = Options(tmp_path / "store", until_stage="teacher", threads=1, force_teacher=True, reporter=quiet)
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    made = run(recipe, options).shipped
    rows = [
        asked(threads=threads, reproduce=reproduce)[0].steps[0]
        for threads, reproduce in ((1, False), (2, False), (1, True))
    ]
    assert [(row.action, row.why) for row in rows[:2]] == [
        ("reuse", ""),
        ("reuse", "made with 1 thread; here it would be the same up to rounding"),
    ]
    assert rows[2].action == "run"
    again = run(recipe, replace(options, reproduce=True)).shipped
    assert again.digest == made.digest
    assert again.key != made.key
    assert asked(threads=1, reproduce=True)[0].steps[0].action == "reuse"
    assert asked(threads=2, reproduce=True)[0].steps[0].action == "run"


def test_a_store_that_cannot_be_written_is_planned_for_each_time(asked, tmp_path):
    (tmp_path / "store").write_text("no folder")
    first, looked = asked()
    again, looked_again = asked()
    assert looked
    assert looked_again
    assert first == again


TEXT = """
schema: 1
name: texts
data:
  source: {table: {path: reviews.csv, text: text, label: label}}
  split: {test: 100, select: 100, calibration: 32}
  tokenize: {max_length: 24}
teacher: {model: {huggingface: {path: bert}}, train: {epochs: 1, batch_size: 8}}
student: teacher
stages:
  - prune-vocabulary
  - distill: {epochs: 1, batch_size: 8}
"""


def count_calls(monkeypatch, owner, name):
    """What a function was called with so far; it works as before."""
    calls, function = [], getattr(owner, name)

    def count(*arguments, **fields):
        calls.append(arguments)
        return function(*arguments, **fields)

    monkeypatch.setattr(owner, name, count)
    return calls


def test_another_setting_exports_nothing_that_was_exported_before(asked, monkeypatch):
    traced = count_calls(monkeypatch, stored, "trace")
    asked()
    assert len(traced) == 2
    for override in ("stages.distill.epochs=2", "teacher.train.learning_rate=0.5", "loss=hinton"):
        _, looked = asked(override)
        assert looked
    assert len(traced) == 2
    asked("student.cnn.widths=[4,6]")
    assert len(traced) == 3


def test_texts_are_cut_into_tokens_again_only_for_what_reads_them(tmp_path, monkeypatch):
    text_zoo.make_bert(tmp_path / "bert", num_hidden_layers=1)
    text_zoo.write_reviews(tmp_path / "reviews.csv")
    (tmp_path / "recipe.yaml").write_text(TEXT)
    options = Options(tmp_path / "store", until_stage="distill", threads=1, reporter=Reporter(quiet=True))
    checked = count_calls(monkeypatch, PruneVocabulary, "check")
    counts = []

    def ask(*overrides):
        planning.plan(Recipe.load(tmp_path / "recipe.yaml", overrides=overrides), options)
        counts.append(len(checked))

    for overrides in ((), ("stages.distill.epochs=2",), ("stages.prune-vocabulary.min_count=2",), ()):
        ask(*overrides)
    text_zoo.write_reviews(tmp_path / "reviews.csv", count=420)
    ask()
    ask("data.tokenize.max_length=20")
    assert counts == [1, 1, 2, 2, 3, 4]
    for _ in range(2):  # a refusal is no proof
        with pytest.raises(DataError, match="cannot be read"):
            ask("stages.prune-vocabulary.texts=nothing.txt")
    assert len(checked) == 6
