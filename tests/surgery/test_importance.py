import copy

import pytest
import torch
import torch.nn.functional as F
from surgery_zoo import build, find_groups, images
from torch import nn

from compress.errors import StageError
from compress.surgery import layers
from compress.surgery.importance import magnitude, taylor

BATCH = (images(6), torch.tensor([0, 1, 2, 3, 4, 0]))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def logits(model, batch):
    return model(batch[0])


def divergence_from(teacher):
    def loss(model, batch):
        targets = teacher(batch[0]).detach().log_softmax(-1)
        return F.kl_div(model(batch[0]).log_softmax(-1), targets, reduction="none", log_target=True).sum(-1)

    return loss


@pytest.fixture(params=["plain", "resnet_basic", "resnext", "mobilenet", "densenet", "flattened", "gated"])
def double(request):
    model = build(request.param).double()
    return model, find_groups(model, (images(),)), (BATCH[0].double(), BATCH[1])


def test_the_gate_derivative_is_weight_times_gradient_over_the_columns_that_read_the_channel(double):
    """An independent formula: parameter gradients of one sample at a time, summed over atoms, squared."""
    model, groups, batch = double
    expected = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    for position in range(6):
        model.zero_grad()
        cross_entropy(model, (batch[0][position : position + 1], batch[1][position : position + 1])).sum().backward()
        for group in groups:
            change = torch.zeros(group.width, dtype=torch.float64)
            for member in group.members:
                if member.side == "in":
                    module = model.get_submodule(member.path)
                    products = copy.deepcopy(module)
                    products.weight.data.mul_(module.weight.grad)
                    per_index = layers.rows(products, "in", layers.layout(products, "in"))[0].detach().sum(1)
                    change.index_add_(0, member.channels, per_index[member.indices])
            together = torch.stack([change[group.atoms == atom].sum() for atom in group.atoms])
            expected[group.name] += together.square() / 6
    result = taylor(model, groups, [batch], loss=cross_entropy, logits=logits, seed=0)
    assert result.method == "taylor"
    assert result.samples == 6
    for name, score in expected.items():
        torch.testing.assert_close(result.scores[name], score)


def test_the_score_is_the_squared_change_of_the_loss_for_a_small_step_of_the_gate():
    """Finite differences: scale one channel where it is read."""
    model = build("plain").double()
    groups = find_groups(model, (images(),))
    batch = (BATCH[0].double(), BATCH[1])
    result = taylor(model, groups, [batch], loss=cross_entropy, logits=logits, seed=0)
    channel, step = 5, 1e-6
    losses = []
    for factor in (1 + step, 1 - step):
        stepped = copy.deepcopy(model)
        stepped[2][0].weight.data[:, channel] *= factor
        losses.append(cross_entropy(stepped, batch).detach())
    numeric = ((losses[0] - losses[1]) / (2 * step)).square().mean()
    torch.testing.assert_close(result.scores["0.0"][channel], numeric, rtol=1e-5, atol=0)


def test_samples_that_disagree_do_not_cancel():
    """With the mean taken before the square, opposite samples would leave nothing."""
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)).double().eval()
    groups = find_groups(model, (torch.zeros(2, 2),))
    batch = torch.tensor([[1.0, 2.0]], dtype=torch.float64).repeat(2, 1)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    result = taylor(model, groups, [batch], loss=lambda m, b: signs * m(b)[:, 0], logits=lambda m, b: m(b), seed=0)
    assert float(result.scores["0"].min()) > 0


def test_scores_do_not_depend_on_how_samples_are_batched(double):
    model, groups, batch = double
    whole = taylor(model, groups, [batch], loss=cross_entropy, logits=logits, seed=0)
    parts = [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]
    split = taylor(model, groups, parts, loss=cross_entropy, logits=logits, seed=0)
    for name, score in whole.scores.items():
        torch.testing.assert_close(split.scores[name], score)


def test_a_student_that_equals_its_teacher_is_ranked_by_fisher_information():
    model, teacher = build("resnet_basic"), build("resnet_basic")
    groups = find_groups(model, (images(),))
    same = taylor(model, groups, [BATCH], loss=divergence_from(teacher), logits=logits, seed=0)
    assert same.method == "fisher"
    assert same.gradient_ratio < 1e-3
    assert all(float(score.max()) > 0 for score in same.scores.values())
    other = taylor(model, groups, [BATCH], loss=divergence_from(build("resnet_basic", seed=1)), logits=logits, seed=0)
    assert other.method == "taylor"
    assert other.gradient_ratio > 0.1


def test_rounding_the_teacher_to_bfloat16_is_noise_too():
    model = build("plain")
    groups = find_groups(model, (images(),))

    def rounded(images):
        return build("plain")(images).bfloat16().float()

    assert taylor(model, groups, [BATCH], loss=divergence_from(rounded), logits=logits, seed=0).method == "fisher"


