"""Terms on transformers against float64 NumPy, and on real models of transformers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.loss import GuidedLoss, Tap, Targets, bind
from compress.loss.attention import DynamicLayers, Layers, Relations, Scores, attentions, find_ordered_map
from compress.loss.features import Compared, Pair
from compress.loss.taps import dry_run

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def vit(*, width=16, layers=4, heads=2):
    from transformers import ViTConfig, ViTForImageClassification

    from compress.models.huggingface import ImageLogits

    torch.manual_seed(width + layers)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
    )
    config._attn_implementation = "eager"
    return ImageLogits(ViTForImageClassification(config)).eval()


def layer_list(model):
    """Path and module of the layers, which differ between versions of transformers."""
    return next((path, part) for path, part in model.named_modules() if isinstance(part, nn.ModuleList))


def tokens(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def compared(student, teacher, heads):
    pair = Pair(Tap("s"), Tap("t"), (tuple(student.shape), tuple(teacher.shape)), (heads, heads))
    return Compared(pair, student, teacher)


def head_products(first, second, heads):
    """q k^T / sqrt(d) of each head, by loops."""
    n, length, width = first.shape
    size = width // heads
    out = np.zeros((n, heads, length, length))
    for sample, head in itertools.product(range(n), range(heads)):
        part = slice(head * size, (head + 1) * size)
        out[sample, head] = first[sample, :, part] @ second[sample, :, part].T / np.sqrt(size)
    return out


def rows_softmax(scores):
    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def test_scores_are_compared_before_the_softmax_or_after_it():
    sides = [tokens(seed, 2, 5, 8) for seed in range(4)]
    query_s, key_s, query_t, key_t = (side.numpy() for side in sides)
    ours, theirs = head_products(query_s, key_s, 2), head_products(query_t, key_t, 2)
    items = [compared(sides[0], sides[2], 2), compared(sides[1], sides[3], 2), compared(sides[0], sides[2], 2)]
    got = Scores().value(items, mask=None)
    np.testing.assert_allclose(got.numpy(), ((ours - theirs) ** 2).mean((1, 2, 3)), rtol=1e-4)
    p, q = rows_softmax(theirs), rows_softmax(ours)
    expected = (p * np.log(p / q)).sum(-1).mean((1, 2))
    got = Scores(divergence="kl").value(items, mask=None)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_relations_split_any_width_into_the_same_heads():
    student, teacher = [tokens(seed, 2, 5, 8) for seed in range(3)], [tokens(9 + seed, 2, 5, 12) for seed in range(3)]
    expected = 0
    for ours, theirs in zip(student, teacher, strict=True):
        q, p = (rows_softmax(head_products(side.numpy(), side.numpy(), 4)) for side in (ours, theirs))
        expected = expected + (p * np.log(p / q)).sum(-1).mean((1, 2))
    got = Relations().value([compared(*sides, 4) for sides in zip(student, teacher, strict=True)], mask=None)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_the_ordered_map_is_the_best_of_all_ordered_maps():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        errors = torch.rand(3, 5, generator=generator)
        maps = [chosen for chosen in itertools.product(range(5), repeat=3) if list(chosen) == sorted(chosen)]
        best = min(maps, key=lambda chosen: float(sum(errors[row, column] for row, column in enumerate(chosen))))
        assert find_ordered_map(errors).tolist() == list(best)


def terms_of(loss, student, teacher):
    bound = bind(loss, student, teacher, (IMAGES[:2],), seed=0)
    with bound.attach(student), torch.no_grad():
        logits = student(IMAGES)
        with_taps = dict(zip(list(bound.teacher_shapes), _taps(teacher, list(bound.teacher_shapes)), strict=True))
        return bound(logits, Targets(teachers=(teacher(IMAGES),)), teacher_features=with_taps)


def _taps(model, taps):
    from compress.loss.taps import capture_taps

    with capture_taps(model, taps) as capture, torch.no_grad():
        model(IMAGES)
        kept = capture.take()
    return [kept[tap] for tap in taps]


def test_attention_modules_of_transformers_are_found_with_their_heads():
    found = attentions(dry_run(vit(layers=3, heads=4), (IMAGES,), role="student"))
    assert [attention.heads for attention in found] == [4, 4, 4]


@pytest.mark.parametrize("name", ["layers", "scores", "relations", "dynamic_layers", "hidden", "cosine"])
def test_a_copy_of_the_teacher_costs_nothing_and_a_shallower_student_is_paired(name):
    teacher = vit()
    loss = GuidedLoss.model_validate({name: {}})
    assert float(terms_of(loss, vit(), teacher).total) == pytest.approx(0, abs=1e-6)
    assert float(terms_of(loss, vit(layers=2), teacher).total) > 1e-4


def test_tinybert_pairs_embeddings_and_every_other_layer():
    student, teacher = (dry_run(vit(layers=count), (IMAGES,), role="student") for count in (2, 4))
    pairs = [(str(pair.student), str(pair.teacher)) for pair in Layers().pair(student, teacher)]
    embeddings, (layers, _) = "model.vit.embeddings", layer_list(vit())
    assert pairs == [(embeddings, embeddings), (f"{layers}.0", f"{layers}.1"), (f"{layers}.1", f"{layers}.3")]


def test_other_heads_are_refused_by_scores_and_taken_by_relations():
    student, teacher = vit(width=24, heads=3), vit()
    with pytest.raises(ModelError, match="equal heads") as caught:
        terms_of(GuidedLoss(scores=Scores()), student, teacher)
    assert "relations" in str(caught.value)
    assert float(terms_of(GuidedLoss(relations=Relations()), student, teacher).total) > 0


def test_a_pruned_students_layers_are_matched_with_the_closest_that_are_left():
    teacher, student = vit(), vit()
    del layer_list(student)[1][1]
    pairs = DynamicLayers(teacher_layers=4).pair(
        dry_run(student, (IMAGES,), role="student"), dry_run(teacher, (IMAGES,), role="teacher")
    )
    assert len(pairs) == 3 * 4
    terms = terms_of(GuidedLoss(dynamic_layers=DynamicLayers()), student, teacher)
    # The first layer is untouched, so only the three above it can cost anything.
    assert (
        0
        < float(terms.total)
        < float(terms_of(GuidedLoss(dynamic_layers=DynamicLayers()), vit(layers=3), teacher).total)
    )


def test_a_convolutional_network_has_no_attention_and_is_told_what_fits():
    convolutional = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    for loss, words in ((GuidedLoss(scores=Scores()), "no attention"), (GuidedLoss(layers=Layers()), "no transformer")):
        with pytest.raises(ModelError, match=words):
            bind(loss, convolutional, vit(), (IMAGES[:2],), seed=0)
