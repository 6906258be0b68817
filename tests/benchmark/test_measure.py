"""How call times become numbers, from a worker whose times are written down beforehand."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import pytest

from compress.benchmark import report, tables
from compress.benchmark.compare import Comparison, Preset, compare
from compress.benchmark.measure import Measurement, Profile, Subject, WarmUp
from compress.benchmark.report import Entry
from compress.benchmark.runtimes.interface import Block, Started

PROFILE = Profile()
PRESET = Preset(name="tiny", rounds=4, block_ms=1, warm_up_limit_ms=1)


class Scripted:
    """A worker that answers blocks from a script: the milliseconds of each call, block by block."""

    def __init__(self, blocks_ms: Sequence[Sequence[float]]) -> None:
        self.left = [*blocks_ms]

    def load(self, **_: object) -> Started:
        memory = {"import": 1, "load": 2, "first_run": 3}
        return Started(1.0, 1.0, settings={"pinned_cpus": [0]}, memory_bytes=memory)

    def block(self, **_: object) -> Block:
        times_ns = [round(1e6 * time) for time in self.left.pop(0)]
        return Block(times_ns, sum(times_ns), involuntary_switches=0, energy_uj=5_000)

    def memory_bytes(self) -> dict[str, int]:
        return {"import": 1, "load": 2, "first_run": 3, "runs": 4}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Sequence[float]]], None]:
    """Let every worker of a comparison answer each block with the calls, in ms, of its model's name."""

    def install(calls_ms: dict[str, Sequence[float]]) -> None:
        class Fake(Scripted):
            def __init__(self, place: object, **_: object) -> None:
                super().__init__([])

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def load(self, *, model: Path, **_: object) -> Started:  # pyright: ignore[reportIncompatibleMethodOverride]
                self.left = [calls_ms[model.stem]] * 1_000
                return super().load()

        monkeypatch.setattr(sys.modules[compare.__module__], "Worker", Fake)

    return install


def compared(directory: Path, model: Path, *, profile: Profile, preset: Preset = PRESET) -> Comparison:
    """Compare the scripts a and b, whose files are copies of a model."""
    paths = {name: directory / f"{name}.onnx" for name in ("a", "b")}
    for path in paths.values():
        path.write_bytes(model.read_bytes())
    return compare(paths, reference="a", inputs=model, profile=profile, preset=preset)


def measured(
    model: Path,
    warm_up_ms: Sequence[Sequence[float]],
    blocks_ms: Sequence[Sequence[float]],
    *,
    limit_ms: float = 1_000.0,
    profile: Profile = PROFILE,
) -> Measurement:
    """Measure a scripted model in one launch; every block of the script must be asked for, and none besides."""
    subject, worker = Subject(model, profile, inputs=model), Scripted([*warm_up_ms, *blocks_ms])
    subject.launch(worker, first_core=0, strict=False)  # pyright: ignore[reportArgumentType]
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


def test_offline_is_ranked_by_throughput(scripted, small: Path, tmp_path: Path):
    """a answers most calls in 1 ms and some in 9: the better median, and fewer samples a second."""
    scripted({"a": [1.0, 1.0, 1.0, 9.0], "b": [2.0, 2.0, 2.0, 2.0]})
    found = compared(tmp_path, small, profile=Profile(batch_size=4, scenario="offline"))
    assert found.ranked_by == "throughput"
    assert found.measurements["a"].throughput_per_s == pytest.approx(4 / 3e-3)
    assert found.measurements["b"].throughput_per_s == pytest.approx(4 / 2e-3)
    assert found.speedup("b", over="a").value == pytest.approx(1.5)
    assert found.verdict("b", over="a") == "faster"
    single = compared(tmp_path, small, profile=Profile(batch_size=4))
    assert single.ranked_by == "median latency"
    assert single.speedup("b", over="a").value == pytest.approx(0.5)
    assert single.verdict("b", over="a") == "slower"
    entries = [Entry(name, tmp_path / f"{name}.onnx") for name in ("a", "b")]
    text = tables.markdown(report.build(entries, [found, single], reference="a", seed=0, title="a test"))
    assert "| p50 ms (speedup) | ort-cpu-b4-t1-offline (samples/s) | ort-cpu-b4-t1 |" in text
    assert "| b | 2,000/s (1.50x) | 2 (0.50x) |" in text


@pytest.mark.parametrize(
    ("queries", "launches", "ranked_by", "ratio"),
    [(331, 2, "p99 latency", 4.0), (330, 2, "median latency", 0.5), (331, 1, "median latency", 0.5)],
)
def test_a_server_is_ranked_by_its_p99_where_the_queries_support_it(
    queries: int, launches: int, ranked_by: str, ratio: float, scripted, small: Path, tmp_path: Path
):
    """Two rounds make half a launch, with 662 queries or 660; 3% of them are slow."""
    scripted({"a": [80.0] * 10 + [1.0] * (queries - 10), "b": [20.0] * 10 + [2.0] * (queries - 10)})
    preset = Preset(name="halves", rounds=4 * launches, block_ms=1, warm_up_limit_ms=1, launches=launches)
    found = compared(tmp_path, small, profile=Profile(scenario="server", arrivals_per_s=1.0), preset=preset)
    assert found.ranked_by == ranked_by
    assert found.speedup("b", over="a").value == pytest.approx(ratio)
    entries = [Entry(name, tmp_path / f"{name}.onnx") for name in ("a", "b")]
    document = report.build(entries, [found], reference="a", seed=0, title="a test")
    assert tables.profile_heads(document) == [f"ort-cpu-b1-t1-server1 (ranked by {ranked_by})"]
    shown = tables.time_cell(document.rows[1], document, "ort-cpu-b1-t1-server1")
    assert shown == ("p99 20" if ranked_by == "p99 latency" else "2")


def test_the_energy_of_the_cpu_is_no_devices(small: Path):
    calls_ms = [[1.0] * 10] * 2
    assert measured(small, [[1]] * 3, calls_ms).energy_mj_per_sample == pytest.approx(2 * 5 / 20)
    on_device = measured(small, [[1]] * 3, calls_ms, profile=Profile("ort-cuda"))
    assert on_device.compute_ms == 1
    assert on_device.energy_mj_per_sample is None


def test_a_launch_that_was_not_warm_makes_the_model_not_warm(small: Path):
    subject = Subject(small, Profile(), inputs=small)
    for warm_up_ms in ([[1], [1], [1]], [[1], [2], [3]], [[1], [1], [1]]):
        worker = Scripted([*warm_up_ms, [1.0]])
        subject.launch(worker, first_core=0, strict=False)  # pyright: ignore[reportArgumentType]
        subject.warm_up(block_ms=1, limit_ms=6)
        subject.run_block(block_ms=1)
        subject.end()
    assert subject.measurement().warm_up == WarmUp(blocks=9, stable=False)
