"""How call times become numbers, from a worker whose times are written down beforehand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from compress.benchmark.measure import Measurement, Profile, Subject, WarmUp


class Scripted:
    """A worker that answers blocks from a script: the milliseconds of each call, block by block."""

    def __init__(self, blocks_ms: Sequence[Sequence[float]]) -> None:
        self.left = [*blocks_ms]

    def load(self, **_: object) -> dict[str, Any]:
        memory = {"import": 1, "load": 2, "first_run": 3}
        return {"load_ms": 1.0, "first_run_ms": 1.0, "settings": {"pinned_cpus": [0]}, "memory_bytes": memory}

    def block(self, **_: object) -> dict[str, Any]:
        times_ns = [round(1e6 * time) for time in self.left.pop(0)]
        return {"times_ns": times_ns, "elapsed_ns": sum(times_ns), "involuntary_switches": 0, "energy_uj": 5_000}

    def memory_bytes(self) -> dict[str, int]:
        return {"import": 1, "load": 2, "first_run": 3, "runs": 4}


def measured(
    model: Path,
    warm_up_ms: Sequence[Sequence[float]],
    blocks_ms: Sequence[Sequence[float]],
    *,
    limit_ms: float = 1_000.0,
    profile: Profile = Profile(),
) -> Measurement:
    """Measure a scripted model in one launch; every block of the script must be asked for, and none besides."""
    subject, worker = Subject(model, profile), Scripted([*warm_up_ms, *blocks_ms])
    subject.launch(worker, inputs=model, first_core=0, strict=False)  # pyright: ignore[reportArgumentType]
    subject.warm_up(block_ms=10, limit_ms=limit_ms)
    assert len(worker.left) == len(blocks_ms)
    for _ in range(len(blocks_ms) // (2 if profile.on_device else 1)):
        subject.run_block(block_ms=10)
    subject.end()
    assert not worker.left
    return subject.measurement()


def test_a_warm_up_ends_when_three_blocks_agree_within_5_percent(small: Path):
    medians_ms = [100, 60, 40, 21, 20, 21]  # 40, 21, 20 do not agree
    found = measured(small, [[time, time, 9 * time] for time in medians_ms], [[1.0]], limit_ms=1e6)
    assert found.warm_up == WarmUp(blocks=6, stable=True)
    assert found.degraded == []


@pytest.mark.parametrize(("medians_ms", "stable"), [([20, 20, 21], True), ([20, 20, 21.1], False)])
def test_the_bound_of_a_stable_warm_up(medians_ms: list[float], stable: bool, small: Path):
    found = measured(small, [[time] for time in medians_ms], [[1.0]], limit_ms=0)
    assert found.warm_up == WarmUp(blocks=3, stable=stable)


def test_a_warm_up_that_stays_unstable_ends_at_its_limit_and_says_so(small: Path):
    found = measured(small, [[10], [20], [10], [20], [10], [20], [10]], [[1.0]], limit_ms=100)
    assert found.warm_up == WarmUp(blocks=7, stable=False)  # 90 ms after six, 100 ms after seven
    assert found.degraded == ["the warm-up did not become stable"]


def test_the_energy_of_the_cpu_is_no_devices(small: Path):
    calls_ms = [[1.0] * 10] * 2
    assert measured(small, [[1]] * 3, calls_ms).energy_mj_per_sample == pytest.approx(2 * 5 / 20)
    on_device = measured(small, [[1]] * 3, calls_ms, profile=Profile("ort-cuda"))
    assert on_device.compute_ms == 1
    assert on_device.energy_mj_per_sample is None


def test_a_launch_that_was_not_warm_makes_the_model_not_warm(small: Path):
    subject = Subject(small, Profile())
    for warm_up_ms in ([[1], [1], [1]], [[1], [2], [3]], [[1], [1], [1]]):
        worker = Scripted([*warm_up_ms, [1.0]])
        subject.launch(worker, inputs=small, first_core=0, strict=False)  # pyright: ignore[reportArgumentType]
        subject.warm_up(block_ms=1, limit_ms=6)
        subject.run_block(block_ms=1)
        subject.end()
    assert subject.measurement().warm_up == WarmUp(blocks=9, stable=False)
