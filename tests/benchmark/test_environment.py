"""What disturbed a measurement, counted by hand from the kernel's files; and that a disturbed one is called so."""

import sys
from pathlib import Path

import pytest

from compress.benchmark import environment
from compress.benchmark.compare import Preset, compare
from compress.benchmark.environment import Noise, NoiseProbe
from compress.benchmark.measure import Profile

QUIET = {"load_average": (9.0, 9.0), "foreign_cores": 0.1, "steal_share": 0.0, "throttled": 0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"foreign_cores": 0.3}, ["other processes kept 0.3 cores busy"]),
        ({"steal_share": 0.02}, ["the hypervisor took 2.0% of the time"]),
        ({"throttled": 3}, ["heat or the container's quota slowed the CPU 3 times"]),
        ({"foreign_cores": None, "steal_share": None, "throttled": None}, []),
        ({"foreign_cores": 2.0, "steal_share": 0.5}, ["other processes", "the hypervisor"]),
    ],
)
def test_every_disturbance_past_its_threshold_is_a_reason(changes: dict, words: list[str]):
    reasons = Noise(**(QUIET | changes)).reasons()
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))


def test_the_probe_counts_what_was_neither_idle_nor_ours(monkeypatch: pytest.MonkeyPatch):
    # user nice system idle iowait irq softirq steal: in between, 1000 ticks of two cores, 500 busy, 100 stolen.
    stats = ["cpu  100 0 0 900 0 0 0 0", "cpu  400 100 50 1250 50 25 25 100"]
    quotas = ["nr_periods 5\nnr_throttled 2\n", "nr_periods 9\nnr_throttled 6\n"]
    own_s = [1.0, 3.0]
    files = {"/proc/stat": iter(stats), "/sys/fs/cgroup/cpu.stat": iter(quotas)}
    monkeypatch.setattr(environment, "read", lambda path: next(files[path]) if path in files else None)
    monkeypatch.setattr(environment, "_own_cpu_s", lambda: own_s.pop(0))
    monkeypatch.setattr(environment.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(environment.os, "cpu_count", lambda: 2)
    noise = NoiseProbe().noise()
    # 10 s of two cores is 5 s; 5 s of work, 2 s of it ours.
    assert noise.foreign_cores == pytest.approx((5.0 - 2.0) / 5.0)
    assert noise.steal_share == pytest.approx(0.1)
    assert noise.throttled == 4


def test_a_system_without_counters_has_no_noise_rather_than_none_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "read", lambda path: None)
    noise = NoiseProbe().noise()
    assert (noise.foreign_cores, noise.steal_share) == (None, None)
    assert noise.reasons() == []


def test_a_disturbed_comparison_is_degraded(small: Path, samples: Path, monkeypatch: pytest.MonkeyPatch):
    class Disturbed(NoiseProbe):
        def noise(self) -> Noise:
            return Noise(**(QUIET | {"steal_share": 0.25}))

    monkeypatch.setattr(sys.modules[compare.__module__], "NoiseProbe", Disturbed)
    tiny = Preset(name="tiny", rounds=2, block_ms=1.0, warm_up_limit_ms=1.0)
    found = compare({"small": small}, reference="small", inputs=samples, profile=Profile(), preset=tiny)
    assert "the hypervisor took 25.0% of the time" in found.degraded
