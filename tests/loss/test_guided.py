"""The loss as a value: terms, presets, schedules, fingerprint; and bound to two models."""

import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.errors import ModelError
from compress.loss import GuidedLoss, Schedule, Targets, bind
from compress.loss.attention import Layers
from compress.loss.bound import active
from compress.loss.features import Hint, LastFeature
from compress.loss.logits import Dist, Dkd, Hard, Kl
from compress.loss.presets import PRESETS
from compress.models import Cnn, ResNet
from compress.recipe.plain import plain
from compress.tasks import Signature
from compress.tasks.signature import Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 16, 16)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)
IMAGES = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def build(model, seed=0):
    torch.manual_seed(seed)
    return model.build(SIGNATURE, code=())


def test_the_total_is_the_weighted_mean_of_the_terms():
    generator = torch.Generator().manual_seed(5)
    student, teacher = torch.randn(2, 9, 4, generator=generator)
    hard = torch.rand(9, generator=generator)
    loss = GuidedLoss(hard=Hard(weight=0.3), kl=Kl(weight=2.0, temperature=2), dist=Dist(weight=0.5))
    given = Targets(teachers=(teacher,), hard=hard)
    terms = loss.on_logits(student, given)
    soft, dist = loss.terms["kl"].value(student, given), loss.terms["dist"].value(student, given)
    expected = 0.3 * hard.double().mean() + 2 * soft.double().mean() + 0.5 * dist.double()
    np.testing.assert_allclose(float(terms.total), float(expected), rtol=1e-6)
    np.testing.assert_allclose(float(terms.objective(units=9, samples=9)), float(expected), rtol=1e-6)
    assert set(terms.average()) == {"total", "hard", "kl", "dist"}


def test_coupled_terms_give_no_value_per_sample():
    student, teacher = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    loss = GuidedLoss(kl=Kl(), dist=Dist())
    assert set(loss.on_logits(student, Targets(teachers=(teacher,)), per_unit=True).values) == {"kl"}
    assert loss.final_logit_terms(per_unit=True) == ("kl",)
    assert loss.coupled == ("dist",)


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ValidationError, match="nothing would be learnt"):
        GuidedLoss()
    with pytest.raises(ValidationError, match="no term counts after 0.5"):
        GuidedLoss(kl=Kl(schedule=Schedule(end_fraction=0.5)))
    with pytest.raises(ValidationError, match="greater than 0"):
        GuidedLoss(kl=Kl(weight=0))


def test_labels_do_not_fit_mixtures():
    with pytest.raises(ValidationError, match="leave out mixup or hard, dkd"):
        GuidedLoss(mixup=0.5, hard=Hard(), dkd=Dkd())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_terms_it_stands_for(name):
    loss = GuidedLoss.model_validate(name)
    assert loss.preset is None
    assert loss == GuidedLoss(preset=name)
    assert set(loss.terms) == set(PRESETS[name]) - {"mixup", "on_policy"}
    assert GuidedLoss.model_validate(loss.model_dump(exclude_none=True)) == loss


def test_keys_beside_a_preset_change_it():
    loss = GuidedLoss.model_validate({"preset": "hinton", "kl": {"temperature": 8}, "hint": {}})
    assert (loss.kl, loss.hint) == (Kl(weight=0.9, temperature=8), Hint())
    assert GuidedLoss.model_validate({"preset": "hinton", "hard": None}).hard is None
    assert GuidedLoss(preset="hinton", kl=Kl(temperature=8)).kl == Kl(weight=0.9, temperature=8)
    deep = GuidedLoss.model_validate({"preset": "tinybert", "layers": {"schedule": {"warmup_fraction": 0.1}}})
    assert deep.layers is not None
    assert deep.layers.schedule == Schedule(end_fraction=0.5, warmup_fraction=0.1)
    with pytest.raises(ValidationError, match="hint is empty"):
        GuidedLoss.model_validate({"preset": "hinton", "hint": None})


def test_the_fingerprint_changes_with_every_field_and_not_with_the_spelling():
    loss = GuidedLoss(preset="hinton")
    assert loss.fingerprint == GuidedLoss(hard=Hard(weight=0.1), kl=Kl(weight=0.9, temperature=4)).fingerprint
    others = [
        {"preset": "hinton", "kl": {"temperature": 8}},
        {"preset": "hinton", "hard": {"weight": 0.2}},
        {"preset": "hinton", "kl": {"schedule": {"warmup_fraction": 0.1}}},
        {"preset": "hinton", "hint": {}},
    ]
    assert len({loss.fingerprint, *(GuidedLoss.model_validate(other).fingerprint for other in others)}) == 5


class Halved(Kl):
    """A user's own term."""

    share: float = 0.5

    def value(self, student, targets):
        return self.share * super().value(student, targets)


def test_a_term_of_a_users_own_class_is_never_taken_for_ours():
    ours, theirs = GuidedLoss(kl=Kl()), GuidedLoss(kl=Halved())
    assert len({loss.fingerprint for loss in (ours, theirs, GuidedLoss(kl=Halved(share=0.25)))}) == 3
    assert theirs.model_dump()["kl"]["share"] == 0.5
    content = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert theirs.model_dump(exclude_none=True)["kl"]["class"] == f"Halved {content}"
    assert plain(theirs)["kl"]["class"] == "Halved"
    with pytest.raises(ValidationError, match=r"kl\.class"):
        GuidedLoss.model_validate(theirs.model_dump(exclude_none=True))
    assert GuidedLoss(preset="hinton", kl=Halved(temperature=8)).kl == Halved(weight=0.9, temperature=8)


