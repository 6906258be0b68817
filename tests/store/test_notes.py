import json

import pytest

from compress.store.made_by import made_by
from compress.store.notes import Notes


def test_a_value_is_found_while_what_it_was_made_from_is_the_same(tmp_path):
    notes = Notes(tmp_path / "store")
    assert notes.find("plan", of=[1, "a"]) is None
    notes.keep("plan", {"steps": [1.5, None]}, of=[1, "a"])
    assert Notes(tmp_path / "store").find("plan", of=[1, "a"]) == {"steps": [1.5, None]}
    assert notes.find("plan", of=[2, "a"]) is None
    assert notes.find("other", of=[1, "a"]) is None


def test_a_new_value_takes_the_place_of_the_old_one(tmp_path):
    notes = Notes(tmp_path)
    for state in (1, 2):
        notes.keep("plan", state, of=state)
    assert notes.find("plan", of=1) is None
    assert notes.find("plan", of=2) == 2
    assert len(list((tmp_path / "notes").iterdir())) == 1


@pytest.mark.parametrize("damaged", ["", "{", "[]", json.dumps({"value": 1})])
def test_a_damaged_note_is_none(tmp_path, damaged):
    notes = Notes(tmp_path)
    notes.keep("plan", 1, of=0)
    (path,) = (tmp_path / "notes").iterdir()
    path.write_text(damaged)
    assert notes.find("plan", of=0) is None


def test_a_note_with_a_flipped_bit_is_none(tmp_path):
    notes = Notes(tmp_path)
    notes.keep("plan", "abcd", of=0)
    (path,) = (tmp_path / "notes").iterdir()
    path.write_text(path.read_text().replace("abcd", "abcf"))
    assert notes.find("plan", of=0) is None


@pytest.mark.parametrize("change", [{"source": "other"}, {"libraries": {"onnxscript": "0"}}, {"python": "2.7"}])
def test_what_another_source_or_library_found_counts_no_more(tmp_path, monkeypatch, change):
    notes = Notes(tmp_path)
    notes.keep("plan", 1, of=0)
    assert notes.find("plan", of=0) == 1
    monkeypatch.setattr("compress.store.notes.made_by", lambda: made_by() | change)
    assert notes.find("plan", of=0) is None
    notes.keep("plan", 2, of=0)
    assert notes.find("plan", of=0) == 2


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("no directory")
    notes = Notes(tmp_path / "file" / "store")
    notes.keep("plan", 1, of=0)
    assert notes.find("plan", of=0) is None
