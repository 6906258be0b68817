import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compress.benchmark.process import Worker, WorkerError


def load(worker: Worker, model: Path, inputs: Path, **changes) -> dict:
    return worker.load(**{"runtime": "ort-cpu", "model": model, "inputs": inputs} | changes)


def test_a_worker_loads_times_blocks_and_reports_memory_by_phase(small: Path, samples: Path):
    with Worker() as worker:
        loaded = load(worker, small, samples, batch_size=4)
        assert loaded.load_ms > 0
        assert loaded.first_run_ms > 0
        assert loaded.settings["providers"] == ["CPUExecutionProvider"]
        block = worker.block(block_ms=20)
        assert len(block.times_ns) > 1
        assert min(block.times_ns) > 0
        assert sum(block.times_ns) < block.elapsed_ns
        assert block.involuntary_switches is not None
        memory = worker.memory_bytes()
        assert list(memory) == ["import", "load", "first_run", "runs"]
        assert sorted(memory.values()) == list(memory.values())


def test_memory_is_the_workers_own_and_not_the_peak_of_its_parent(small: Path, samples: Path):
    parent_peak = np.ones(300 * 2**20, dtype=np.uint8)
    with Worker() as worker:
        load(worker, small, samples)
        assert max(worker.memory_bytes().values()) < parent_peak.nbytes


def test_a_block_has_at_least_one_call(small: Path, samples: Path):
    with Worker() as worker:
        load(worker, small, samples)
        assert len(worker.block(block_ms=0).times_ns) == 1


def test_a_file_that_is_no_model_gives_the_runtimes_own_reason(tmp_path: Path, samples: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with Worker() as worker, pytest.raises(WorkerError, match=r"exit code 1.*INVALID_PROTOBUF"):
        load(worker, broken, samples)


def test_samples_of_other_inputs_are_refused_by_name(tmp_path: Path, small: Path):
    np.savez(tmp_path / "wrong.npz", y=np.zeros((3, 16), np.float32))
    with Worker() as worker, pytest.raises(WorkerError, match=r"inputs are \['x'\].*'y'"):
        load(worker, small, tmp_path / "wrong.npz")


def test_a_hung_worker_is_ended_after_the_limit(small: Path, samples: Path):
    with Worker(reply_limit_s=0.5) as worker:
        load(worker, small, samples)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="no answer to 'block' within 1 s"):
            worker.block(block_ms=100)


def test_a_killed_worker_is_named_by_its_signal(small: Path, samples: Path):
    with Worker() as worker:
        load(worker, small, samples)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="killed by signal 9"):
            worker.block(block_ms=10)


def test_a_signal_to_the_terminals_group_does_not_reach_a_worker(small: Path, samples: Path):
    with Worker() as worker:
        load(worker, small, samples)
        assert os.getsid(worker.pid) == worker.pid


ORPHAN = """
import signal, sys
from pathlib import Path
from compress.benchmark.process import Worker

worker = Worker()
worker.load(runtime="ort-cpu", model=Path(sys.argv[1]), inputs=Path(sys.argv[2]))
print(worker.pid, flush=True)
signal.pause()
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
    deadline = time.monotonic() + 120
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
