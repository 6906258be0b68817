"""Terms on logits against float64 NumPy, straight from the papers' formulas, and known limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from compress.loss import Targets
from compress.loss.logits import Bernoulli, Dist, Dkd, HardToken, Kl, Mse, kl, soften

finite = st.floats(-20, 20, width=32)
pairs = st.tuples(st.integers(1, 6), st.integers(2, 12)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=finite), hnp.arrays(np.float32, shape, elements=finite)
    )
)


def softmax(logits, temperature=1.0):
    exponents = np.asarray(logits, np.float64) / temperature
    exponents = np.exp(exponents - exponents.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def divergence(p, q):
    """KL(p || q) of each row."""
    return (p * (np.log(p) - np.log(q))).sum(1)


def z_scores(logits):
    logits = np.asarray(logits, np.float64)
    return (logits - logits.mean(1, keepdims=True)) / (logits.std(1, ddof=1, keepdims=True) + 1e-7)


def targets(teacher, labels=None) -> Targets:
    return Targets(teachers=(torch.as_tensor(teacher),), labels=labels)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(9, 6, generator=generator), 2 * torch.randn(9, 6, generator=generator)


@settings(max_examples=60, deadline=None)
@given(pair=pairs, temperature=st.sampled_from([0.5, 1.0, 2.0, 4.0, 20.0]))
def test_the_softened_kl_equals_its_definition(pair, temperature):
    student, teacher = pair
    got = Kl(temperature=temperature).value(torch.from_numpy(student), targets(teacher))
    assert got.dtype == torch.float32
    expected = temperature**2 * divergence(softmax(teacher, temperature), softmax(student, temperature))
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-4, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(pair=pairs, temperature=st.sampled_from([1.0, 4.0]), share=st.sampled_from([0.1, 0.5, 0.9]))
def test_the_other_divergences_equal_their_definitions(pair, temperature, share):
    student, teacher = (torch.from_numpy(side) for side in pair)
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    expected = {
        "reverse": divergence(q, p),
        "jensen-shannon": share * divergence(p, share * p + (1 - share) * q)
        + (1 - share) * divergence(q, share * p + (1 - share) * q),
        "skew": divergence(p, share * p + (1 - share) * q),
    }
    for name, rows in expected.items():
        own = {"jensen-shannon": {"beta": share}, "skew": {"skew": share}}.get(name, {})
        term = Kl(temperature=temperature, divergence=name, **own)
        got = term.value(student, targets(teacher)).numpy()
        np.testing.assert_allclose(got, temperature**2 * rows, rtol=5e-4, atol=5e-4)


def test_the_ends_of_the_mixtures_are_the_two_divergences(logits):
    student, teacher = logits
    forward, reverse = (Kl(divergence=name).value(student, targets(teacher)) for name in ("forward", "reverse"))
    assert torch.equal(Kl(divergence="jensen-shannon", beta=0).value(student, targets(teacher)), forward)
    assert torch.equal(Kl(divergence="jensen-shannon", beta=1).value(student, targets(teacher)), reverse)
    assert torch.equal(Kl(divergence="skew", skew=0).value(student, targets(teacher)), forward)


@pytest.mark.parametrize(
    "fields",
    [
        {"divergence": "jensen-shannon", "beta": 0.001},
        {"divergence": "jensen-shannon", "beta": 0.99},
        {"divergence": "skew", "skew": 0.96},
    ],
)
def test_a_mixture_that_trains_on_nearly_nothing_is_refused(fields):
    with pytest.raises(ValidationError, match="nearly 0"):
        Kl.model_validate(fields)


def test_a_field_that_does_nothing_is_refused():
    with pytest.raises(ValidationError, match="read by divergence skew alone"):
        Kl(skew=0.3)
    with pytest.raises(ValidationError, match="read by divergence jensen-shannon alone"):
        Kl(divergence="reverse", beta=0.1)


def test_jensen_shannon_is_never_negative_in_bfloat16():
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(256, 50, generator=generator)
    close = (student + 0.01 * torch.randn(256, 50, generator=generator)).bfloat16()
    got = Kl(divergence="jensen-shannon", temperature=1).value(student.bfloat16(), targets(close))
    assert float(got.min()) > -1e-6


def test_the_top_k_divergence_is_not_negative_and_tends_to_the_full_one(logits):
    student, teacher = logits
    values = [Kl(temperature=1, top_k=k).value(student, targets(teacher)) for k in range(1, 7)]
    for smaller, larger in zip(values, values[1:], strict=False):
        assert bool((larger >= smaller - 1e-6).all())
    assert float(values[0].min()) >= 0
    full = Kl(temperature=1).value(student, targets(teacher))
    torch.testing.assert_close(values[-2], full)
    assert torch.equal(values[-1], full)


def test_z_scores_remove_scale_and_shift(logits):
    student, teacher = logits
    got = Kl(standardise=True, temperature=2).value(student, targets(teacher))
    expected = 4 * divergence(softmax(z_scores(teacher), 2), softmax(z_scores(student), 2))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)
    moved = Kl(standardise=True, temperature=2).value(3 * student + 5, targets(teacher))
    torch.testing.assert_close(moved, got, rtol=1e-4, atol=1e-5)


def test_no_gradient_flows_to_the_teacher_and_none_is_nan_at_impossible_classes():
    student = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    mixed = (Kl(divergence="jensen-shannon"), Kl(divergence="skew"))
    for term in (Kl(), Kl(divergence="reverse"), *mixed, Kl(top_k=2), Kl(top_k=1), Dkd(), Bernoulli()):
        student.grad = None
        term.value(student, targets(teacher, torch.tensor([0]))).sum().backward()
        assert teacher.grad is None
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())


def test_several_teachers_give_their_averaged_probabilities(logits):
    student, first = logits
    second = first.flip(1)
    both = Targets(teachers=(first, second), teacher_weights=(0.25, 0.75))
    for temperature in (1.0, 4.0):
        p = 0.25 * softmax(first, temperature) + 0.75 * softmax(second, temperature)
        expected = temperature**2 * divergence(p, softmax(student, temperature))
        np.testing.assert_allclose(Kl(temperature=temperature).value(student, both).numpy(), expected, rtol=1e-4)


def test_hard_tokens_are_the_teachers_decisions(logits):
    student, teacher = logits
    expected = -np.log(softmax(student))[np.arange(9), teacher.argmax(1).numpy()]
    np.testing.assert_allclose(HardToken().value(student, targets(teacher)).numpy(), expected, rtol=1e-5)


def test_decoupled_distillation_equals_equation_7(logits):
    student, teacher = logits
    labels = torch.arange(9) % 6
    p, q = softmax(teacher, 4), softmax(student, 4)
    rows, target = np.arange(9), labels.numpy()
    binary = [np.stack([side[rows, target], 1 - side[rows, target]], 1) for side in (p, q)]
    rest = []
    for side in (p, q):
        others = np.stack([np.delete(row, label) for row, label in zip(side, target, strict=True)])
        rest.append(others / others.sum(1, keepdims=True))
    expected = 16 * (1.5 * divergence(*binary) + 8 * divergence(*rest))
    got = Dkd(target_weight=1.5, non_target_weight=8).value(student, targets(teacher, labels))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_decoupled_parts_weighted_by_the_non_target_mass_are_the_kl(logits):
    """Zhao et al., equation 6: KD = TCKD + (1 - p_target) NCKD."""
    from compress.loss.logits import split_kl

    student, teacher = logits
    labels = torch.arange(9) % 6
    target, rest = split_kl(student, teacher, labels, temperature=4)
    mass = 1 - (teacher / 4).softmax(1)[torch.arange(9), labels]
    torch.testing.assert_close(target + mass * rest, soften(student, teacher, temperature=4))


def test_dist_is_one_minus_pearson_over_classes_and_over_the_batch(logits):
    student, teacher = logits
    p, q = softmax(teacher, 4), softmax(student, 4)
    inter = 1 - np.mean([np.corrcoef(p[row], q[row])[0, 1] for row in range(9)])
    intra = 1 - np.mean([np.corrcoef(p[:, column], q[:, column])[0, 1] for column in range(6)])
    got = Dist(temperature=4, inter_weight=2, intra_weight=3).value(student, targets(teacher))
    np.testing.assert_allclose(float(got), 16 * (2 * inter + 3 * intra), rtol=1e-4)


def test_bernoulli_sums_the_divergences_of_the_labels(logits):
    student, teacher = logits
    p, q = (1 / (1 + np.exp(-side.double().numpy() / 2)) for side in (teacher, student))
    expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    got = Bernoulli(temperature=2).value(student, targets(teacher))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_bernoulli_averages_teachers_label_by_label(logits):
    student, first = logits
    both = Targets(teachers=(first, -first), teacher_weights=(0.25, 0.75))
    p = 0.25 / (1 + np.exp(-first.double().numpy())) + 0.75 / (1 + np.exp(first.double().numpy()))
    q = 1 / (1 + np.exp(-student.double().numpy()))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    np.testing.assert_allclose(Bernoulli().value(student, both).numpy(), expected, rtol=1e-4)


def test_mse_sums_squares_over_the_outputs(logits):
    student, teacher = logits
    expected = (student.double() - teacher.double()).square().sum(1)
    np.testing.assert_allclose(Mse().value(student, targets(teacher)).numpy(), expected.numpy(), rtol=1e-5)
    both = Targets(teachers=(teacher, -teacher), teacher_weights=(0.5, 0.5))
    torch.testing.assert_close(Mse().value(student, both), student.square().sum(1))


def test_kl_of_equal_log_probabilities_is_exactly_zero(logits):
    log = logits[0].log_softmax(1)
    assert torch.equal(kl(log, log.clone()), torch.zeros(9))
