import errno
import hashlib
import json
from pathlib import Path

import pytest

from compress.errors import ArtifactError, EnvironmentFault
from compress.export.manifest import NEEDED, Bounds, Content, Manifest
from compress.pipeline.run_directory import Asked, decide_execution, place_bundle, seconds_by_digest, settle_execution
from compress.store.disk import writable, write_atomically


def test_the_execution_is_decided_once_and_noted_once(tmp_path):
    run_dir = tmp_path / "run"
    first = settle_execution(run_dir, Asked(threads=3), say=print)
    noted = (run_dir / "execution.json").stat()
    assert settle_execution(run_dir, Asked(), say=print) == first
    assert (run_dir / "execution.json").stat().st_ino == noted.st_ino
    assert settle_execution(run_dir, Asked(threads=2), say=print).threads == 2
    assert decide_execution(run_dir, Asked(), say=print).threads == 2
    assert [path.name for path in run_dir.iterdir()] == ["execution.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"threads": 2}', '{"threads": "2", "precision": "float32"}'])
def test_a_damaged_execution_is_told_with_what_to_do(tmp_path, text):
    (tmp_path / "execution.json").write_text(text)
    with pytest.raises(ArtifactError, match="delete it"):
        settle_execution(tmp_path, Asked(), say=print)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "damaged"),
        ('{"stages": [', "damaged"),
        ('{"schema": 2, "stages": []}', "damaged"),
        ('{"schema": 1}', "another version"),
    ],
)
def test_a_report_that_is_not_read_costs_the_times_it_held_and_nothing_else(tmp_path, text, why):
    said = []
    assert seconds_by_digest(tmp_path, say=said.append) == {}
    assert said == []
    whole = (Path(__file__).parents[1] / "digits_report.json").read_text()
    for run, made in (("bad", text), ("whole", whole)):
        (tmp_path / run).mkdir()
        (tmp_path / run / "report.json").write_text(made)
    stages = json.loads(whole)["stages"]
    assert seconds_by_digest(tmp_path, say=said.append) == {stage["digest"]: stage["made_s"] for stage in stages}
    (line,) = said
    assert str(tmp_path / "bad") in line
    assert why in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_is_a_fault_of_the_environment(tmp_path, number):
    with pytest.raises(EnvironmentFault, match="free disk space"), writable(tmp_path):
        raise OSError(number, "no")
    with pytest.raises(FileNotFoundError), writable(tmp_path):
        (tmp_path / "none").read_text()


INPUT = {"name": "x", "dtype": "float32", "shape": ["batch", 1]}


def test_a_bundle_is_replaced_whole(tmp_path, monkeypatch):
    stored, run_dir = tmp_path / "stored", tmp_path / "run"
    stored.mkdir()
    run_dir.mkdir()
    for name in ("manifest.json", "fp32.onnx"):
        (stored / name).write_text("first")
    Manifest(
        format_version=1,
        primary="fp32.onnx",
        variants={"fp32": Bounds("fp32.onnx", 1e-4, 0.98)},
        lineage={},
        signature={"inputs": [INPUT], "outputs": [INPUT]},
        files=dict.fromkeys(("fp32.onnx", *NEEDED), Content("0" * 64, 5)),
    ).write(stored)
    placed = place_bundle(stored, run_dir, manifest=Manifest.read(stored), card="# A card")
    assert {path.name for path in placed.iterdir()} == {"fp32.onnx", "bundle.json", "README.md"}
    assert Manifest.read(placed).files["README.md"] == Content(hashlib.sha256(b"# A card").hexdigest(), 8)
    (stored / "fp32.onnx").write_text("second")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(EnvironmentFault), writable(run_dir):
            place_bundle(stored, run_dir, manifest=Manifest.read(stored), card="")
    assert (run_dir / "bundle" / "fp32.onnx").read_text() == "first"
    place_bundle(stored, run_dir, manifest=Manifest.read(stored), card="")
    assert (run_dir / "bundle" / "fp32.onnx").read_text() == "second"
    assert [path.name for path in run_dir.iterdir()] == ["bundle"]


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "first\n")
    write_atomically(path, "äöü\n")
    assert path.read_text(encoding="utf-8") == "äöü\n"

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentFault, match="free disk space"):
        write_atomically(path, "third\n")
    assert path.read_text(encoding="utf-8") == "äöü\n"
    assert list(tmp_path.iterdir()) == [path]
