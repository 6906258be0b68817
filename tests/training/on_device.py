"""Training and teacher passes on a device that is not the CPU: the pretend one of mirror_device.py.

`test_device.py` runs this file in a process of its own: a device has to be there before torch's first backward pass.
"""

from collections.abc import Callable
from dataclasses import replace

import mirror_device
import numpy as np
import pytest
import text_zoo
import torch
from safetensors.torch import load_file
from torch import nn

import compress
from compress.advice import measures
from compress.data import Data
from compress.errors import EnvironmentFault, StageError
from compress.loss import GuidedLoss
from compress.models import Cnn, HuggingFace, Mlp, load_model
from compress.progress import Reporter
from compress.stage import Compute, Execution, Stage
from compress.stage.device import device_of
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.stages.train import Train
from compress.store.store import Store
from compress.training.inference import predict
from compress.training.numerics import placed

mirror_device.install()
DEVICES = {name: Execution(1, "float32", name) for name in ("cpu", "mirror:0")}
STUDENT = Cnn(widths=(8, 16), strides=(1, 2))
FEATURES = GuidedLoss(preset="fitnets")
STEPS = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}


@pytest.fixture
def few(digits: Data) -> Data:
    return replace(digits, roles={role: samples.take(np.arange(64)) for role, samples in digits.roles.items()})


@pytest.fixture
def settings(make_context: Callable, few: Data, trained_digits, tmp_path) -> list:
    """The same setting on the CPU and on the pretend device, each with a store of its own."""
    return [
        make_context(data=few, teacher=trained_digits, execution=execution, store=Store.open(tmp_path / name[:3]))
        for name, execution in DEVICES.items()
    ]


def weights(artifact) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in load_model(artifact.path).state_dict().values()])


@pytest.mark.parametrize(
    "stage",
    [
        Train(**STEPS),
        Distill(accumulate=2, **STEPS),
        Distill(generations=2, **STEPS),
        Distill(loss=FEATURES, **STEPS),
        Distill(loss=FEATURES, cache_limit_gb=0, **STEPS),
        Distill(loss=GuidedLoss(preset="dkd"), **STEPS),
        Distill(loss=GuidedLoss(preset="dist"), **STEPS),
        Distill(loss=GuidedLoss(preset="attention-transfer"), **STEPS),
        Distill(loss=GuidedLoss(preset="function-matching"), **STEPS),
        Prune(kept_macs_fraction=0.6, importance_batches=2, importance_batch_size=16),
    ],
    ids=[
        "train",
        "accumulated",
        "generations",
        "features",
        "live features",
        "dkd",
        "dist",
        "attention",
        "mixed views",
        "prune",
    ],
)
def test_a_stage_makes_what_it_makes_on_the_cpu(stage: Stage, settings):
    source = Create(model=STUDENT).run(None, *settings[0])
    on_cpu, on_device = (stage.run(source, *setting) for setting in settings)
    assert on_cpu.key == on_device.key  # where it was made is no reason to make it again
    assert torch.allclose(weights(on_cpu), weights(on_device), atol=1e-5)
    if not isinstance(stage, Prune):
        assert not torch.allclose(weights(on_cpu), weights(source), atol=1e-5)


@pytest.mark.parametrize("loss", ["distilbert", "minilm", "tinybert"])
def test_a_text_encoder_learns_and_is_cut_as_on_the_cpu(loss, settings, tmp_path):
    torch.manual_seed(0)
    data = text_zoo.review_data(count=200)
    folder = text_zoo.make_bert(tmp_path / "teacher", num_hidden_layers=4, initializer_range=0.1)
    narrow = text_zoo.make_bert(tmp_path / "student", hidden_size=16)
    contexts = [replace(setting, task=text_zoo.text_task(folder, data), data=data) for setting in settings]
    made = [Create(model=HuggingFace(path=str(path))).run(None, *contexts[0]) for path in (folder, narrow)]
    on_cpu, on_device = (
        Distill(loss=GuidedLoss(preset=loss), epochs=2, batch_size=16, learning_rate=0.01).run(
            made[1], *replace(context, teacher=made[0])
        )
        for context in contexts
    )
    assert torch.allclose(weights(on_cpu), weights(on_device), atol=1e-4)
    cut = Prune(kept_params_fraction=0.9, importance_batches=2, importance_batch_size=8)
    on_cpu, on_device = (cut.run(made[0], *replace(context, teacher=made[0])) for context in contexts)
    assert torch.equal(weights(on_cpu), weights(on_device))


def test_training_that_was_stopped_on_a_device_goes_on_there_and_on_the_cpu(settings):
    cpu, device = settings
    source = Create(model=STUDENT).run(None, *cpu)
    stage = Train(**STEPS)
    whole = stage.run(source, *device)
    for other in (replace(device, store=Store.open(device.store.root / "again")), cpu):
        asked = iter([False, True])
        stopped = replace(
            device, store=other.store, checkpoint_every_s=0.0, interrupted=lambda asked=asked: next(asked, True)
        )
        with pytest.raises(KeyboardInterrupt):
            stage.run(source, *stopped)
        (checkpoint,) = other.store.work(stage.key(source, *other)).glob("checkpoint.safetensors")
        assert "rng.mirror" in load_file(checkpoint)
        assert torch.allclose(weights(stage.run(source, *other)), weights(whole), atol=1e-5)


