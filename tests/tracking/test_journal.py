from pathlib import Path

import pytest

from compress.errors import ArtifactError, EnvironmentFault, LockedError
from compress.tracking.journal import Journal, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "deep" / "events.ndjson")
    for number in range(3):
        journal.append({"number": number, "text": 'ü "}\n'}, sync=number == 2)
    journal.close()
    return journal.path


def numbers(path: Path) -> list[int]:
    return [event["number"] for event, _ in read(path)]


def test_events_come_back_in_order_and_from_any_line(path: Path):
    assert numbers(path) == [0, 1, 2]
    _, end = next(read(path))
    assert [event["number"] for event, _ in read(path, start=end)] == [1, 2]
    assert [end for _, end in read(path)][-1] == path.stat().st_size


def test_a_torn_last_line_is_left_out_at_every_length_and_dropped_on_opening(path: Path):
    whole = path.read_bytes()
    second = len(whole.splitlines(keepends=True)[0]) * 2
    for length in range(second, len(whole)):
        path.write_bytes(whole[:length])
        assert numbers(path) == [0, 1]
    Journal(path).close()
    assert path.stat().st_size == second


def test_appending_goes_on_after_a_torn_line(path: Path):
    path.write_bytes(path.read_bytes()[:-5])
    journal = Journal(path)
    journal.append({"number": 9})
    journal.close()
    assert numbers(path) == [0, 1, 9]


def test_an_edited_line_is_refused_with_its_place(path: Path):
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7'))
    with pytest.raises(ArtifactError, match="byte"):
        numbers(path)
    with pytest.raises(ArtifactError):
        Journal(path)


def test_a_journal_has_one_writer(path: Path):
    journal = Journal(path)
    with pytest.raises(LockedError):
        Journal(path)
    journal.close()
    Journal(path).close()


def test_nan_is_refused_before_it_is_written(path: Path):
    journal = Journal(path)
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"number": float("nan")})
    journal.close()
    assert numbers(path) == [0, 1, 2]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Journal(tmp_path / "file" / "events.ndjson")
