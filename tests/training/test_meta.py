"""An update of every task and loss on the meta device, whose tensors have shapes and no numbers.

It has nothing that could be read, so whatever waits for a device raises here; tensors of two devices do not meet.
The update rule's fused kernels are no part of it: `on_device_tasks.py` has them, on the pretend device.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pytest
import torch
from task_zoo import SUBJECTS, make_subject
from torch import nn

from compress.loss import GuidedLoss, bind
from compress.loss.presets import PresetName
from compress.stage import Compute, Execution, Group, Member
from compress.training import loop
from compress.training.numerics import choose_layout, place_batch
from compress.training.sharing import SharedUpdate
from compress.training.teacher import LiveTeachers
from compress.training.teaching import live_teacher

ON_IMAGES: dict[str, dict[str, Any]] = {  # terms and fields that no preset has
    "divergences": {"kl": {"divergence": "jensen-shannon"}, "uniform": {}, "hard_token": {}},
    "skew": {"kl": {"divergence": "skew", "standardise": True}, "dkd": {"standardise": True}},
    "likeliest": {"kl": {"divergence": "reverse", "top_k": 3}, "mse": {}},
    "features": {"hidden": {}, "cosine": {}, "last_feature": {}},
    "relations of samples": {"rkd": {}},
}
ON_TEXTS: dict[str, dict[str, Any]] = {
    "matched layers": {"dynamic_layers": {"teacher_layers": 2}},
    "padded features": {"hidden": {}, "rkd": {}, "last_feature": {}},
}
QUICK = ("images", "tags", "signals", "sequences", "steps", "texts tinybert", "texts matched layers", "written word")


def losses():
    for kind, name, terms in [
        *((kind, preset, None) for kind, preset in SUBJECTS),
        *(("images", name, terms) for name, terms in ON_IMAGES.items()),
        *(("texts", name, terms) for name, terms in ON_TEXTS.items()),
    ]:
        title = f"{kind} {name}".strip()
        marks = [] if kind in QUICK or title in QUICK else [pytest.mark.slow]
        yield pytest.param(kind, name, terms, id=title, marks=marks)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory, digits):
    made: dict[str, Any] = {}

    def build(kind: str):
        if kind not in made:
            one = make_subject(kind, "", tmp_path_factory.mktemp(kind), digits)
            models = (one.teacher, one.student)
            made[kind] = one, [model.build(one.task.signature, code=one.code) for model in models]
        subject, modules = made[kind]
        return subject, *map(copy.deepcopy, modules)

    return build


@pytest.mark.parametrize(("kind", "name", "terms"), losses())
def test_an_update_reads_nothing_of_its_device(kind, name, terms, subjects, monkeypatch):
    monkeypatch.setattr(Compute, "autocast", lambda _: nullcontext())  # which meta has not
    subject, teacher, student = subjects(kind)
    loss = subject.loss if not name else GuidedLoss(preset=name) if terms is None else GuidedLoss(**terms)
    task, host = subject.task, Compute(execution=Execution(1, "float32", "meta"))
    batch = task.batch(subject.data.train, torch.arange(4), view=task.views(mixup=loss.mixup)[0])
    layout = choose_layout(student, task, batch)
    bound = bind(loss, student, teacher, batch.inputs, seed=0)
    trained = nn.ModuleDict({"model": student, "loss": bound}).to("meta").train()
    teaching = live_teacher(teacher.to("meta").eval(), task, host, tuple(bound.teacher_shapes))
    parts = 1 if loss.coupled else 2
    shared = SharedUpdate(Group(), trained, seed=0 if parts > 1 else None)
    window = loop.Window(loss)
    made = partial(loop._forward, student, task, host, loss=bound, teacher=teaching, layout=layout)
    with bound.attach(student):
        for progress in (0.25, 0.75):
            loop._sum_gradients([batch] * parts, partial(made, progress=progress), shared, window, step=0)
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    gradients = [value.grad for value in student.parameters() if value.grad is not None]
    assert gradients
    assert {value.device.type for value in (*gradients, *window.sums.values())} == {"meta"}


@pytest.mark.parametrize("kind", ["images", "texts", "written"])
def test_what_several_live_teachers_say_is_not_read(kind, subjects, monkeypatch):
    monkeypatch.setattr(Compute, "autocast", lambda _: nullcontext())
    subject, teacher, student = subjects(kind)
    task, host = subject.task, Compute(execution=Execution(1, "float32", "meta"))
    # The second one reads samples anew, as a teacher with a tokenizer of its own does; their files are not read.
    members = tuple(Member(None, replace(task) if place else task, 1 / (place + 1)) for place in range(2))  # pyright: ignore[reportArgumentType]
    running = tuple(module.to("meta").eval() for module in (teacher, student))
    teaching = LiveTeachers(members, running, host, subject.data.train, task, (), (None, None))
    taught = teaching(place_batch(task.batch(subject.data.train, torch.arange(4)), host.device))
    assert taught.weights == pytest.approx((2 / 3, 1 / 3))
    assert [value.device.type for value in taught.logits] == ["meta", "meta"]


def test_every_preset_is_tried():
    assert {preset for _, preset in SUBJECTS if preset} == set(get_args(PresetName))
