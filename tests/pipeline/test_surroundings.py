import json
import os
from pathlib import Path

import numpy as np
import pytest

from compress.pipeline.surroundings import stamps, surroundings
from compress.recipe import Recipe

RECIPE = """
schema: 1
name: tiny
data: {source: {numpy: {archive: data.npz}}}
teacher: {model: {cnn: {}}, train: {epochs: 1}}
student: {cnn: {}}
stages: [distill, export]
"""


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "data.npz", train_inputs=np.zeros(3))
    return tmp_path


def seen(folder: Path, text: str = RECIPE, code: tuple[Path, ...] = ()):
    recipe = Recipe.parse(text, origin="recipe.yaml", directory=folder)
    return surroundings(recipe, code=code)


def test_they_are_json_and_the_same_while_nothing_changes(folder):
    found = seen(folder)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(seen(folder)))


def test_a_changed_file_of_the_data_shows_also_at_its_old_size(folder):
    before = seen(folder)
    status = (folder / "data.npz").stat()
    os.utime(folder / "data.npz", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert seen(folder) != before


def test_the_store_decides_nothing_here(folder):
    before = seen(folder)
    for name in ("notes/1.json", "mlflow.db", "artifacts/0123/manifest.json"):
        (folder / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "store" / name).write_text("{}")
    assert seen(folder) == before


def test_the_users_code_and_weights_show(folder):
    code, weights = folder / "my.py", folder / "teacher.safetensors"
    for path in (code, weights):
        path.write_text("1")
    text = RECIPE.replace("train: {epochs: 1}", "weights: teacher.safetensors")
    text = text.replace("data: {", "data: {normalize: identity, ")
    before = seen(folder, text, (code,))
    assert before != seen(folder, text)
    for path in (code, weights):
        path.write_text("12")
        assert seen(folder, text, (code,)) != before
        path.write_text("1")


@pytest.mark.parametrize("source", ["hub: {path: nobody/nothing, text: text, label: label}", "file: {path: data.npz}"])
def test_samples_that_files_do_not_decide_are_not_told_without_looking(folder, source):
    assert seen(folder, RECIPE.replace("numpy: {archive: data.npz}", source)) is None


def test_a_folder_shows_every_file_in_it_and_a_link_back_does_not_hold_it_up(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("123")
    (tmp_path / "a" / "up").symlink_to(tmp_path / "a")
    found = list(stamps(tmp_path / "a"))
    assert [(name, size) for name, size, _ in found] == [(str(tmp_path / "a" / "b" / "file"), 3)]
    assert list(stamps(tmp_path / "nothing")) == []
    assert list(stamps(Path("x" * 5000))) == []
