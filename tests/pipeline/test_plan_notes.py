"""A plan is read back while nothing that decides it has changed, and made anew when something has."""

from dataclasses import replace

import numpy as np
import pytest

from compress.pipeline import plan as planning
from compress.pipeline.run import Options
from compress.progress import Reporter
from compress.recipe import Recipe

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
    (tmp_path / "store" / "artifacts").mkdir()
    (tmp_path / "store" / "artifacts" / "something").write_text("new")
    assert asked()[1]


def test_a_store_that_cannot_be_written_is_planned_for_each_time(asked, tmp_path):
    (tmp_path / "store").write_text("no folder")
    first, looked = asked()
    again, looked_again = asked()
    assert looked
    assert looked_again
    assert first == again
