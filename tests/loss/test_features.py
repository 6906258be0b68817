"""Terms on features against float64 NumPy, straight from the papers' formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.loss import Tap
from compress.loss.features import (
    AttentionTransfer,
    Compared,
    Cosine,
    Hidden,
    Hint,
    LastFeature,
    Pair,
    Rkd,
)
from compress.loss.taps import capture_taps, dry_run
from compress.models import Mlp, ResNet
from compress.tasks import Signature
from compress.tasks.signature import Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 16, 16)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)
IMAGES = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def compared(student, teacher) -> Compared:
    return Compared(Pair(Tap("s"), Tap("t"), (tuple(student.shape), tuple(teacher.shape))), student, teacher)


def maps(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trace(model, role="student"):
    return dry_run(model.build(SIGNATURE, code=()), (IMAGES[:2],), role=role)


def test_a_hint_is_the_mean_squared_error_of_each_unit_summed_over_pairs():
    first, second, third, fourth = (maps(seed, 3, 4, 5, 5) for seed in range(4))
    expected = [(a.double() - b.double()).square().flatten(1).mean(1) for a, b in ((first, second), (third, fourth))]
    got = Hint().value([compared(first, second), compared(third, fourth)], mask=None)
    torch.testing.assert_close(got.double(), sum(expected), rtol=1e-5, atol=1e-6)


def test_maps_of_other_sizes_are_averaged_down():
    student, teacher = maps(0, 2, 3, 4, 4), maps(1, 2, 3, 8, 8)
    small = teacher.view(2, 3, 4, 2, 4, 2).mean(dim=(3, 5))
    expected = (student - small).square().flatten(1).mean(1)
    torch.testing.assert_close(Hint().value([compared(student, teacher)], mask=None), expected)


def test_hidden_is_relative_to_the_teachers_size():
    student, teacher = maps(0, 3, 6, 8), maps(1, 3, 6, 8)
    expected = (student - teacher).square().sum((1, 2)) / teacher.square().sum((1, 2))
    got = Hidden().value([compared(student, teacher)], mask=None)
    torch.testing.assert_close(got, expected)
    scaled = Hidden().value([compared(100 * student, 100 * teacher)], mask=None)
    torch.testing.assert_close(scaled, expected)


def test_cosine_is_averaged_over_tokens():
    student, teacher = maps(0, 3, 6, 8).double().numpy(), maps(1, 3, 6, 8).double().numpy()
    norms = np.linalg.norm(student, axis=2) * np.linalg.norm(teacher, axis=2)
    expected = (1 - (student * teacher).sum(2) / norms).mean(1)
    got = Cosine().value([compared(torch.tensor(student), torch.tensor(teacher))], mask=None)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_attention_transfer_compares_normalised_energy_maps_of_any_width():
    student, teacher = maps(0, 3, 4, 5, 5).double().numpy(), maps(1, 3, 9, 5, 5).double().numpy()
    energy = [(side**2).mean(1).reshape(3, -1) for side in (student, teacher)]
    energy = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in energy]
    expected = ((energy[0] - energy[1]) ** 2).mean(1)
    got = AttentionTransfer().value([compared(torch.tensor(student), torch.tensor(teacher))], mask=None)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def smooth_l1(a, b):
    gap = np.abs(a - b)
    return np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()


def test_rkd_compares_distances_and_angles_of_the_batch():
    student, teacher = maps(0, 5, 7).double().numpy(), maps(1, 5, 4).double().numpy()
    relations = []
    for side in (student, teacher):
        lengths = np.linalg.norm(side[:, None] - side[None], axis=2)
        lengths = lengths / lengths[lengths > 0].mean()
        cosines = np.zeros((5, 5, 5))
        for i, j, k in np.ndindex(5, 5, 5):
            left, right = side[i] - side[j], side[k] - side[j]
            size = np.linalg.norm(left) * np.linalg.norm(right)
            cosines[i, j, k] = left @ right / size if size else 0.0
        relations.append((lengths, cosines))
    (lengths_s, cosines_s), (lengths_t, cosines_t) = relations
    expected = 25 * smooth_l1(lengths_s, lengths_t) + 50 * smooth_l1(cosines_s, cosines_t)
    got = Rkd().value([compared(torch.tensor(student), torch.tensor(teacher))], mask=None)
    np.testing.assert_allclose(float(got), expected, rtol=1e-4)


def test_rkd_has_a_gradient_where_samples_coincide():
    student = torch.zeros(4, 3, requires_grad=True)
    Rkd().value([compared(student, maps(0, 4, 3))], mask=None).backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_rkd_gives_samples_that_coincide_no_endless_gradient():
    student = maps(2, 6, 4)
    student[1] = student[0]
    student.requires_grad_()
    Rkd().value([compared(student, maps(0, 6, 4))], mask=None).backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 100


@pytest.mark.parametrize("term", [Hint(), Hidden(), Cosine()], ids=lambda term: type(term).__name__)
def test_vectors_of_padded_samples_have_no_padding(term):
    """A pooler's output: neither cut short where the width is the number of tokens, nor refused where it is not."""
    student, teacher = maps(0, 3, 5), maps(1, 3, 5)
    whole = term.value([compared(student, teacher)], mask=None)
    for length in (5, 7):
        mask = torch.arange(length).repeat(3, 1) < 2
        assert torch.equal(term.value([compared(student, teacher)], mask=mask), whole)


