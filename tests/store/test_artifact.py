"""What is found in a store is what was committed: whatever else lies there is set aside, said, and made anew."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from spoil import spoil_one

from compress.errors import ArtifactError
from compress.store.artifact import read_artifact
from compress.store.digest import hash_values
from compress.store.manifest import Manifest, NewerFormatError
from compress.store.store import Store


def write_two(directory: Path) -> dict:
    (directory / "a.txt").write_text("alpha")
    (directory / "sub").mkdir()
    (directory / "sub" / "b.bin").write_bytes(b"\0" * 100)
    return {"answer": 42}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, said) -> Store:
    return Store.open(tmp_path / "store", say=said.append)


def truncate(path: Path) -> None:
    (path / "a.txt").write_text("al")


def change(path: Path) -> None:
    (path / "a.txt").write_text("alphb")


def change_and_hide_the_time(path: Path) -> None:
    before = (path / "a.txt").stat()
    change(path)
    os.utime(path / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


def add(path: Path) -> None:
    (path / "tokenizer.json").write_text("{}")


def remove(path: Path) -> None:
    (path / "sub" / "b.bin").unlink()


def link(path: Path) -> None:
    (path / "a.txt").rename(path.parent / "elsewhere")
    (path / "a.txt").symlink_to(path.parent / "elsewhere")


def type_a_number(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"answer": 42', '"answer": 43'))


def claim_other_files(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../a.txt"] = manifest["files"].pop("a.txt")
    (path / "manifest.json").write_text(json.dumps(manifest))


def remove_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def empty_the_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[" * 100_000)


def be_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


DAMAGE = [
    truncate, change, change_and_hide_the_time, add, remove, link, type_a_number, claim_other_files,
    remove_the_manifest, empty_the_manifest, be_a_file,
]  # fmt: skip


@pytest.mark.parametrize("spoil", DAMAGE)
def test_what_is_damaged_is_set_aside_said_and_made_anew(store, said, spoil):
    made = store.commit({"x": 1}, kind="model", write=write_two)
    assert store.find(made.key) == made
    spoil(made.path)
    with pytest.raises(ArtifactError):
        store.look(made.key)
    assert os.path.lexists(made.path)  # looking moves nothing
    assert store.find(made.key) is None
    assert not os.path.lexists(made.path)
    (aside,) = (store.root / "damaged").iterdir()
    assert len(said) == 1
    assert all(word in said[0] for word in ("set aside", made.key[:16], str(aside)))
    assert "\n" not in said[0]
    assert store.commit({"x": 1}, kind="model", write=write_two) == made
    assert store.find(made.key, verify=True) == made


@pytest.mark.parametrize("spoil", [remove_the_manifest, be_a_file])
def test_a_commit_moves_what_blocks_its_place(store, said, spoil):
    """Also where it came to lie there after the commit looked."""
    made = store.commit({"x": 1}, kind="model", write=write_two)
    shutil.rmtree(made.path)

    def write(directory: Path) -> dict:
        shutil.copytree(directory.parent, made.path, dirs_exist_ok=True)
        spoil_if_there = made.path / "manifest.json"
        spoil_if_there.write_text("{}")
        spoil(made.path)
        (made.path.is_dir() and (made.path / "left").write_text(""))
        return write_two(directory)

    assert store.commit({"x": 1}, kind="model", write=write) == made
    assert store.find(made.key, verify=True) == made
    assert len(said) == 1


def test_two_artifacts_that_changed_places_are_both_set_aside(store, said):
    one, two = (store.commit({"x": x}, kind="scores", write=write_two) for x in (1, 2))
    one.path.rename(store.root / "between")
    two.path.rename(one.path)
    (store.root / "between").rename(two.path)
    assert [store.find(made.key) for made in (one, two)] == [None, None]
    assert all("another key" in line for line in said)


def test_content_is_read_once_while_nothing_changes(store, monkeypatch):
    made = store.commit({"x": 1}, kind="model", write=write_two)
    hashed: list[Path] = []
    monkeypatch.setattr("compress.store.artifact.hash_file", lambda path: hashed.append(path) or "")
    assert Store(store.root).find(made.key) == made
    assert hashed == []
    os.utime(made.path / "a.txt")
    assert Store(store.root).find(made.key) is None
    assert hashed == [made.path / "a.txt"]


def as_format_1(path: Path) -> None:
    """Write a manifest as it was written before there was a checksum."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"], manifest["rounding"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))


def test_artifacts_of_the_first_format_are_read_and_verified_but_scores_are_made_anew(store, said):
    model = store.commit({"x": 1}, kind="model", write=write_two)
    scores = store.commit({"x": 2}, kind="scores", write=write_two)
    as_format_1(model.path)
    as_format_1(scores.path)
    assert store.find(model.key) == model
    assert store.find(scores.key) is None
    assert "scores of an earlier version" in said[0]
    change(model.path)
    assert store.find(model.key) is None


def test_how_something_was_rounded_is_found_with_it_and_decides_nothing(store):
    made = store.commit({"x": 1}, kind="model", write=write_two, rounding={"threads": 3})
    assert store.find(made.key).rounding == {"threads": 3}
    assert store.commit({"x": 1}, kind="model", write=write_two, rounding={"threads": 4}) == made


def test_newer_format_is_refused_and_stays(store):
    made = store.commit({"x": 1}, kind="model", write=write_two)
    manifest = json.loads((made.path / "manifest.json").read_text())
    del manifest["checksum"]
    manifest |= {"format": 99, "something": "new"}
    (made.path / "manifest.json").write_text(json.dumps(manifest | {"checksum": hash_values(manifest)}))
    for read in (lambda: store.find(made.key), lambda: read_artifact(made.path, verify=False)):
        with pytest.raises(NewerFormatError, match="^the artifact was written by a newer compress"):
            read()
    assert made.path.exists()


def test_a_manifest_without_a_checksum_is_none_of_this_format(store):
    made = store.commit({"x": 1}, kind="model", write=write_two)
    manifest = json.loads((made.path / "manifest.json").read_text())
    del manifest["checksum"]
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="checksum"):
        Manifest.read(made.path)


CHAIN = 4


def run_chain(store: Store) -> list[float]:
    """A tiny pipeline: each step reads the one before, and is scored; what it returns was read from the store."""
    numbers, source = [], None
    for step in range(CHAIN):
        kind = ("model", "outputs", "step", "bundle")[step]
        before = np.zeros(8, np.float32) if source is None else np.load(source.path / "values.npy")
        inputs = {"step": step, "source": None if source is None else source.digest}

        def write(directory: Path, values=before + step + 1) -> dict:
            np.save(directory / "values.npy", values)
            return {"largest": float(values.max())}

        source = store.commit(inputs, kind=kind, write=write)
        values = np.load(source.path / "values.npy")

        def judge(directory: Path, values=values) -> dict:
            (directory / "logits.bin").write_bytes(values.tobytes())
            return {"accuracy": float(values.mean()) / 100}

        scores = store.commit({"scored": source.digest}, kind="scores", write=judge)
        numbers += [scores.facts["accuracy"], source.facts["largest"]]
        numbers += np.frombuffer((scores.path / "logits.bin").read_bytes(), np.float32).tolist()
    return numbers


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_a_store_no_result_changes_and_nothing_is_raised(store, said, seed):
    draw = random.Random(seed)
    expected = run_chain(store)
    for number in range(50):
        for _ in range(draw.randint(1, 3)):
            spoil_one(store.root, draw)
        assert run_chain(Store.open(store.root, say=said.append)) == expected, number
        shutil.rmtree(store.root / "damaged", ignore_errors=True)
    assert len(said) > 20
