import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compress.benchmark.process import Worker, WorkerError


def start(model: Path, inputs: Path, **changes) -> Worker:
    return Worker(**{"runtime": "ort-cpu", "model": model, "inputs": inputs, "batch_size": 1, "threads": 1} | changes)


def test_a_worker_loads_times_blocks_and_reports_memory_by_phase(small: Path, samples: Path):
    with start(small, samples, batch_size=4) as worker:
        loaded = worker.load()
        assert loaded["load_ms"] > 0
        assert loaded["first_run_ms"] > 0
        assert loaded["settings"]["providers"] == ["CPUExecutionProvider"]
        times_ns, switches = worker.block(block_ms=20)
        assert len(times_ns) > 1
        assert min(times_ns) > 0
        assert switches is not None
        memory = worker.memory_bytes()
        assert list(memory) == ["import", "load", "first_run", "runs"]
        assert sorted(memory.values()) == list(memory.values())


def test_memory_is_the_workers_own_and_not_the_peak_of_its_parent(small: Path, samples: Path):
    parent_peak = np.ones(300 * 2**20, dtype=np.uint8)
    with start(small, samples) as worker:
        worker.load()
        assert max(worker.memory_bytes().values()) < parent_peak.nbytes


def test_a_block_has_at_least_one_call(small: Path, samples: Path):
    with start(small, samples) as worker:
        worker.load()
        assert len(worker.block(block_ms=0)[0]) == 1


def test_a_file_that_is_no_model_gives_the_runtimes_own_reason(tmp_path: Path, samples: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with start(broken, samples) as worker, pytest.raises(WorkerError, match=r"exit code 1.*INVALID_PROTOBUF"):
        worker.load()


def test_samples_of_other_inputs_are_refused_by_name(tmp_path: Path, small: Path):
    np.savez(tmp_path / "wrong.npz", y=np.zeros((3, 16), np.float32))
    with start(small, tmp_path / "wrong.npz") as worker, pytest.raises(WorkerError, match=r"inputs are \['x'\].*'y'"):
        worker.load()


def test_a_hung_worker_is_ended_after_the_limit(small: Path, samples: Path):
    with start(small, samples, reply_limit_s=0.5) as worker:
        worker.load()
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="no answer to 'block' within 1 s"):
            worker.block(block_ms=100)


def test_a_killed_worker_is_named_by_its_signal(small: Path, samples: Path):
    with start(small, samples) as worker:
        worker.load()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="killed by signal 9"):
            worker.block(block_ms=10)


def test_a_signal_to_the_terminals_group_does_not_reach_a_worker(small: Path, samples: Path):
    with start(small, samples) as worker:
        worker.load()
        assert os.getsid(worker.pid) == worker.pid


ORPHAN = """
import sys, time
from pathlib import Path
from compress.benchmark.process import Worker

worker = Worker(runtime="ort-cpu", model=Path(sys.argv[1]), inputs=Path(sys.argv[2]), batch_size=1, threads=1)
worker.load()
print(worker.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_ends_when_its_parent_is_killed(small: Path, samples: Path):
    command = [sys.executable, "-c", ORPHAN, str(small), str(samples)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
