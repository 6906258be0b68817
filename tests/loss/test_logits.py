"""The softened KL against float64 NumPy, closed forms and known limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.loss import GuidedLoss, softened_kl

finite = st.floats(-20, 20, width=32)
pairs = st.tuples(st.integers(1, 6), st.integers(2, 12)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=finite), hnp.arrays(np.float32, shape, elements=finite)
    )
)


def reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """T^2 sum p (log p - log q), straight from the definition, in float64."""
    p = np.exp(teacher.astype(np.float64) / temperature)
    q = np.exp(student.astype(np.float64) / temperature)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(1)


@settings(max_examples=60, deadline=None)
@given(pair=pairs, temperature=st.sampled_from([0.5, 1.0, 2.0, 4.0, 20.0]))
def test_equals_float64_definition(pair, temperature):
    student, teacher = pair
    got = softened_kl(torch.from_numpy(student), torch.from_numpy(teacher), temperature=temperature)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), reference(student, teacher, temperature), rtol=2e-4, atol=2e-4)


def test_is_exactly_zero_where_logits_are_equal():
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(softened_kl(logits, logits.clone(), temperature=4), torch.zeros(8))


def test_appending_impossible_classes_changes_nothing():
    """Catches every reduction that divides by the number of classes."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 5, 7, generator=generator)
    impossible = torch.full((5, 3), -torch.inf)
    wide = softened_kl(torch.cat([student, impossible], 1), torch.cat([teacher, impossible], 1), temperature=3)
    torch.testing.assert_close(wide, softened_kl(student, teacher, temperature=3))


def test_uniform_teacher_gives_the_closed_form():
    student = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    got = softened_kl(student, torch.zeros(4, 6), temperature=1)
    torch.testing.assert_close(got, -np.log(6) - student.log_softmax(1).mean(1))


def test_high_temperature_gradient_is_the_centred_difference_of_logits():
    """Hinton et al. 2015, equation 4; without T squared it would be T^2 times smaller."""
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(3, 5, generator=generator).requires_grad_()
    teacher = torch.randn(3, 5, generator=generator)
    (gradient,) = torch.autograd.grad(softened_kl(student, teacher, temperature=1000).mean(), student)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(gradient, centred.detach() / (3 * 5), rtol=5e-3, atol=5e-4)


def test_bfloat16_logits_are_computed_in_float32():
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 64, 10, generator=generator).bfloat16()
    got = softened_kl(student, teacher, temperature=4)
    assert torch.equal(got, softened_kl(student.float(), teacher.float(), temperature=4))


def test_no_gradient_flows_to_the_teacher():
    teacher = torch.randn(2, 3, requires_grad=True)
    student = torch.randn(2, 3, requires_grad=True)
    softened_kl(student, teacher, temperature=2).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_guided_loss_is_the_weighted_mean_of_its_terms():
    generator = torch.Generator().manual_seed(5)
    student, teacher = torch.randn(2, 9, 4, generator=generator)
    hard = torch.rand(9, generator=generator)
    terms = GuidedLoss(hard_weight=0.3, soft_weight=2.0, temperature=2)(student, teacher=teacher, hard=hard)
    expected = 0.3 * hard.double().numpy() + 2.0 * reference(student.numpy(), teacher.numpy(), 2.0)
    np.testing.assert_allclose(terms.total_per_unit.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(float(terms.total), expected.mean(), rtol=1e-5)


def test_duplicating_a_batch_leaves_the_loss_unchanged():
    generator = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(2, 5, 4, generator=generator)
    loss = GuidedLoss(hard_weight=0, soft_weight=1)
    once = loss(student, teacher=teacher, hard=None).total
    twice = loss(student.repeat(2, 1), teacher=teacher.repeat(2, 1), hard=None).total
    torch.testing.assert_close(once, twice)


def test_a_term_without_weight_is_not_computed():
    logits = torch.zeros(1, 2)
    assert set(GuidedLoss(hard_weight=0, soft_weight=1)(logits, teacher=logits, hard=None).per_unit) == {"soft"}
    assert set(GuidedLoss(hard_weight=1, soft_weight=0)(logits, teacher=None, hard=torch.ones(1)).per_unit) == {"hard"}


def test_fingerprint_changes_with_every_field():
    loss = GuidedLoss()
    changed = [{"hard_weight": 0.2}, {"soft_weight": 0.8}, {"temperature": 2.0}]
    assert len({loss.fingerprint, *(loss.model_copy(update=change).fingerprint for change in changed)}) == 4


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ValueError, match="nothing would be learnt"):
        GuidedLoss(hard_weight=0, soft_weight=0)