def test_a_class_without_source_is_refused_for_no_key_could_tell_it():
    typed = {"Kl": Kl, "__name__": "typed"}
    exec("class Typed(Kl):\n    pass", typed)
    with pytest.raises(ValidationError, match="define it in a file"):
        GuidedLoss(kl=typed["Typed"]())


def test_a_step_between_two_terms_trains_nothing_and_is_no_error():
    student = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = GuidedLoss(
        mse={"schedule": {"end_fraction": 0.5}},
        kl=Kl(schedule=Schedule(begin_fraction=0.5, warmup_fraction=0.1)),
    )
    terms = loss.on_logits(student, Targets(teachers=(-student.detach(),)), progress=0.5)
    terms.objective(units=5, samples=5).backward()
    assert student.grad is None
    assert terms.average() == {"total": 0}


def test_schedules_rise_hold_and_fall():
    schedule = Schedule(begin_fraction=0.2, end_fraction=0.8, warmup_fraction=0.2, decay_fraction=0.4)
    shown = [round(schedule.factor(progress), 6) for progress in (0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.79, 0.8, 1)]
    assert shown == [0, 0, 0, 0.5, 1, 0.5, 0.025, 0, 0]
    assert Schedule().factor(0) == Schedule().factor(1) == 1
    with pytest.raises(ValidationError, match="longer than the term's share"):
        Schedule(warmup_fraction=0.6, decay_fraction=0.6)
    with pytest.raises(ValidationError, match="not after"):
        Schedule(begin_fraction=0.5, end_fraction=0.5)


def test_a_term_that_its_schedule_turns_off_is_not_computed():
    student, teacher = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    loss = GuidedLoss(kl=Kl(), dist=Dist(schedule=Schedule(begin_fraction=0.5)))
    early = loss.on_logits(student, Targets(teachers=(teacher,)), progress=0.2)
    late = loss.on_logits(student, Targets(teachers=(teacher,)), progress=0.7)
    assert (set(early.values), set(late.values)) == ({"kl"}, {"kl", "dist"})


def test_a_progressive_term_takes_its_pairs_in_turn():
    term = Layers(progressive=True, schedule=Schedule(end_fraction=0.5))
    assert [list(active(term, 4, progress=progress)) for progress in (0, 0.13, 0.3, 0.49)] == [[0], [1], [2], [3]]
    assert list(active(Layers(), 4, progress=0.3)) == [0, 1, 2, 3]


def test_projectors_are_built_at_once_trained_and_no_part_of_the_student():
    student, teacher = build(Cnn(widths=(4, 8), strides=(1, 2))), build(ResNet(width=8, blocks=(1, 1)))
    names = set(student.state_dict())
    bound = bind(GuidedLoss(hint=Hint(), last_feature=LastFeature()), student, teacher, (IMAGES[:2],), seed=0)
    shapes = {name: tuple(value.shape) for name, value in bound.named_parameters()}
    assert shapes["projectors.hint.0.weight"] == (8, 4, 1, 1)
    assert len(shapes) == 2
    again = bind(bound.loss, student, teacher, (IMAGES[:2],), seed=0)
    assert all(torch.equal(value, bound.state_dict()[name]) for name, value in again.state_dict().items())
    from compress.loss.taps import capture_taps

    with bound.attach(student), capture_taps(teacher, list(bound.teacher_shapes)) as capture:
        logits, targets = student(IMAGES), Targets(teachers=(teacher(IMAGES).detach(),))
        bound(logits, targets, teacher_features=capture.take()).total.backward()
    assert all(value.grad is not None for value in bound.parameters())
    assert all(value.grad is None for value in teacher.parameters())
    assert set(student.state_dict()) == names
    assert not any(module._forward_hooks for module in student.modules())


def test_a_student_that_shares_weights_with_its_teacher_is_refused():
    model = build(Cnn(widths=(4,), strides=(2,)))
    with pytest.raises(ModelError, match="share weights"):
        bind(GuidedLoss(kl=Kl()), model, model, (), seed=0)
    other = copy.deepcopy(model)
    other.head = model.head
    with pytest.raises(ModelError, match=r"head\.weight"):
        bind(GuidedLoss(kl=Kl()), other, model, (), seed=0)
    same_storage = copy.deepcopy(model)
    same_storage.head.weight = nn.Parameter(model.head.weight.data)
    with pytest.raises(ModelError, match=r"head\.weight"):
        bind(GuidedLoss(kl=Kl()), same_storage, model, (), seed=0)
    bind(GuidedLoss(kl=Kl()), copy.deepcopy(model), model, (), seed=0)


def test_a_loss_is_bound_anew_after_surgery_and_a_vanished_tap_is_an_error():
    loss = GuidedLoss(hint=Hint(pairs={"layers.3": "layers.3"}))
    teacher = build(Cnn(widths=(8, 8), strides=(1, 2)))
    narrow = build(Cnn(widths=(4, 6), strides=(1, 2)))
    assert bind(loss, narrow, teacher, (IMAGES[:2],), seed=0).pairs["hint"][0].shapes[0][1] == 6
    shallow = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ModelError, match="no module of the student runs under this path"):
        bind(loss, shallow, teacher, (IMAGES[:2],), seed=0)
