import subprocess
import sys
from pathlib import Path

import pytest

from compress.errors import EnvironmentFault, UsageError
from compress.pipeline.run_directory import Asked, decide_execution, settle_execution
from compress.stage import Execution
from compress.stage.device import best_device, check_device


def run_on_the_pretend_device(name: str) -> None:
    file = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout  # no tests at all would be 5


def test_training_on_a_pretend_device():
    run_on_the_pretend_device("on_device.py")


@pytest.mark.slow
def test_every_task_and_preset_on_a_pretend_device():
    run_on_the_pretend_device("on_device_tasks.py")


def test_a_device_that_is_not_there_is_refused_by_name():
    with pytest.raises(EnvironmentFault, match=r"(?s)no such device.*cuda:9"):
        check_device("cuda:9")
    with pytest.raises(EnvironmentFault, match="no such device"):
        check_device("abacus")
    assert check_device("cpu") == "cpu"
    assert check_device(best_device()) == best_device()


def test_a_noted_device_that_is_not_here_leaves_keys_and_note_as_they_are(tmp_path):
    note = '{"threads": 1, "precision": "bfloat16", "device": "cuda:77"}'
    (tmp_path / "execution.json").write_text(note)
    said = []
    execution = settle_execution(tmp_path, Asked(), say=said.append)
    assert execution == Execution(1, "bfloat16", best_device())
    assert (tmp_path / "execution.json").read_text() == note
    assert "cuda:77" in said[0]
    with pytest.raises(EnvironmentFault, match="no such device"):
        settle_execution(tmp_path, Asked(device="cuda:77"), say=said.append)


def test_what_is_asked_for_overrides_what_an_earlier_run_noted(tmp_path):
    (tmp_path / "execution.json").write_text('{"threads": 3, "precision": "bfloat16"}')
    assert decide_execution(tmp_path, Asked(), say=print) == Execution(3, "bfloat16", "cpu")
    asked = Asked(precision="float32", threads=1)
    assert decide_execution(tmp_path, asked, say=print) == Execution(1, "float32", "cpu")
    with pytest.raises(UsageError, match="tf32"):
        decide_execution(tmp_path, Asked(precision="tf32"), say=print)
