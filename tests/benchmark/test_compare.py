import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress.benchmark import report
from compress.benchmark.compare import QUICK, Comparison, Difference, Preset, _difference, _doubts, compare
from compress.benchmark.measure import Measurement, Profile, WarmUp, default_profiles
from compress.benchmark.process import Place, Worker
from compress.benchmark.runtimes.machine import cores
from compress.errors import InputError, ModelError
from compress.measures.intervals import Estimate

TINY = Preset(name="tiny", rounds=6, block_ms=5.0, warm_up_limit_ms=50.0)
TWICE = replace(TINY, launches=2)


def test_models_are_measured_in_the_same_rounds_against_one_reference(large: Path, small: Path, samples: Path):
    found = compare(
        {"large": large, "small": small}, reference="large", inputs=samples, profile=Profile(), preset=TINY, seed=3
    )
    assert not found.failures
    assert set(found.measurements) == {"large", "small"}
    measured = found.measurements["small"]
    assert len(measured.block_median_ms) == TINY.rounds
    assert measured.size_bytes == small.stat().st_size
    assert 0 < measured.throughput_per_s < 2e3 / min(measured.block_median_ms)
    assert measured.settings["spinning"] is False
    speedup = found.speedup("small", over="large")
    assert speedup.low <= speedup.value <= speedup.high
    assert speedup.value > 1  # the interval is as wide as others who use the machine make it
    assert found.noise_floor is not None


def test_ratios_between_any_two_models_are_consistent(large: Path, small: Path, samples: Path):
    found = compare({"a": large, "b": small}, reference="a", inputs=samples, profile=Profile(), preset=TINY)
    forth, back = found.speedup("b", over="a"), found.speedup("a", over="b")
    assert math.log(forth.value) == pytest.approx(-math.log(back.value))
    logs = np.log(found.measurements["a"].block_median_ms) - np.log(found.measurements["b"].block_median_ms)
    assert forth.value == pytest.approx(math.exp(np.median(logs)))


def test_a_latency_is_that_of_the_median_block(large: Path, small: Path, samples: Path):
    found = compare({"large": large, "small": small}, reference="large", inputs=samples, profile=Profile(), preset=TINY)
    medians_ms = np.array(found.measurements["small"].block_median_ms)
    took = found.latency_ms("small")
    assert took.value == pytest.approx(math.sqrt(np.prod(np.sort(medians_ms)[2:4])))  # of six, in logarithms
    rounding = 1e-12 * medians_ms.max()  # of the logarithm and back
    assert medians_ms.min() - rounding <= took.low <= took.value <= took.high <= medians_ms.max() + rounding


