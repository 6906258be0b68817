import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_zoo import MODELS, build, find_groups, images
from torch import nn

from compress.errors import ModelError, StageError
from compress.surgery import cut, verify
from compress.surgery.cost import cost_model, model_cost
from compress.surgery.groups import Group, Member, keep_all

INPUTS = (images(3),)
FOUND = {name: find_groups(build(name), INPUTS) for name in MODELS}


def random_choice(groups, draw) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return {
        group.name: group.pick(
            torch.rand(group.width, generator=generator), group.unit * draw(st.integers(1, group.width // group.unit))
        )
        for group in groups
    }


@pytest.mark.parametrize("name", MODELS)
def test_keeping_everything_is_the_bitwise_identity(name):
    model = build(name)
    before, parameters = copy.deepcopy(model), dict(model.named_parameters())
    cut.apply(model, FOUND[name], keep_all(FOUND[name]))
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(parameters[key] is value for key, value in model.named_parameters())
    assert torch.equal(model(*INPUTS), before(*INPUTS))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_removing_equals_masking_and_costs_what_was_predicted(name, data):
    model, groups = build(name), FOUND[name]
    kept = random_choice(groups, data.draw)
    pruned = copy.deepcopy(model)
    cut.apply(pruned, groups, kept)
    assert verify.against_masked(model, pruned, groups, kept, INPUTS) <= 1e-9
    predicted = cost_model(model, groups, INPUTS).cost(kept)
    assert predicted == model_cost(pruned, INPUTS)
    assert predicted.parameters == sum(parameter.numel() for parameter in pruned.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_cutting_twice_is_cutting_once(name):
    """Groups of the smaller model are found afresh and compose."""
    model, groups = build(name), FOUND[name]
    halves = {
        group.name: group.pick(torch.arange(group.width) % 7, max(1, group.width // group.unit // 2) * group.unit)
        for group in groups
    }
    once = copy.deepcopy(model)
    cut.apply(once, groups, halves)
    again = find_groups(once, INPUTS)
    assert [(group.name, group.width, group.unit) for group in again if group.unit != 2] == [
        (group.name, len(halves[group.name]), group.unit) for group in groups if group.unit != 2
    ]
    twice = copy.deepcopy(once)
    smallest = {group.name: group.pick(torch.arange(group.width), group.unit) for group in again}
    cut.apply(twice, again, smallest)
    verify.against_masked(once, twice, again, smallest, INPUTS)


def test_cut_parameters_keep_their_gradient_flags_and_dtype():
    model, groups = build("plain").bfloat16(), FOUND["plain"]
    model[0].requires_grad_(False)
    cut.apply(model, groups, {group.name: torch.arange(8) for group in groups})
    assert not model[0][0].weight.requires_grad
    assert model[2][0].weight.requires_grad
    assert model[2][0].weight.dtype == torch.bfloat16
    assert (model[2][0].in_channels, model[2][0].out_channels, model[2][1].num_features) == (8, 8, 8)


def altered(group: Group, path: str, side: str, indices: torch.Tensor) -> Group:
    members = tuple(
        Member(member.path, member.side, member.kind, member.channels, indices)
        if (member.path, member.side) == (path, side)
        else member
        for member in group.members
    )
    return Group(group.name, group.width, members, group.atoms, group.blocks)


@pytest.mark.parametrize(
    ("name", "path", "side"),
    [
        ("plain", "2.0", "in"),
        ("plain", "0.1", "out"),
        ("resnet_basic", "1.body.1.0", "out"),
        ("mobilenet", "1.body.1.0", "out"),
        ("densenet", "2.branches.0.0", "out"),
        ("perceptron", "3", "in"),
    ],
)
def test_a_wrong_index_map_is_caught(name, path, side):
    model, groups = build(name), list(FOUND[name])
    position = next(i for i, g in enumerate(groups) if (path, side) in {(m.path, m.side) for m in g.members})
    right = next(m for m in groups[position].members if (m.path, m.side) == (path, side)).indices
    groups[position] = altered(groups[position], path, side, right.roll(1))
    kept = keep_all(groups)
    kept[groups[position].name] = torch.arange(groups[position].width // 2)
    pruned = copy.deepcopy(model)
    cut.apply(pruned, groups, kept)
    assert pruned(*INPUTS).shape == model(*INPUTS).shape  # a shape test would not notice
    with pytest.raises(StageError, match="index map"):
        verify.against_masked(model, pruned, groups, kept, INPUTS)


def test_the_check_names_a_tensor_that_does_not_fit_its_attributes():
    model = build("plain")
    model[2][0].in_channels = 17
    with pytest.raises(StageError, match=r"2\.0\.weight"):
        verify.attributes_agree(model)


def test_the_check_sees_a_changed_weight():
    model, groups = build("plain"), FOUND["plain"]
    kept = {group.name: torch.arange(8) for group in groups}
    pruned = copy.deepcopy(model)
    cut.apply(pruned, groups, kept)
    with torch.no_grad():
        pruned[2][0].weight.mul_(1 + 1e-6)
    with pytest.raises(StageError, match="difference at most"):
        verify.against_masked(model, pruned, groups, kept, INPUTS)


def test_the_check_sees_an_output_of_another_shape():
    model, groups = build("plain"), FOUND["plain"]
    pruned = copy.deepcopy(model)
    pruned[4][2] = nn.Linear(32, 4)
    with pytest.raises(StageError, match="shape of an output"):
        verify.against_masked(model, pruned, groups, keep_all(groups), INPUTS)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("plain", torch.tensor([], dtype=torch.int64), "not valid"),
        ("plain", torch.tensor([3, 1]), "not valid"),
        ("plain", torch.tensor([1, 1]), "not valid"),
        ("plain", torch.tensor([0, 16]), "not valid"),
        ("plain", torch.tensor([-1, 2]), "not valid"),
        ("group_norm", torch.tensor([0, 1]), "belong together"),
        ("gated", torch.tensor([0, 1]), "belong together"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_and_nothing_is_cut(name, bad, message):
    model, groups = build(name), FOUND[name]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=message):
        cut.apply(model, groups, {**keep_all(groups), groups[0].name: bad})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_choice_must_name_every_group_and_balance_blocks():
    model, groups = build("resnext"), FOUND["resnext"]
    with pytest.raises(ModelError, match="other groups"):
        cut.apply(model, groups, {"0.0": torch.arange(4)})
    with pytest.raises(ModelError, match="evenly"):
        cut.apply(model, groups, {**keep_all(groups), "1.body.0.0": torch.arange(8)})
