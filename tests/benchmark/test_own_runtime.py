"""A runtime of the user's own: a class in a file that only the process that measures runs."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compress.benchmark.compare import PRESETS, Preset
from compress.benchmark.measure import Profile
from compress.benchmark.own import OwnRuntime
from compress.benchmark.pair import compare_files
from compress.benchmark.process import Place, Worker, check_usable
from compress.benchmark.runtimes.interface import Usability
from compress.errors import EnvironmentFault, InputError
from compress.recipe.sections import Benchmark, ProfileChoice

RUNTIME = """
from dataclasses import dataclass
from pathlib import Path

from onnxruntime import InferenceSession


@dataclass
class Session:
    load: object

    def __post_init__(self):
        self.session = InferenceSession(self.load.model, providers=["CPUExecutionProvider"])
        self.settings = {"threads": self.load.threads}

    def feed(self, batch):
        return batch

    def run(self, feed):
        return self.session.run(None, feed)

    def outputs(self, result):
        wrong = Path(__file__).stem == "twice" and result[0].ndim > 1
        return [2 * array for array in result] if wrong else result


class Broken(Session):
    def run(self, feed):
        raise RuntimeError("no such kernel")


instance = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_runtime.py"
    path.write_text(RUNTIME)
    return path


def test_it_runs_what_ours_run(file, small, samples):
    batch = {"x": np.ones((2, 16), np.float32)}
    found = []
    for runtime in ("ort-cpu", f"{file}:Session"):
        with Worker() as worker:
            loaded = worker.load(runtime=runtime, model=small, inputs=samples, threads=2, code=[file])
            found.append(worker.outputs(batch)[0])
            assert worker.block(block_ms=1).times_ns
    np.testing.assert_array_equal(*found)
    assert loaded.settings["threads"] == 2
    assert len(loaded.settings["own_runtime_sha256"]) == 64


def test_a_file_that_is_not_named_is_not_run(file, small, samples):
    marker = file.with_name("ran")
    file.write_text(RUNTIME + f"\nopen({str(marker)!r}, 'w').close()\n")
    with Worker() as worker:
        with pytest.raises(InputError, match="a recipe alone never runs"):
            worker.load(runtime=f"{file}:Session", model=small, inputs=samples)
        with pytest.raises(InputError, match="a recipe alone never runs"):
            worker.usable(f"{file}:Session", code=[small])
        assert not marker.exists()
        assert worker.usable(f"{file}:Session", code=[file]) == Usability(usable=True)
    assert marker.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("Broken", "no such kernel"), ("Absent", "defines no class 'Absent'"), ("instance", "no class 'instance'")],
)
def test_one_that_does_not_work_is_told(file, name, words):
    with pytest.raises(EnvironmentFault, match=words):
        check_usable(f"{file}:{name}", code=[file])


def test_a_file_that_fails_is_told(file):
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(EnvironmentFault, match="nothing_of_that_name"):
        check_usable(f"{file}:Session", code=[file])


def test_it_needs_nothing_of_ours_where_it_runs(file, small, samples, other_python):
    other = Place(str(other_python))
    with Worker(other) as worker:
        worker.load(runtime=f"{file}:Session", model=small, inputs=samples, code=[file])


def test_its_outputs_are_compared_with_those_of_the_cpu(file, small, wider, samples, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", Preset(name="quick", rounds=2, block_ms=1, warm_up_limit_ms=10))
    twice = file.rename(file.with_name("twice.py"))
    profile = Profile(f"{twice}:Session")
    found = compare_files(
        small, wider, inputs=samples, labels=None, profile=profile, preset="quick", seed=0, code=[twice]
    )
    assert found.profile == "Session-b1-t1"
    assert [apart.max_relative for apart in found.comparison.against_cpu.values()] == [1.0, 1.0]


def test_a_profile_names_file_and_class(file, tmp_path):
    choice = ProfileChoice.model_validate({"runtime": {"file": "my_runtime.py", "class": "Session"}, "batch_size": 4})
    assert choice.profile.runtime == "my_runtime.py:Session"
    assert (choice.profile.name, choice.profile.takes_files, choice.profile.on_device) == ("Session-b4-t1", True, False)
    assert Benchmark(profiles=(choice,)).smoke().profiles == (choice,)
    for wrong in ({"file": "my_runtime", "class": "Session"}, {"file": "my_runtime.py", "class": "Se-ssion"}):
        with pytest.raises(ValidationError):
            ProfileChoice.model_validate({"runtime": wrong})
    with pytest.raises(ValidationError, match="unknown runtime"):
        ProfileChoice.model_validate({"runtime": f"{file}:Session"})
    with pytest.raises(InputError, match="unknown runtime"):
        Profile("Session")


def test_stored_recipes_know_it_by_content(file):
    found = OwnRuntime.model_validate({"file": file, "class": "Session"})
    before = found.model_dump(mode="json")
    moved = OwnRuntime.model_validate({"file": file.rename(file.with_name("moved.py")), "class": "Session"})
    assert moved.model_dump(mode="json") == before
    moved.file.write_text(RUNTIME + "# edited\n")
    assert moved.model_dump(mode="json") != before