def test_the_fisher_score_is_the_curvature_of_the_divergence():
    """Averaged over draws: the Hessian of KL(p || p(gate)) at gate 1, by finite differences."""
    model = build("perceptron").double()
    groups = find_groups(model, (images(),))
    batch = (BATCH[0][:2].double(), BATCH[1][:2])
    draws = [
        taylor(model, groups, [batch], loss=divergence_from(model), logits=logits, seed=seed).scores["6"]
        for seed in range(2000)
    ]
    reference, step, curvature = model(batch[0]).detach().log_softmax(-1), 1e-3, []
    for channel in range(4):
        values = []
        for factor in (1 + step, 1 - step):
            stepped = copy.deepcopy(model)
            stepped[8].weight.data[:, channel] *= factor
            moved = stepped(batch[0]).detach().log_softmax(-1)
            values.append(F.kl_div(moved, reference, reduction="none", log_target=True).sum(-1).mean())
        curvature.append((values[0] + values[1]) / step**2)
    torch.testing.assert_close(torch.stack(draws).mean(0)[:4], torch.stack(curvature), rtol=0.15, atol=0)


@pytest.mark.parametrize("problem", ["regression", "multi-label"])
def test_the_fisher_score_is_that_of_what_the_outputs_are(problem):
    """In closed form: the sum over outputs of their derivative squared times the variance of the score."""
    model = build("perceptron").double()
    groups = find_groups(model, (images(),))
    batch = (BATCH[0][:2].double(), BATCH[1][:2])

    def nothing(model, batch):
        return model(batch[0]).sum(-1) * 0

    draws = [
        taylor(model, groups, [batch], loss=nothing, logits=logits, seed=seed, problem=problem) for seed in range(1000)
    ]
    assert {draw.method for draw in draws} == {"fisher"}
    outputs, step = model(batch[0]).detach(), 1e-5
    for channel in range(3):
        stepped = copy.deepcopy(model)
        stepped[8].weight.data[:, channel] *= 1 + step
        slope = (stepped(batch[0]).detach() - outputs) / step
        information = outputs.sigmoid() * (1 - outputs.sigmoid()) if problem == "multi-label" else 1.0
        expected = float((slope.square() * information).sum(-1).mean())
        mean = float(torch.stack([draw.scores["6"][channel] for draw in draws]).mean())
        assert mean == pytest.approx(expected, rel=0.2)


def test_a_dead_channel_scores_zero_and_a_copied_one_scores_alike():
    model = build("plain")
    with torch.no_grad():
        model[0][1].weight[3] = model[0][1].bias[3] = 0
    groups = find_groups(model, (images(),))
    scores = taylor(model, groups, [BATCH], loss=cross_entropy, logits=logits, seed=0).scores["0.0"]
    assert float(scores[3]) == 0
    assert int((scores == 0).sum()) == 1


def test_importance_leaves_the_model_as_it_was_and_needs_no_trainable_parameter():
    model = build("resnet_basic").train()
    model[0].requires_grad_(False)
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = find_groups(model, (images(),))
    scores = taylor(model, groups, [BATCH], loss=cross_entropy, logits=logits, seed=0).scores["0.0"]
    assert float(scores.min()) > 0
    assert [module.training for module in (model, model[0], model[1])] == [True, False, True]
    assert [model[0][0].weight.requires_grad, model[1].body[0][0].weight.requires_grad] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_batches_and_an_infinite_loss_are_refused():
    model = build("plain")
    groups = find_groups(model, (images(),))
    with pytest.raises(StageError, match="needs data"):
        taylor(model, groups, [], loss=cross_entropy, logits=logits, seed=0)
    with pytest.raises(StageError, match="finite"):
        taylor(model, groups, [BATCH], loss=lambda m, b: cross_entropy(m, b) * float("nan"), logits=logits, seed=0)


def test_magnitude_is_the_norm_over_all_coupled_parameters():
    model = build("plain")
    groups = find_groups(model, (images(),))
    scores = magnitude(model, groups).scores["0.0"]
    first, norm, second = model[0][0].weight, model[0][1], model[2][0].weight
    squares = first.flatten(1).square().sum(1) + norm.weight**2 + norm.bias**2
    norms = (squares + second.transpose(0, 1).flatten(1).square().sum(1)).sqrt()
    torch.testing.assert_close(scores.float(), (norms / norms.mean()).detach())


def test_magnitude_maps_flattened_and_grouped_columns():
    model = build("resnext")
    reader = model[1].body[1][0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        reader.weight[4 + 1, 2] = 1.0  # second block of 4: its third input is channel 6
    groups = find_groups(build("resnext"), (images(),))
    assert magnitude(model, groups).scores["1.body.0.0"].nonzero().flatten().tolist() == [6]
    flat = build("flattened")
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.zero_()
        flat[3].weight[0, 16 * 9 + 2] = 1.0
    assert magnitude(flat, find_groups(build("flattened"), (images(),))).scores["0.0"].nonzero().flatten().tolist() == [
        9
    ]
