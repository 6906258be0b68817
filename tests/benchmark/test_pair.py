import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from compress.benchmark import pair
from compress.benchmark.accuracy import accuracies, outputs
from compress.benchmark.compare import PRESETS, Preset
from compress.benchmark.given_samples import check_labels, doubt_chance
from compress.benchmark.measure import Profile
from compress.benchmark.process import Place
from compress.cli.main import app
from compress.errors import EnvironmentFault, InputError, ModelError
from compress.progress import Reporter
from compress.store.document import from_json

TINY = Preset(name="tiny", rounds=6, block_ms=5.0, warm_up_limit_ms=50.0, launches=2)
SHORT = Preset(name="short", rounds=2, block_ms=1.0, warm_up_limit_ms=1.0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "standard", TINY)
    monkeypatch.setitem(PRESETS, "short", SHORT)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    np.save(tmp_path / "labels.npy", np.arange(10))
    return tmp_path / "labels.npy"


def test_two_files_are_compared_from_the_command_line(deep: Path, small: Path, samples: Path, labels: Path):
    arguments = ["compare", str(deep), str(small), "--inputs", str(samples), "--labels", str(labels)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    found = from_json(pair.Pair, result.stdout, where=Path("stdout"))
    assert document["speedup"]["value"] > 1
    assert document["confidence"] == 0.99
    assert document["floor"] > 0
    assert document["verdict"] in ("faster", "no measurable difference")
    assert document["accuracy"]["A"]["samples"] == 10
    assert "10 samples are few" in document["accuracy"]["A"]["doubt"]
    shown = pair.text(found)
    assert shown.splitlines()[0] in ("B is faster than A", "no measurable difference")
    assert max(map(len, shown.splitlines())) <= 100
    shown = " ".join(shown.split())
    for words in (
        "99% interval over 2 launches of 3 rounds",
        "2 nodes on CPU",
        "McNemar p",
        "samples are few",
        "peak",
    ):
        assert words in shown
    assert str(small.parent) not in result.stdout


def test_its_lines_fit_100_columns_and_lose_no_word(small: Path, samples: Path, labels: Path, tmp_path: Path):
    long = tmp_path / f"{'a-long-name' * 12}.onnx"
    long.write_bytes(small.read_bytes())
    found = pair.compare_files(
        long, small, inputs=samples, labels=labels, profile=Profile("openvino"), preset="short", seed=0
    )
    found = replace(
        found,
        comparison=replace(found.comparison, degraded=["reason " * 30]),
        environment=replace(found.environment, cpu_model="Processor " * 20),
    )
    lines = pair.text(found).splitlines()
    assert max(map(len, lines)) <= 100
    told = "".join("".join(lines).split())
    for words in (long.name, "reason" * 30, "Processor" * 20, "KL", "off,100%ofdecisionsagree"):
        assert words in told


def test_a_bar_on_a_terminals_standard_error_tells_how_far_it_is(
    small: Path, samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    pair.compare_files(
        small, small, inputs=samples, labels=None, profile=Profile(), preset="short", seed=0, reporter=Reporter()
    )
    told = capsys.readouterr()
    assert told.out == ""
    assert "comparing, ort-cpu-b1-t1" in told.err
    assert "9/9" in told.err  # three processes start and run two blocks each


FAILING = """#!/bin/sh
echo >> {count}
if [ "$(wc -l < {count})" -eq {fails} ]; then echo "no room for this one" >&2; exit 1; fi
exec {python} "$@"
"""


def failing_python(directory: Path, *, fails: int) -> Path:
    """This interpreter, which fails to start the one time that is told, counted from 1."""
    path = directory / "environment" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(FAILING.format(count=directory / "count", fails=fails, python=sys.executable))
    path.chmod(0o755)
    return path


def test_without_the_second_copy_of_a_there_is_no_noise_floor_and_no_verdict(
    deep: Path, small: Path, samples: Path, tmp_path: Path
):
    # One process tries the runtime; then A, B and the copy start in the order that the seed gives.
    last = {random.Random(seed).sample(range(3), 3)[2]: seed for seed in range(20)}
    profile = Profile(place=Place(python=str(failing_python(tmp_path, fails=4))))
    found = pair.compare_files(deep, small, inputs=samples, labels=None, profile=profile, preset="short", seed=last[2])
    assert found.speedup is not None
    assert found.floor is None
    assert found.verdict == "no measurable difference"
    shown = pair.text(found)
    assert "noise floor        not measured" in shown
    why = "degraded: the noise floor could not be measured, so no difference counts: the worker ended (exit code 1)"
    assert f"{why}: no room for this one" in " ".join(shown.split())


def test_what_cannot_be_compared_is_refused(
    small: Path, large: Path, foreign: Path, samples: Path, labels: Path, tmp_path: Path
):
    def compared(second: Path, *, labels: Path | None = None, runtime: str = "ort-cpu", preset: str = "standard"):
        profile = Profile(runtime)
        pair.compare_files(small, second, inputs=samples, labels=labels, profile=profile, preset=preset, seed=0)

    with pytest.raises(ModelError, match=r"(?s)B could not be measured.*com.example"):
        compared(foreign)
    with pytest.raises(EnvironmentFault, match=r"(?s)ort-tensorrt does not work here.*next: +pip install"):
        compared(small, runtime="ort-tensorrt")
    with pytest.raises(InputError, match="no such file"):
        compared(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="labels are of samples"):
        pair.compare_files(small, small, inputs=None, labels=labels, profile=Profile(), preset="quick", seed=0)
    with pytest.raises(InputError, match="quick, standard, strict"):
        compared(small, preset="slow")
    with pytest.raises(InputError, match="not a file"):
        compared(small, runtime="torch-cpu")
    with pytest.raises(InputError, match="outputs .10, 64. and .10, 1024."):
        compared(large, labels=labels)
    np.save(labels, np.arange(55, 65))
    with pytest.raises(InputError, match=r"(?s)out of range.*0 to 63.*got: +64 \(1 such.*sample 9"):
        compared(small, labels=labels, preset="short")


def write_as(path: Path, content: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, allow_pickle=False, **content)
    elif content is not None:
        np.save(path, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, "cannot be read.*No such file"),
        ("labels.csv", b"0\n1\n", "no NumPy file.*numpy.loadtxt"),
        ("labels.npz", {"y": np.arange(10)}, "several arrays"),
        ("labels.npy", np.array(["cat"] * 10), "no class numbers.*number the names"),
        ("labels.npy", np.arange(10.0), "no class numbers.*float64"),
        ("labels.npy", np.arange(9), r"one label a sample, \[10\]"),
        ("labels.npy", np.eye(10, dtype=int), "one label a sample"),
    ],
)
def test_labels_that_are_none_are_refused_before_anything_is_measured(
    name, content, message, small, samples, tmp_path, monkeypatch
):
    monkeypatch.delattr(pair, "compare")
    path = write_as(tmp_path / name, content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        pair.compare_files(small, small, inputs=samples, labels=path, profile=Profile(), preset="short", seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npz", None, "cannot be read.*No such file"),
        ("samples.csv", b"0,1\n", "no NumPy file"),
        ("samples.npz", b"PK but no archive", "cannot be read"),
        ("samples.npy", np.zeros((10, 16), np.float32), "a single array"),
        ("samples.npz", {"y": np.zeros((10, 16), np.float32)}, r"not named as the model's inputs.*\['x'\].*\['y'\]"),
        ("samples.npz", {"x": np.array([["a"] * 16] * 10)}, "no numbers.*<U1"),
        ("samples.npz", {"x": np.zeros((0, 16), np.float32)}, "1 or more.*'x': 0"),
    ],
)
def test_samples_that_are_none_are_refused_before_anything_is_measured(
    name, content, message, small, tmp_path, monkeypatch
):
    monkeypatch.delattr(pair, "compare")
    path = write_as(tmp_path / name, content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        pair.compare_files(small, small, inputs=path, labels=None, profile=Profile(), preset="short", seed=0)


def test_labels_counted_from_1_are_refused_or_doubted():
    with pytest.raises(InputError, match=r"(?s)out of range.*got: +3.*counted from 1: subtract 1"):
        check_labels(np.array([1, 2, 3]), outputs=3, where=Path("labels.npy"))
    labels = np.arange(500) % 9
    logits = {"A": np.eye(10)[labels], "B": np.eye(10)[labels[::-1]]}
    wrong = doubt_chance(accuracies(logits, labels + 1, reference="A", seed=0), logits, labels + 1)
    assert wrong["A"].doubt.startswith(
        "no file is surely right more often than chance, 1 in 10; likely: labels are counted"
    )
    assert wrong["A"].doubt.endswith("from 1, as A is right on 100% of them less 1")
    other = doubt_chance(accuracies(logits, (labels + 4) % 9, reference="A", seed=0), logits, (labels + 4) % 9)
    assert "order of other classes" in other["A"].doubt
    right = doubt_chance(accuracies(logits, labels, reference="A", seed=0), logits, labels)
    assert right["B"].doubt == ""


def test_without_samples_they_are_drawn_from_the_signature(deep: Path, small: Path):
    result = CliRunner().invoke(app, ["compare", str(deep), str(small)])
    assert result.exit_code == 0, result.output
    assert "inputs: drawn from A's signature" in result.stdout
    again = CliRunner().invoke(app, ["compare", str(small), str(small), "--json"])
    document = json.loads(again.stdout)
    assert document["inputs"] == "drawn"
    assert document["comparison"]["measurements"]["B"]["num_calls"] > 0


def test_exit_codes_tell_a_refused_file_from_a_runtime_that_is_missing(small: Path, tmp_path: Path):
    def ended(*arguments: str | Path) -> tuple[int, str]:
        words = [sys.executable, "-m", "compress", "compare", *map(str, arguments)]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        return found.returncode, found.stderr

    code, told = ended(small, tmp_path / "none.onnx")
    assert (code, told.splitlines()[0]) == (3, "error: there is no such file")
    code, told = ended(small, small, "--runtime", "ort-tensorrt")
    assert (code, told.splitlines()[0]) == (5, "error: ort-tensorrt does not work here")


def test_every_sample_has_its_output_once(small: Path, samples: Path):
    whole = outputs(small, samples, profile=Profile(batch_size=10))
    parts = outputs(small, samples, profile=Profile(batch_size=4))
    assert parts.shape == (10, 64)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_accuracies_are_paired_with_the_reference():
    labels = np.arange(500) % 3
    good, worse = np.eye(3)[labels], np.eye(3)[labels]
    worse[:25] = np.eye(3)[(labels[:25] + 1) % 3]
    found = accuracies({"a": good, "b": worse}, labels, reference="a", seed=0)
    assert found["a"].accuracy.value == 1
    assert found["a"].change is None
    assert found["b"].change.value == pytest.approx(-0.05)
    assert found["b"].mcnemar_p == pytest.approx(2 * 0.5**25)
    assert found["b"].agreement.value == pytest.approx(0.95)
    assert found["b"].doubt == ""