def test_a_model_that_fails_gets_its_reason_and_the_others_go_on(tmp_path: Path, small: Path, samples: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    found = compare({"good": small, "bad": broken}, reference="good", inputs=samples, profile=Profile(), preset=TINY)
    assert set(found.measurements) == {"good"}
    assert "INVALID_PROTOBUF" in found.failures["bad"]


def test_without_its_reference_a_comparison_still_has_latencies(tmp_path: Path, small: Path, samples: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    found = compare({"good": small, "bad": broken}, reference="bad", inputs=samples, profile=Profile(), preset=TINY)
    assert found.noise_floor is None
    assert set(found.failures) == {"bad"}
    assert found.measurements["good"].median_ms > 0


def test_a_percentile_appears_only_with_enough_calls(small: Path, samples: Path):
    few = Preset(name="few", rounds=2, block_ms=0.0, warm_up_limit_ms=0.0)
    found = compare({"m": small}, reference="m", inputs=samples, profile=Profile(), preset=few)
    assert found.measurements["m"].num_calls == 2
    assert found.measurements["m"].percentile_ms == {}


def test_an_unknown_reference_a_missing_file_and_an_unknown_runtime_are_refused(small: Path, samples: Path):
    with pytest.raises(InputError, match="reference"):
        compare({"m": small}, reference="n", inputs=samples, profile=Profile(), preset=TINY)
    with pytest.raises(InputError, match="nothing to measure"):
        compare({"m": small.with_name("none")}, reference="m", inputs=samples, profile=Profile(), preset=TINY)
    with pytest.raises(InputError, match="ort-cpu, ort-cuda"):
        Profile(runtime="ort-gpu")


def test_the_default_profiles_start_with_the_primary_one():
    assert default_profiles()[0].name == "ort-cpu-b1-t1"
    assert default_profiles()[-1].name == "torch-cpu-b1-t1"
    assert len({profile.name for profile in default_profiles()}) == len(default_profiles())


def test_torch_runs_an_artifact_directory(tmp_path: Path):
    import torch

    from compress.models import Mlp, save_model
    from compress.tasks.signature import Signature, Tensor

    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", 1, 4, 4)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 3)),),
    )
    torch.manual_seed(0)
    for name, width in (("wide", 2048), ("narrow", 16)):
        (tmp_path / name).mkdir()
        family = Mlp(widths=(width, width))
        save_model(family.build(signature, code=()), tmp_path / name, model=family, signature=signature)
    np.savez(tmp_path / "samples.npz", x=np.ones((4, 1, 4, 4), np.float32))
    found = compare(
        {"wide": tmp_path / "wide", "narrow": tmp_path / "narrow"},
        reference="wide",
        inputs=tmp_path / "samples.npz",
        profile=Profile(runtime="torch-cpu"),
        preset=TINY,
    )
    assert not found.failures
    assert found.measurements["wide"].sha256 is None
    assert found.speedup("narrow", over="wide").value > 1


def test_every_launch_starts_anew_and_its_rounds_are_kept(large: Path, small: Path, samples: Path):
    preset = Preset(name="launched", rounds=6, block_ms=2.0, warm_up_limit_ms=10.0, launches=3)
    found = compare({"a": large, "b": small}, reference="a", inputs=samples, profile=Profile(), preset=preset)
    measured = found.measurements["b"]
    assert len(measured.block_median_ms) == 6
    assert measured.warm_up.blocks >= 9
    assert 9 * 3 * 2.0 < 1e3 * found.model_s < 1e3 * found.wall_s  # three workers a launch, blocks of 2 ms
    assert found.speedup("b", over="a").low < found.speedup("b", over="a").value < found.speedup("b", over="a").high
    assert measured.initializer_bytes == {"float32": 4 * (16 * 64 + 64 * 64)}
    with pytest.raises(ValueError, match="split evenly"):
        Preset(name="odd", rounds=5, block_ms=1.0, warm_up_limit_ms=1.0, launches=2)


def test_a_model_slower_than_a_block_leaves_rounds_in_the_same_time(small: Path, samples: Path):
    preset = Preset(name="p", rounds=160, block_ms=40.0, warm_up_limit_ms=1.0, launches=8, least_rounds=40)
    rounds = {block_ms: preset.fit(block_ms).rounds for block_ms in (1.0, 41.5, 80.0, 159.0, 5_000.0)}
    assert rounds == {1.0: 160, 41.5: 160, 80.0: 96, 159.0: 48, 5_000.0: 40}
    assert QUICK.fit(5_000.0) == QUICK
    waiting = Preset(name="waiting", rounds=60, block_ms=5.0, warm_up_limit_ms=1.0, launches=2, least_rounds=4)
    rare = Profile(scenario="server", arrivals_per_s=20.0)  # a block waits for a query, 50 ms in the mean
    found = compare({"m": small}, reference="m", inputs=samples, profile=rare, preset=waiting)
    assert 4 <= found.preset.rounds == len(found.measurements["m"].block_median_ms) < 40


def judged(ratio: Estimate, floor: Estimate | None, *, adapter: str = "hardware", preset: Preset = TWICE) -> Comparison:
    """A comparison of two models whose rounds give this ratio, whatever the machine does."""
    rounds = {"a": [1.0] * 4, "b": [1 / ratio.value] * 4}
    found = {
        name: Measurement(
            size_bytes=1, sha256=None, load_ms=1, first_run_ms=1, num_calls=4, median_ms=1, percentile_ms={},
            throughput_per_s=1, memory_bytes={}, block_median_ms=times, warm_up=WarmUp(3, stable=True),
            involuntary_switches=0, settings={"adapter": adapter},
        )
        for name, times in rounds.items()
    }  # fmt: skip
    return Comparison(Profile(), preset, "a", 0, found, {}, floor, None, [])


@pytest.mark.parametrize(
    ("ratio", "floor", "verdict"),
    [
        (1.05, Estimate(1.0, 0.99, 1.01), "faster"),
        (0.95, Estimate(1.0, 0.99, 1.01), "slower"),
        (1.005, Estimate(1.0, 0.99, 1.01), "no measurable difference"),
        (1.05, Estimate(1.0, 0.94, 1.07), "no measurable difference"),
        (1.05, Estimate(1.06, 1.055, 1.065), "no measurable difference"),  # the twins are further apart than that
        (1.05, None, "no measurable difference"),
        (1.0, Estimate(1.0, 1.0, 1.0), "no measurable difference"),
    ],
)
def test_a_difference_counts_when_it_exceeds_the_noise_floor(ratio: float, floor: Estimate | None, verdict: str):
    assert judged(Estimate(ratio, ratio, ratio), floor).verdict("b", over="a") == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(1.09, "no measurable difference"), (1.11, "faster"), (0.9, "slower")])