def test_last_features_are_compared_after_standardising():
    student, teacher = maps(0, 3, 8).double().numpy(), maps(1, 3, 8).double().numpy()
    sides = [(side - side.mean(1, keepdims=True)) / side.std(1, keepdims=True) for side in (student, teacher)]
    expected = ((sides[0] - sides[1]) ** 2).mean(1)
    got = LastFeature().value([compared(torch.tensor(student), torch.tensor(teacher))], mask=None)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_globs_name_pairs_and_a_tap_that_matches_nothing_tells_what_there_is():
    student, teacher = trace(ResNet(width=4, blocks=(1, 1))), trace(ResNet(width=8, blocks=(2, 2)), "teacher")
    (first, second) = Hidden(pairs={"layers.?": "layers.?"}).pair(student, teacher)
    assert (str(first.teacher), str(second.teacher)) == ("layers.1", "layers.3")
    with pytest.raises(ModelError, match="no module of the teacher") as caught:
        Hidden(pairs={"layers.0": "blocks.*"}).pair(student, teacher)
    assert "layers.1.conv1" in str(caught.value)


def test_a_star_stays_within_one_part_of_a_path():
    seen = trace(ResNet(width=4, blocks=(1, 1)))
    assert [str(tap) for tap in seen.matches("layers.*")] == ["layers.0", "layers.1"]
    assert [str(tap) for tap in seen.matches("layers.?.conv*")] == [
        "layers.0.conv1",
        "layers.0.conv2",
        "layers.1.conv1",
        "layers.1.conv2",
    ]
    assert len(seen.matches("layers.**")) > 10
    assert seen.matches("head:input") == [Tap("head", "input")]
    with pytest.raises(ModelError, match="no such side"):
        seen.matches("head:inputs")


def test_a_tensor_that_is_changed_in_place_is_no_tap():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.inner(x))

    model = InPlace()
    with capture_taps(model, [Tap("inner")]) as capture, torch.no_grad():
        model(torch.randn(2, 4))
        with pytest.raises(ModelError, match="changed in place"):
            capture.take()


def test_features_of_other_ranks_are_refused_before_training():
    student, teacher = trace(Mlp(widths=(8,))), trace(ResNet(width=8), "teacher")
    with pytest.raises(ModelError, match="cannot be compared"):
        Hint(pairs={"layers.1": "layers.1"}).pair(student, teacher)
    with pytest.raises(ModelError, match="compares maps"):
        AttentionTransfer(pairs={"layers.1": "layers.1"}).pair(student, teacher)


def test_a_module_that_runs_twice_is_no_tap():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(self.inner(x))

    with pytest.raises(ModelError, match="not one tensor"):
        dry_run(Twice(), (torch.zeros(2, 4),), role="student").shape(Tap("inner"))
