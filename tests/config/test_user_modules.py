"""What a user's file imports: found without running it, part of its content, imported anew where it changed."""

import hashlib
import sys
from pathlib import Path

import pytest

from compress.config.user_code import call_user, import_user_file, run_user_file
from compress.config.user_modules import content_of, folders_of, is_users, user_modules
from compress.errors import InputError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / (name.replace("__", "/").replace("INIT", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Names of modules and folders to import from are a test's own."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_that_imports_nothing_of_the_users_is_known_by_its_bytes(tmp_path):
    text = "import json, torch\nfrom compress import Stage\nimport no_such_module\n"
    write(tmp_path, mine=text)
    assert user_modules(tmp_path / "mine.py") == {}
    assert content_of(tmp_path / "mine.py") == hashlib.sha256(text.encode()).hexdigest()


def test_all_modules_of_the_users_are_found_and_what_they_import(tmp_path):
    write(
        tmp_path,
        mine="import first\nfrom pack.models import build\n\n\ndef late():\n    from lazy import x\n",
        first="import second\n",
        second="import first, mine\n",
        lazy="",
        pack__INIT="",
        pack__models="from . import blocks\nfrom .deep.inner import x\nfrom .names import Thing\n",
        pack__blocks="from ..pack import names\n",
        pack__names="",
        pack__deep__inner="from ..unused import z\n",
        pack__unused="",
        other="",
    )
    found = user_modules(tmp_path / "mine.py")
    names = {"pack", *(f"pack.{name}" for name in ("models", "blocks", "names", "deep.inner", "unused"))}
    assert set(found) == {"first", "second", "lazy", *names}
    assert found["pack.deep.inner"] == tmp_path / "pack" / "deep" / "inner.py"


def test_the_content_is_the_same_elsewhere_and_another_after_any_edit(tmp_path):
    for place in ("one", "two"):
        write(tmp_path / place, mine="from blocks import x\n", blocks="import inner\nx = 1\n", inner="")
    paths = [tmp_path / place / "mine.py" for place in ("one", "two")]
    before = content_of(paths[0])
    assert before == content_of(paths[1])
    write(tmp_path / "two", inner="y = 2\n")
    assert content_of(paths[1]) != before


def test_folders_are_looked_into_and_what_is_installed_is_not_the_users(tmp_path, monkeypatch):
    write(tmp_path, mine="import helper, library\n")
    write(tmp_path / "src", helper="")
    write(tmp_path / "site-packages", library="")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert user_modules(tmp_path / "mine.py") == {}
    assert set(user_modules(tmp_path / "mine.py", folders=[tmp_path / "src"])) == {"helper"}
    assert is_users(tmp_path / "mine.py")
    assert not is_users(tmp_path / "site-packages" / "library.py")
    assert not is_users(hashlib.__file__)
    assert not is_users(pytest.__file__)


def test_modules_beside_a_file_and_in_a_named_folder_are_imported(tmp_path):
    write(
        tmp_path,
        mine="from blocks import x\nfrom helper import y\n\n\ndef late():\n    import lazy\n    return lazy.z\n",
    )
    write(tmp_path, blocks="x = 1\n", lazy="z = 3\n")
    write(tmp_path / "src", helper="y = 2\n")
    module = run_user_file(tmp_path / "mine.py", code=[tmp_path / "mine.py", tmp_path / "src"])
    assert (module.x, module.y, module.late()) == (1, 2, 3)
    assert folders_of([tmp_path / "mine.py", tmp_path / "src"]) == (tmp_path / "src",)


def test_every_file_in_a_named_folder_may_be_run(tmp_path):
    write(tmp_path / "src", deep__mine="x = 1\n")
    write(tmp_path, other="x = 1\n")
    assert run_user_file(tmp_path / "src" / "deep" / "mine.py", code=[tmp_path / "src"]).x == 1
    with pytest.raises(InputError, match="a recipe alone never runs"):
        run_user_file(tmp_path / "other.py", code=[tmp_path / "src"])


@pytest.mark.parametrize("run", [run_user_file, import_user_file])
def test_an_edited_module_is_imported_anew_with_what_imports_it(tmp_path, run):
    write(tmp_path, mine="from middle import x\n", middle="from inner import x\n", inner="x = 1\n")
    assert run(tmp_path / "mine.py", code=[tmp_path / "mine.py"]).x == 1
    write(tmp_path, inner="x = 1 + 1\n")
    assert run(tmp_path / "mine.py", code=[tmp_path / "mine.py"]).x == 2


def test_modules_of_one_name_beside_two_files_are_not_mixed_up(tmp_path):
    for number, place in enumerate(("teacher", "student")):
        write(tmp_path / place, mine="from blocks import x\n", blocks=f"x = {number}\n")
    code = [tmp_path / place / "mine.py" for place in ("teacher", "student")]
    assert [run_user_file(path, code=code).x for path in (*code, code[0])] == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nx = (\n", "blocks.py:2"),
        ("import json\nraise KeyError('x')\n", "blocks.py:2"),
        ("class Odd(Exception): pass\nraise Odd('x')\n", "blocks.py:2"),
        ("import sys\nsys.exit(2)\n", "blocks.py:2"),
        ("import json\njson.loads('{')\n", "blocks.py:2"),
        ("import no_such_module\n", "blocks.py:1"),
    ],
)
def test_whatever_a_module_raises_is_refused_with_the_users_own_line(tmp_path, text, told):
    write(tmp_path, mine="\nimport blocks\n", blocks=text)
    with pytest.raises(InputError, match="your code fails") as caught:
        run_user_file(tmp_path / "mine.py", code=[tmp_path / "mine.py"])
    assert f"where:    {tmp_path / told}" in str(caught.value)


def test_so_is_what_a_function_raises(tmp_path):
    write(tmp_path, mine="def build(x):\n    return x / 0\n")
    path = tmp_path / "mine.py"
    with pytest.raises(InputError, match="ZeroDivisionError") as caught:
        call_user(run_user_file(path, code=[path]).build, 1, path=path)
    assert f"{path}:2" in str(caught.value)
