"""A plan that is asked for in the words of before is what it was, for as long as everything is, and needs no torch."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from compress.pipeline import typed as module
from compress.pipeline.planned import Pairing, Plan, Row
from compress.pipeline.typed import Typed
from compress.recipe import Recipe

RECIPE = """
schema: 1
name: tiny
data: {source: {numpy: {archive: data.npz}}}
teacher: {model: {mlp: {widths: [4]}}, train: {epochs: 1}}
student: {mlp: {widths: [2]}}
stages: [distill]
"""
PAIR = Pairing("distill", "layers", "a", (1, 2), "b", (3,), 6, stored=True, live_overhead=0.0)
PLAN = Plan([Row("teacher", "run", "never run before", "0" * 64)], [PAIR], "x / 255", ("few",), ("a: b",), "cpu")
STALE = {
    "recipe.yaml": "# another text\n" + RECIPE,
    "data.npz": "others",
    "store/artifacts/0123/manifest.json": "{}",
    "store/runs/a/report.json": "{}",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "data.npz").write_text("some")
    monkeypatch.chdir(tmp_path)
    for name in module.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def ask(folder: Path, *, smoke: bool = False, **options) -> Typed | None:
    return Typed.of(folder / "recipe.yaml", options, store=folder / "store", code=(), smoke=smoke)


def keep(typed: Typed, folder: Path) -> None:
    around = typed.look_around(Recipe.load(folder / "recipe.yaml"))
    typed.keep(PLAN, around)


def test_the_same_words_have_the_same_plan_and_others_have_none(folder):
    keep(ask(folder, until=None), folder)
    assert ask(folder, until=None).find_plan() == PLAN
    assert ask(folder, until="distill").find_plan() is None
    os.chdir("/")
    assert ask(folder, until=None).find_plan() is None  # relative paths start elsewhere


@pytest.mark.parametrize("name", STALE)
def test_what_changed_around_them_leaves_no_plan(folder, name):
    keep(ask(folder), folder)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STALE[name])
    assert ask(folder).find_plan() is None
    keep(ask(folder), folder)
    assert ask(folder).find_plan() == PLAN


def test_a_recipe_that_is_saved_while_the_libraries_load_leaves_no_plan(folder):
    typed = ask(folder)
    (folder / "recipe.yaml").write_text("# another text\n" + RECIPE)
    keep(typed, folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    assert ask(folder).find_plan() is None


def test_a_name_that_becomes_a_folder_beside_the_recipe_leaves_no_plan(folder, monkeypatch):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    named = RECIPE.replace("{mlp: {widths: [2]}}", "{huggingface: {path: org/tiny}}")
    (folder / "recipe.yaml").write_text(named)
    keep(ask(folder), folder)
    assert ask(folder).find_plan() == PLAN
    (folder / "org" / "tiny").mkdir(parents=True)
    (folder / "org" / "tiny" / "config.json").write_text("{}")
    assert ask(folder).find_plan() is None


def test_another_machine_has_no_plan_and_one_with_an_accelerator_keeps_none(folder, monkeypatch):
    keep(ask(folder), folder)
    with monkeypatch.context() as changed:
        changed.setattr(module, "list_accelerators", lambda: ["/dev/nvidia0"])
        assert ask(folder).find_plan() is None
        assert ask(folder, until="a").look_around(Recipe.load(folder / "recipe.yaml")) is None
    with monkeypatch.context() as changed:
        changed.setattr(module, "machine", lambda: [64, []])
        assert ask(folder).find_plan() is None
    monkeypatch.setattr("compress.stage.device.best_device", lambda: "cuda:0")
    assert ask(folder, until="a").look_around(Recipe.load(folder / "recipe.yaml")) is None


def test_what_words_do_not_say_is_looked_at_anew(folder, monkeypatch):
    (folder / "recipe.yaml").write_text(
        RECIPE.replace("{numpy: {archive: data.npz}}", "{hub: {path: glue, text: a, label: b}}")
    )
    assert ask(folder).look_around(Recipe.load(folder / "recipe.yaml")) is None
    monkeypatch.setenv("RANK", "0")
    assert ask(folder) is None
    monkeypatch.delenv("RANK")
    (folder / "recipe.yaml").unlink()
    assert ask(folder) is None


def test_a_smoke_runs_plan_knows_of_the_smoke_runs_store(folder):
    keep(ask(folder, smoke=True), folder)
    for store, stale in (("store", False), ("store/smoke", True)):
        path = folder / store / "artifacts" / "1" / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert (ask(folder, smoke=True).find_plan() is None) == stale


def test_a_plan_reads_back_as_it_was():
    assert Plan.read(json.loads(json.dumps(asdict(PLAN)))) == PLAN