def test_one_launch_says_nothing_of_less_than_a_tenth(ratio: float, verdict: str):
    found = judged(Estimate(ratio, ratio, ratio), Estimate(1.0, 0.999, 1.001), preset=QUICK)
    assert found.verdict("b", over="a") == verdict


def test_an_interval_that_covers_1_is_no_difference_whatever_its_middle():
    found = judged(Estimate(1.5, 1.5, 1.5), Estimate(1.0, 0.99, 1.01))
    assert not found.is_measurable(Estimate(1.5, 0.99, 2.2))
    assert found.is_measurable(Estimate(1.5, 1.01, 2.2))


def test_a_software_adapter_is_never_ranked():
    found = judged(Estimate(2.0, 2.0, 2.0), Estimate(1.0, 0.99, 1.01), adapter="software")
    assert found.verdict("b", over="a") == "not ranked"


def test_a_nan_output_and_a_missing_operator_fail_their_own_row(small: Path, nan: Path, foreign: Path, samples: Path):
    models = {"good": small, "nan": nan, "foreign": foreign}
    found = compare(models, reference="good", inputs=samples, profile=Profile(), preset=TINY)
    assert set(found.measurements) == {"good"}
    assert "not finite" in found.failures["nan"]
    assert "Wish" in found.failures["foreign"]


def test_other_runtimes_are_compared_with_the_cpu_provider(small: Path, samples: Path):
    found = compare({"m": small}, reference="m", inputs=samples, profile=Profile("openvino", batch_size=4), preset=TINY)
    assert found.against_cpu["m"].max_abs < 1e-5
    assert found.against_cpu["m"].agreement == 1
    assert found.measurements["m"].e2e_ms is None
    assert not any("off the CPU's" in reason for reason in found.measurements["m"].degraded)


def test_outputs_that_disagree_with_the_cpu_degrade_their_row(small: Path, wider: Path, samples: Path, tmp_path: Path):
    """What runs is the model; its file is replaced while it does, and the CPU reads the other one."""
    path = tmp_path / "model.onnx"
    path.write_bytes(small.read_bytes())
    with Worker() as worker:
        worker.load(runtime="ort-cpu", model=path, inputs=samples)
        same = _difference(path, worker, inputs=samples, profile=Profile())
        assert (same.max_abs, same.max_relative, same.agreement, same.disagrees) == (0, 0, 1, False)
        proto = onnx.load(small)
        weight = numpy_helper.to_array(proto.graph.initializer[-1])
        proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array((weight + weight[:, ::-1]) / 2, "w1"))
        onnx.save_model(proto, path)
        apart = _difference(path, worker, inputs=samples, profile=Profile())
        path.write_bytes(wider.read_bytes())
        with pytest.raises(ModelError, match=r"another shape than on the CPU"):
            _difference(path, worker, inputs=samples, profile=Profile())
    x, first, last = np.load(samples)["x"], *map(numpy_helper.to_array, onnx.load(small).graph.initializer)
    ours = x @ first @ last
    changed = (ours + ours[:, ::-1]) / 2
    assert apart.max_abs == pytest.approx(np.abs(ours - changed).max(), rel=1e-4)
    assert apart.max_relative == pytest.approx(apart.max_abs / np.abs(changed).max(), rel=1e-4)
    assert apart.agreement == (ours.argmax(-1) == changed.argmax(-1)).mean()
    (doubt,) = _doubts("m", {"m": apart}, {})
    assert re.fullmatch(
        r"its outputs are up to \d+% of the largest off the CPU's, and \d+% of the decisions agree", doubt
    )
    assert _doubts("m", {}, {"m": "no such operator"}) == ["not compared with the CPU: no such operator"]
    assert _doubts("m", {"m": same}, {}) == _doubts("m", {}, {}) == []


