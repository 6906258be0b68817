import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.benchmark.compare import Preset, compare
from compress.benchmark.measure import Profile, default_profiles
from compress.errors import InputError

TINY = Preset(name="tiny", rounds=6, block_ms=5.0, warm_up_limit_ms=50.0)


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
    assert speedup.low > 1
    assert found.is_measurable(speedup)
    assert found.noise_floor is not None


def test_ratios_between_any_two_models_are_consistent(large: Path, small: Path, samples: Path):
    found = compare({"a": large, "b": small}, reference="a", inputs=samples, profile=Profile(), preset=TINY)
    forth, back = found.speedup("b", over="a"), found.speedup("a", over="b")
    assert math.log(forth.value) == pytest.approx(-math.log(back.value))
    logs = np.log(found.measurements["a"].block_median_ms) - np.log(found.measurements["b"].block_median_ms)
    assert forth.value == pytest.approx(math.exp(logs.mean()))


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
    with pytest.raises(InputError, match="ort-cpu, torch-cpu"):
        Profile(runtime="ort-gpu")


def test_the_default_profiles_start_with_the_primary_one():
    assert default_profiles()[0].name == "ort-cpu-b1-t1"
    assert default_profiles()[-1].name == "torch-cpu-b1-t1"
    assert len({profile.name for profile in default_profiles()}) == len(default_profiles())


def test_the_worker_runs_without_the_package(tmp_path: Path, small: Path, samples: Path, monkeypatch):
    from compress.benchmark import process

    alone = Path(shutil.copy(process.worker.__file__, tmp_path / "worker.py"))
    monkeypatch.setattr(process, "_WORKER_FILE", alone)
    monkeypatch.chdir(tmp_path)
    found = compare({"m": small}, reference="m", inputs=samples, profile=Profile(batch_size=3), preset=TINY)
    assert not found.failures


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
    assert found.speedup("narrow", over="wide").low > 1