def test_a_module_is_back_where_it_was_and_its_outputs_are_the_cpus(settings, trained_digits):
    module = load_model(trained_digits.path)
    cpu, device = (predict(module, setting.task, setting.host, setting.data.select).double() for setting in settings)
    assert device_of(module).type == "cpu"
    assert torch.allclose(cpu, device, atol=1e-4)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("tried to allocate 1 TiB"), RuntimeError("MPS backend out of memory (9 GB)")],
)
def test_a_device_without_memory_says_what_to_lower(error):
    host, module = Compute(execution=DEVICES["mirror:0"]), nn.Linear(2, 2)
    refused = pytest.raises(EnvironmentFault, match=r"(?s)too little memory.*lower batch_size")
    with refused, placed(host, module, hint="lower batch_size"):
        raise error
    assert device_of(module).type == "cpu"
    with pytest.raises(RuntimeError, match="shapes"), placed(host, module):
        raise RuntimeError("shapes differ")


@pytest.fixture
def auto(make_context: Callable, tmp_path, monkeypatch) -> list:
    """The CPU, and a device with memory for 64 of 100 passes through 1,024 channels that may split batches."""
    monkeypatch.setitem(mirror_device.memory, "elements", 64 * 1024)
    executions = (DEVICES["cpu"], replace(DEVICES["mirror:0"], batch_size="auto"))
    return [make_context(execution=one, store=Store.open(tmp_path / one.device[:3])) for one in executions]


WIDE = Create(model=Mlp(widths=(1024,)))
LARGE = Train(epochs=1, batch_size=100, learning_rate=0.01)


def test_the_largest_power_of_two_that_fits_makes_up_the_batch_that_was_asked_for(auto, capsys):
    cpu, device = auto
    source = WIDE.run(None, *cpu)
    whole, fitted = LARGE.run(source, *cpu), LARGE.run(source, *replace(device, reporter=Reporter()))
    assert fitted.key == whole.key
    assert torch.allclose(weights(whole), weights(fitted), atol=1e-5)
    assert fitted.facts["samples_per_pass"] == 64
    assert "64 of 100 samples fit the device at once" in capsys.readouterr().err


def test_a_batch_that_fits_is_left_whole(auto):
    small = LARGE.model_copy(update={"batch_size": 64})
    assert "samples_per_pass" not in small.run(WIDE.run(None, *auto[1]), *auto[1]).facts


def test_what_a_split_would_change_is_refused_with_what_to_write_instead(auto, monkeypatch):
    monkeypatch.setitem(mirror_device.memory, "elements", 40_000)
    with pytest.raises(StageError, match=r"(?s)another training.*batch norms.*batch_size: 50 with accumulate: 2"):
        LARGE.run(Create(model=STUDENT).run(None, *auto[1]), *auto[1])


def test_a_device_that_runs_out_of_memory_in_the_middle_says_what_to_lower(auto):
    asked = replace(auto[1], execution=DEVICES["mirror:0"])
    with pytest.raises(EnvironmentFault, match=r"(?s)too little memory.*mirror out of memory.*--batch-size auto"):
        LARGE.run(WIDE.run(None, *asked), *asked)


def test_the_device_has_no_float64():
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2, dtype=torch.float64).to("mirror:0")


@pytest.mark.parametrize("limit_bytes", [1e9, 0.0], ids=["stored", "live"])
def test_advice_measures_what_it_measures_on_the_cpu(limit_bytes, settings, trained_digits, monkeypatch):
    monkeypatch.setattr(measures, "TAPS_LIMIT_BYTES", limit_bytes)
    student, teacher = load_model(Create(model=STUDENT).run(None, *settings[0]).path), load_model(trained_digits.path)
    found = []
    for setting in settings:
        work, host = setting
        by_audit = measures.audit(FEATURES, work, host, student=student, teacher=teacher)
        found.append([*by_audit, *measures.pairing(FEATURES, student, teacher, work, host)])
    assert [measure.value.value for measure in found[1]] == pytest.approx(
        [measure.value.value for measure in found[0]], abs=1e-4
    )
    assert device_of(student).type == device_of(teacher).type == "cpu"


def test_a_users_own_module_is_trained_where_it_is():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)) for width in (8, 16))
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(4)]
    before = student[0].weight.detach().clone()
    student.to("mirror:0"), teacher.to("mirror:0")
    moved = [tuple(value.to("mirror:0") for value in batch) for batch in batches]
    compress.distill(student, teacher, moved, epochs=1, quiet=True)
    assert device_of(student).type == "mirror"
    assert not torch.equal(student.cpu()[0].weight, before)
