"""A user's own Python files: named, run once while unchanged, known by content."""

import hashlib
from pathlib import Path

import pytest

from compress.config.user_code import import_user_file, is_own, origin, run_user_file, user_function
from compress.config.user_modules import with_modules
from compress.errors import InputError

BASE = "class Base:\n    pass\n"


def test_a_file_is_run_once_while_it_is_unchanged(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Mine: pass\n")
    first, again = (import_user_file(path, code=[path]) for _ in range(2))
    assert first is again
    assert run_user_file(path, code=[path]) is not run_user_file(path, code=[path])
    path.write_text("class Mine: size = 2\n")
    assert import_user_file(path, code=[path]).Mine.size == 2


def test_a_file_of_the_same_content_elsewhere_is_another_module(tmp_path):
    places = [tmp_path / name / "mine.py" for name in ("one", "two")]
    for path in places:
        path.parent.mkdir()
        path.write_text("class Mine: pass\n")
    found = [origin(import_user_file(path, code=places).Mine) for path in places]
    assert [where.file for where in found] == places
    assert found[0].sha256 == found[1].sha256 == hashlib.sha256(b"class Mine: pass\n").hexdigest()


def test_the_content_of_base_classes_in_other_files_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    base, path = tmp_path / "own_base_for_test.py", tmp_path / "mine.py"
    path.write_text("from own_base_for_test import Base\n\nclass Mine(Base): pass\n")
    base.write_text(BASE)
    found = origin(import_user_file(path, code=[path]).Mine)
    own = hashlib.sha256((path.read_text() + BASE).encode()).hexdigest()
    assert found.sha256 == with_modules(own, {"own_base_for_test": base})


def test_the_content_is_that_of_the_time_when_it_was_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def mine(): pass\n")
    function = import_user_file(path, code=[path]).mine
    before = origin(function)
    path.write_text("def mine(): return 2\n")
    assert origin(function) == before
    assert str(before) == f"mine {before.sha256}"


@pytest.mark.parametrize(("thing", "own"), [(InputError, False), (origin, False), (Path, True)])
def test_ours_are_told_from_the_users(thing, own):
    assert is_own(thing) is own


def test_a_name_that_is_not_there_is_told_with_the_nearest(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def build(): pass\n\ndef other(): pass\n")
    with pytest.raises(InputError, match=r"(?s)no 'biuld'.*build.*other.*did you mean 'build'"):
        user_function(import_user_file(path, code=[path]), "biuld", path=path)
