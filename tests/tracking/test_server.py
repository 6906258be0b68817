"""`compressor ui`: whichever of its processes is killed, none is left, and Ctrl-C ends it in order."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE_S = 120


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Process numbers of all that a process started, and of what these started."""
    started = [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*started, *(found for child in started for found in children(child))]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("killed", "number", "code"),
    [
        ("command", signal.SIGKILL, -signal.SIGKILL),
        pytest.param("guard", signal.SIGKILL, 128 + signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("server", signal.SIGKILL, 128 + signal.SIGKILL, marks=pytest.mark.slow),
        ("command", signal.SIGINT, 0),
    ],
)
def test_nothing_of_the_server_is_left_whoever_is_killed(store, killed, number, code):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = subprocess.Popen(
        [sys.executable, "-m", "compress", "ui", "--store", str(store), "--port", str(port)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    wait_for(lambda: answers(port))
    guard, server, *others = children(command.pid)
    assert others, "the server has started nobody: then this test shows nothing"
    os.kill({"command": command.pid, "guard": guard, "server": server}[killed], number)
    assert command.wait(PATIENCE_S) == code
    wait_for(lambda: not any(map(is_there, (guard, server, *others))))
    assert not answers(port)
