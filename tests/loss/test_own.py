"""Terms of the user's own: objects of their own classes under names of their own."""

from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress import CompressError, FeatureTerm, GuidedLoss, Kl, LogitTerm, OwnTerm, Schedule, Targets, stage_pairs
from compress.loss import bind
from compress.loss.taps import capture_taps
from compress.testing import term_properties


class Margin(LogitTerm):
    """The student's logit of the teacher's first class, above that of its second by a margin."""

    properties: ClassVar = frozenset({"duplication", "micro-batching", "bfloat16", "impossible-classes", "shift"})

    margin: float = 0.2

    def value(self, student, targets):
        first, second = targets.teacher().topk(2, dim=1).indices.unbind(dim=1)
        rows, logits = torch.arange(len(student)), student.float()
        return torch.relu(self.margin - logits[rows, first] + logits[rows, second])


class Gap(FeatureTerm):
    """The mean absolute difference of maps."""

    form: ClassVar = "maps"
    properties: ClassVar = frozenset({"zero-at-equality", "duplication", "micro-batching", "bfloat16"})

    def automatic(self, student, teacher):
        return stage_pairs(student, teacher)[-1:]

    def value(self, compared, *, mask):
        del mask
        ours, theirs = compared[0].resize()
        return (ours - theirs).abs().flatten(1).mean(dim=1)


class Wide(LogitTerm):
    """What is forgotten most easily: the sum over the classes."""

    def value(self, student, targets):
        return (student - targets.teacher()).abs()


class Labelled(LogitTerm):
    reads_labels: ClassVar = True
    reads_teacher: ClassVar = False

    def value(self, student, targets):
        del student
        return targets.hard


def pair():
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


def test_a_term_under_a_name_of_its_own_counts_like_any_other():
    student, teacher = pair()
    given = Targets(teachers=(teacher,))
    loss = GuidedLoss(kl=Kl(), mine=Margin(weight=0.5, margin=3))
    terms = loss.on_logits(student, given)
    top = teacher.topk(2, dim=1).indices
    gaps = [float(row[first] - row[second]) for row, (first, second) in zip(student, top.tolist(), strict=True)]
    expected = sum(max(0.0, 3 - gap) for gap in gaps) / len(gaps)
    assert float(terms.average()["mine"]) == pytest.approx(expected, rel=1e-6)
    assert float(terms.total) == pytest.approx(float(Kl().value(student, given).mean()) + 0.5 * expected, rel=1e-5)
    assert set(loss.terms) == {"kl", "mine"}
    assert loss.final_logit_terms(per_unit=True) == ("kl", "mine")


def test_a_preset_takes_terms_of_ones_own_and_keeps_its_fields():
    loss = GuidedLoss(preset="hinton", mine=Margin(margin=0.3))
    assert set(loss.terms) == {"hard", "kl", "mine"}
    assert loss.terms["mine"] == Margin(margin=0.3)
    assert not GuidedLoss(mine=Labelled()).needs_teacher
    assert GuidedLoss(mine=Labelled()).needs_labels


def test_a_term_on_features_has_taps_and_a_projector_that_is_trained():
    def build(width, seed):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)
        return nn.Sequential(*layers)

    student, teacher = build(3, 0), build(5, 1)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = bind(GuidedLoss(kl=Kl(), gap=Gap()), student, teacher, (images[:2],), seed=0)
    assert set(loss.pairs) == {"gap"}
    with loss.attach(student), capture_taps(teacher, list(loss.teacher_shapes)) as capture:
        logits, targets = student(images), Targets(teachers=(teacher(images).detach(),))
        terms = loss(logits, targets, teacher_features=capture.take())
    terms.total.backward()
    assert terms.by_sample == {"gap"}
    assert [value.grad is not None for value in loss.parameters()] == [True]


@pytest.mark.parametrize("term", [Margin(), Gap()], ids=["logits", "features"])
def test_the_conformance_suite_runs_on_it(term):
    held = term_properties(term)
    assert {name for name, holds in held.items() if holds} == term.declared


def test_the_fingerprint_knows_every_field_and_not_the_order():
    losses = [
        GuidedLoss(kl=Kl()),
        GuidedLoss(kl=Kl(), mine=Margin()),
        GuidedLoss(kl=Kl(), mine=Margin(margin=0.3)),
        GuidedLoss(kl=Kl(), mine=Margin(weight=2)),
        GuidedLoss(kl=Kl(), mine=Margin(schedule=Schedule(warmup_fraction=0.1))),
        GuidedLoss(kl=Kl(), other=Margin()),
    ]
    assert len({loss.fingerprint for loss in losses}) == len(losses)
    one, two = (
        GuidedLoss.model_validate(given) for given in ({"a": Gap(), "b": Margin()}, {"b": Margin(), "a": Gap()})
    )
    assert one.fingerprint == two.fingerprint
    assert list(one.terms) == list(two.terms) == ["a", "b"]


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"other": Kl()}, "other"),
        ({"kl": Kl(), "mine": 3}, "mine"),
        ({"kl": Kl(), "total": Margin()}, "means something else"),
        ({"kl": Kl(), "values": Gap()}, "means something else"),
        ({"kl": Kl(), "my-own": Margin()}, "lower-case"),
        ({"mine": Margin(schedule=Schedule(end_fraction=0.5))}, "no term counts after 0.5"),
        ({"mixup": 0.5, "mine": Labelled()}, "leave out mixup or mine"),
    ],
)
def test_what_cannot_be_is_refused(terms, words):
    with pytest.raises(ValidationError, match=words):
        GuidedLoss.model_validate(terms)


def test_a_value_that_is_not_one_number_a_unit_is_refused_by_name():
    student, teacher = pair()
    with pytest.raises(CompressError, match=r"(?s)the term mine .* float32 \[6\].*got: .*\[6, 4\].*class Wide"):
        GuidedLoss(mine=Wide()).on_logits(student, Targets(teachers=(teacher,)))


def test_terms_in_a_file_that_was_not_run_are_never_left_out():
    loss = GuidedLoss(kl=Kl(), mine=OwnTerm.model_validate({"file": "my_loss.py", "class": "Margin"}))
    student, teacher = pair()
    with pytest.raises(CompressError, match=r"(?s)was not run.*mine"):
        loss.on_logits(student, Targets(teachers=(teacher,)))
    with pytest.raises(CompressError, match="was not run"):
        bind(loss, nn.Linear(2, 2), nn.Linear(2, 2), (), seed=0)