@pytest.mark.parametrize(
    ("max_relative", "agreement", "disagrees"), [(0.05, 0.95, False), (0.051, 1.0, True), (0.0, 0.949, True)]
)
def test_the_bound_on_outputs(max_relative: float, agreement: float, disagrees: bool):
    assert Difference(1.0, agreement, max_relative).disagrees == disagrees


def test_scenarios_are_named_and_wrong_ones_refused():
    assert Profile(scenario="multistream", batch_size=2).name == "ort-cpu-b2-t1-multistream"
    assert Profile(scenario="multistream", batch_size=2).calls_per_query == 4
    assert Profile(scenario="server", arrivals_per_s=20).name == "ort-cpu-b1-t1-server20"
    assert Profile(place=Place(launcher=("ssh", "edge-box"))).name == "ort-cpu-b1-t1@edge-box"
    assert Profile(place=Place(python="/opt/gpu/bin/python")).name == "ort-cpu-b1-t1@gpu"
    for wrong in (
        {"scenario": "server"},
        {"arrivals_per_s": 5.0},
        {"scenario": "server", "arrivals_per_s": 0.0},
        {"scenario": "multistream", "batch_size": 3},
        {"scenario": "single"},
        {"runtime": "torch-cpu", "place": Place(launcher=("ssh", "edge-box"))},
    ):
        with pytest.raises(InputError):
            Profile(**wrong)


def test_more_threads_than_cores_are_not_pinned_and_say_so(small: Path, samples: Path):
    profile = Profile(threads=1 + len(cores()))
    found = compare({"m": small}, reference="m", inputs=samples, profile=profile, preset=TINY).measurements["m"]
    assert found.settings["pinned_cpus"] is None
    assert f"not pinned to {profile.threads} cores of its own: there are fewer, or the system cannot pin" in (
        found.degraded
    )


def test_too_many_queries_for_a_server_degrade_it(large: Path, samples: Path):
    profile = Profile(scenario="server", arrivals_per_s=1e6)
    found = compare({"m": large}, reference="m", inputs=samples, profile=profile, preset=TINY)
    assert any("overloaded" in reason for reason in found.measurements["m"].degraded)


def test_a_comparison_spans_interpreters(small: Path, samples: Path, other_python: Path):
    place = Place(python=str(other_python), launcher=("env", "-i"))
    found = compare({"m": small}, reference="m", inputs=samples, profile=Profile(place=place), preset=TINY)
    assert not found.failures
    assert found.noise is None
    here = compare({"m": small}, reference="m", inputs=samples, profile=Profile(), preset=TINY)
    document = report.build([report.Entry("m", small)], [here, found], reference="m", seed=0, title="two interpreters")
    assert document.profiles == (here.profile.name, found.profile.name)
    assert document.profiles[0] != document.profiles[1]
    assert set(document.rows[0].latency_ms) == set(document.profiles)
    assert document.comparisons[1].profile.place.python == str(other_python)


def test_the_other_interpreter_has_no_package_but_two(other_python: Path):
    for package in ("torch", "onnx", "compress", "mlflow"):
        found = subprocess.run([other_python, "-c", f"import {package}"], capture_output=True, text=True, check=False)
        assert f"the worker imported {package}" in found.stderr
