"""A causal teacher is trained on completions, and a student learns from it by every preset for models that write."""

from dataclasses import replace

import causal_zoo
import pytest
from setting import Setting

from compress import Distill, Label, Train
from compress.loss import GuidedLoss
from compress.models import load_model
from compress.progress import Reporter
from compress.stage import Execution
from compress.stages.create import Create
from compress.store.store import Store
from compress.training.inference import predict
from compress.training.label import label

UPDATES = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    """A teacher that continues most prompts rightly, and the data."""
    data = causal_zoo.data()
    setting = Setting(
        task=causal_zoo.task(data),
        data=data,
        loss=GuidedLoss(preset="word"),
        teacher=None,
        store=Store.open(tmp_path_factory.mktemp("continuing")),
        seed=0,
        execution=Execution(threads=1, precision="float32"),
        reporter=Reporter(quiet=True),
    )
    fresh = Create(model=causal_zoo.TINY).run(None, *setting)
    return replace(setting, teacher=Train(epochs=20, label_smoothing=0.05, **UPDATES).run(fresh, *setting))


@pytest.fixture(scope="module")
def student(setting):
    model = causal_zoo.TINY.model_copy(update={"width": 24, "feed_forward": 32, "decoder_layers": 1})
    return Create(model=model).run(None, *setting)


def forced(artifact, setting: Setting) -> float:
    """Share of next symbols of the completions that are right on select."""
    logits = predict(load_model(artifact.path), setting.task, setting.host, setting.data.select)
    return setting.task.tally(logits.numpy(), setting.data.select).value


@pytest.mark.parametrize(
    ("preset", "labels"),
    [
        ("word", None),
        ("sequence", "sequence"),
        ("sequence", "sequence-interpolation"),
        ("sequence", "rejection"),
        ("distil-whisper", "sequence"),
        ("gkd", None),
        ("shrink-and-fine-tune", None),
    ],
)
def test_a_student_learns_by_every_preset(setting, student, preset, labels):
    stage = Distill(epochs=8, loss=GuidedLoss(preset=preset), label=labels, **UPDATES)
    assert forced(stage.run(student, *setting), setting) > forced(student, setting) + 0.08


def test_the_teacher_writes_what_follows_the_prompt(setting):
    assert forced(setting.teacher, setting) > 0.7
    known: dict[str, set[str]] = {}
    for word, turned in causal_zoo.rows():
        known.setdefault(word, set()).add(turned)
    data, counts = label(setting.work, setting.host, Label(decoding="greedy"))  # pyright: ignore[reportArgumentType]
    found = [text in known[word] for word, (text,) in zip(data.train.inputs, data.train.labels, strict=True)]
    assert counts.exact_match == pytest.approx(sum(found) / len(found), abs=0.05)
    assert counts.exact_match > 0.3
