"""Every term has the properties that it declares, and a counter-example shows that it has no others."""

import pytest
import torch
from torch.nn import functional as F

from compress.loss import GuidedLoss
from compress.loss.attention import DynamicLayers, Layers, Relations, Scores
from compress.loss.features import AttentionTransfer, Cosine, Hidden, Hint, LastFeature, Rkd
from compress.loss.logits import Bernoulli, Dist, Dkd, Hard, HardToken, Kl, Mse, Uniform
from compress.loss.term import Term
from compress.testing import PROPERTIES, logit_properties, term_properties

TERMS: list[Term] = [
    Hard(),
    Kl(),
    Kl(divergence="reverse"),
    Kl(divergence="jensen-shannon"),
    Kl(divergence="jensen-shannon", beta=0.1),
    Kl(divergence="skew"),
    Kl(top_k=3),
    Kl(standardise=True),
    HardToken(),
    Dkd(),
    Dkd(standardise=True),
    Dist(),
    Dist(standardise=True, temperature=4),
    Bernoulli(),
    Mse(),
    Uniform(),
    Hint(),
    Hidden(),
    Cosine(),
    AttentionTransfer(),
    Rkd(),
    LastFeature(),
    Layers(),
    DynamicLayers(),
    Scores(),
    Scores(divergence="kl"),
    Relations(),
]


def label(term: Term) -> str:
    changed = term.model_dump(exclude_defaults=True)
    return "-".join([type(term).__name__, *(f"{name}={value}" for name, value in changed.items())])


@pytest.mark.parametrize("term", TERMS, ids=label)
def test_a_term_has_just_the_properties_it_declares(term):
    held = term_properties(term)
    assert {name for name, holds in held.items() if holds} == term.declared
    assert term.declared <= set(PROPERTIES)


def test_every_term_of_the_loss_is_here():
    fields = {name: field.annotation for name, field in GuidedLoss.model_fields.items()}
    known = {kind for kind in map(type, TERMS)}
    terms = {
        option
        for annotation in fields.values()
        for option in getattr(annotation, "__args__", ())
        if isinstance(option, type) and issubclass(option, Term)
    }
    assert terms == known


def kl(student, teacher, **options):
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, **options)


FAULTS = {
    "mean over classes too": (lambda s, t: kl(s, t, reduction="none").mean(), "impossible-classes"),
    "sum over the batch": (lambda s, t: kl(s, t, reduction="sum"), "duplication"),
    "in bfloat16": (
        lambda s, t: (
            kl(s, t, reduction="batchmean") if s.dtype == torch.float32 else kl(s, t, reduction="none").sum(-1)
        ),
        "bfloat16",
    ),
    "cross-entropy called KL": (lambda s, t: -(t.softmax(-1) * s.log_softmax(-1)).sum(-1), "zero-at-equality"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_catches_faults_of_other_codebases(fault):
    loss, lost = FAULTS[fault]
    assert not logit_properties(lambda student, targets: loss(student, targets.teachers[0]))[lost]


def test_the_suite_catches_a_missing_temperature_squared():
    def at(temperature):
        return lambda s, targets: kl(s / temperature, targets.teachers[0] / temperature, reduction="batchmean")

    def scaled(temperature):
        return lambda s, targets: temperature**2 * at(temperature)(s, targets)

    assert not logit_properties(at(1.0), at=at)["high-temperature"]
    assert logit_properties(scaled(1.0), at=scaled)["high-temperature"]
