"""A teacher that writes is trained, and a student learns from it: symbol by symbol, and from what it wrote."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import writing_zoo
from setting import Setting

from compress import Distill, Train
from compress.loss import GuidedLoss
from compress.models import load_model
from compress.progress import Reporter
from compress.stage import Execution
from compress.stages.create import Create
from compress.store.store import Store
from compress.training.inference import predict

UPDATES = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    """A teacher that writes most words right, and the data."""
    data = writing_zoo.data()
    setting = Setting(
        task=writing_zoo.task(data),
        data=data,
        loss=GuidedLoss(preset="word"),
        teacher=None,
        store=Store.open(tmp_path_factory.mktemp("writing")),
        seed=0,
        execution=Execution(threads=1, precision="float32"),
        reporter=Reporter(quiet=True),
    )
    fresh = Create(model=writing_zoo.TINY).run(None, *setting)
    return replace(setting, teacher=Train(epochs=30, label_smoothing=0.05, **UPDATES).run(fresh, *setting))


def forced(artifact, setting: Setting) -> float:
    """Share of next symbols that are right on select."""
    logits = predict(load_model(artifact.path), setting.task, setting.host, setting.data.select)
    return setting.task.tally(logits.numpy(), setting.data.select).value


def test_a_teacher_learns_by_teacher_forcing(setting):
    assert forced(setting.teacher, setting) > 0.85  # in one of twenty the next symbol is a matter of taste


def test_word_level_distillation_compares_every_symbol(setting):
    student = Create(model=writing_zoo.SMALLER).run(None, *setting)
    taught = Distill(epochs=8, **UPDATES).run(student, *setting)
    assert forced(taught, setting) > forced(student, setting) + 0.3
    module, teacher = load_model(taught.path), load_model(setting.teacher.path)
    ours, theirs = (predict(found, setting.task, setting.host, setting.data.select) for found in (module, teacher))
    units = setting.task.units(setting.data.select).sum()
    assert ours.shape == theirs.shape == (units, len(setting.task.classes))
    divergence = (theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))).sum(1).mean()
    fresh = predict(load_model(student.path), setting.task, setting.host, setting.data.select)
    before = (theirs.softmax(1) * (theirs.log_softmax(1) - fresh.log_softmax(1))).sum(1).mean()
    assert float(divergence) < float(before) / 2


def test_stored_outputs_are_those_of_every_sample_in_its_order(setting):
    from compress.training.teacher import teacher_outputs

    outputs = teacher_outputs(setting.work, setting.host, setting.data.train, views=(None,))
    index = torch.tensor([7, 3, 40])
    batch = setting.task.batch(setting.data.train, index)
    with torch.no_grad():
        live = setting.task.forward(load_model(setting.teacher.path), batch)
    assert np.allclose(outputs(batch).logits[0], live, atol=1e-4)
