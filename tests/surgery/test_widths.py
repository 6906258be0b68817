import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_zoo import MODELS, build, conv, head, images
from torch import nn

from compress.errors import StageError
from compress.surgery import plan
from compress.surgery.cost import cost_model
from compress.surgery.find import find_groups
from compress.surgery.groups import Group, check_kept
from compress.surgery.importance import magnitude
from compress.surgery.widths import choose, legal_widths

INPUTS = (images(),)
FOUND = {name: find_groups(build(name), INPUTS) for name in MODELS}
COSTS = {name: cost_model(build(name), FOUND[name], INPUTS) for name in MODELS}


def group(width: int, *, atoms=None, blocks=None, name="g") -> Group:
    return Group(
        name,
        width,
        (),
        torch.arange(width) if atoms is None else torch.tensor(atoms),
        torch.zeros(width, dtype=torch.int64) if blocks is None else torch.tensor(blocks),
    )


@pytest.mark.parametrize(
    ("width", "round_to", "legal"),
    [
        (24, None, [8, 16, 24]),
        (100, None, [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100]),
        (6, None, [6]),
        (12, None, [8, 12]),
        (6, 1, [1, 2, 3, 4, 5, 6]),
        (70, 32, [32, 64, 70]),
    ],
)
def test_widths_are_what_kernels_like_or_the_original(width, round_to, legal):
    assert legal_widths(group(width), round_to) == legal


def test_widths_respect_units_and_leave_two_channels_to_a_block():
    assert legal_widths(group(24, atoms=[i // 6 for i in range(24)]), None) == [24]
    assert legal_widths(group(24, atoms=[i // 3 for i in range(24)]), 1) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert legal_widths(group(16, blocks=[i // 4 for i in range(16)]), None) == [8, 16]
    assert legal_widths(group(16, blocks=[i // 4 for i in range(16)]), 1) == [8, 12, 16]


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    target=st.floats(0.2, 1.0),
    seed=st.integers(0, 99),
    ranking=st.sampled_from(["global", "uniform"]),
    measure=st.sampled_from(["macs", "parameters"]),
    round_to=st.sampled_from([None, 1, 4]),
)
def test_a_choice_is_at_or_below_the_target_and_legal(name, target, seed, ranking, measure, round_to):
    groups, costs = FOUND[name], COSTS[name]
    generator = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.rand(g.width, generator=generator, dtype=torch.float64) for g in groups}
    try:
        choice = choose(groups, scores, costs, ranking=ranking, measure=measure, target=target, round_to=round_to)
    except StageError:
        smallest = {g.name: g.pick(scores[g.name], legal_widths(g, round_to)[0]) for g in groups}
        cost, full = costs.cost(smallest), costs.cost({})
        fraction = cost.macs / full.macs if measure == "macs" else cost.parameters / full.parameters
        assert fraction > target
        return
    check_kept(groups, choice.kept)
    assert choice.smallest <= choice.reached <= target
    for g in groups:
        assert len(choice.kept[g.name]) in legal_widths(g, round_to)
        assert torch.equal(choice.kept[g.name], g.pick(scores[g.name], len(choice.kept[g.name])))
    assert choice.after == costs.cost(choice.kept)
    # Nothing more fits: one more legal step of any group would overshoot.
    total = choice.before.macs if measure == "macs" else choice.before.parameters
    for g in groups:
        wider = [width for width in legal_widths(g, round_to) if width > len(choice.kept[g.name])]
        if wider:
            cost = costs.cost({**choice.kept, g.name: g.pick(scores[g.name], wider[0])})
            assert (cost.macs if measure == "macs" else cost.parameters) / total > target


def test_uniform_removes_the_same_share_everywhere_and_global_does_not():
    groups, costs = FOUND["resnet_bottleneck"], COSTS["resnet_bottleneck"]
    scores = {g.name: torch.linspace(1, 2, g.width, dtype=torch.float64) for g in groups}
    scores["1.body.0.0"] *= 100  # the isomorphic 2.body.0.0 should pay
    shares = {}
    for ranking in ("uniform", "global"):
        choice = choose(groups, scores, costs, ranking=ranking, measure="macs", target=0.5, round_to=1)
        shares[ranking] = {g.name: len(choice.kept[g.name]) / g.width for g in groups}
    assert max(shares["uniform"].values()) - min(shares["uniform"].values()) < 0.1
    assert shares["global"]["1.body.0.0"] == 1.0
    assert shares["global"]["2.body.0.0"] < shares["uniform"]["2.body.0.0"]


def test_classes_of_unlike_layers_are_never_compared():
    groups, costs = FOUND["plain"], COSTS["plain"]
    scores = {g.name: torch.rand(g.width, dtype=torch.float64) for g in groups}
    same = choose(groups, scores, costs, ranking="global", measure="macs", target=0.5)
    flat = {g.name: scores[g.name] * (1000 if g.signature != groups[0].signature else 1) for g in groups}
    other = choose(groups, flat, costs, ranking="global", measure="macs", target=0.5)
    assert all(torch.equal(same.kept[name], other.kept[name]) for name in same.kept)


def test_ties_remove_no_more_than_asked_and_keep_the_first():
    groups, costs = FOUND["plain"], COSTS["plain"]
    scores = {g.name: torch.ones(g.width, dtype=torch.float64) for g in groups}
    choice = choose(groups, scores, costs, ranking="global", measure="macs", target=0.6, round_to=1)
    assert 0.58 < choice.reached <= 0.6
    for g in groups:
        assert choice.kept[g.name].tolist() == list(range(len(choice.kept[g.name])))


def test_an_unreachable_target_names_what_is_reachable():
    groups, costs = FOUND["plain"], COSTS["plain"]
    scores = magnitude(build("plain"), groups).scores
    with pytest.raises(StageError, match=r"at least 0\.\d{4}") as caught:
        choose(groups, scores, costs, ranking="global", measure="macs", target=0.01)
    smallest = float(str(caught.value).split("at least ")[1].split()[0])
    with pytest.raises(StageError, match="at least"):
        choose(groups, scores, costs, ranking="global", measure="macs", target=smallest - 1e-3)
    assert (
        choose(groups, scores, costs, ranking="global", measure="macs", target=smallest + 1e-4).reached
        <= smallest + 1e-4
    )


def test_a_miss_beyond_the_tolerance_names_the_nearest():
    model = nn.Sequential(conv(3, 16), head(16)).eval()
    groups = find_groups(model, INPUTS)
    costs, scores = cost_model(model, groups, INPUTS), magnitude(model, groups).scores
    assert choose(groups, scores, costs, ranking="global", measure="macs", target=0.9).reached == 0.5
    with pytest.raises(StageError, match=r"0\.5000 is the nearest below, 0\.5000 the smallest"):
        choose(groups, scores, costs, ranking="global", measure="macs", target=0.9, tolerance=0.05)
    assert choose(groups, scores, costs, ranking="global", measure="macs", target=0.52, tolerance=0.05).reached == 0.5


def test_choosing_for_a_resnet_takes_less_than_a_second():
    groups, costs = FOUND["resnet_basic"], COSTS["resnet_basic"]
    scores = magnitude(build("resnet_basic"), groups).scores
    started = time.perf_counter()
    choose(groups, scores, costs, ranking="global", measure="macs", target=0.5)
    assert time.perf_counter() - started < 1


def test_the_plan_is_json_and_says_what_was_kept_and_why():
    model, groups, costs = build("resnext"), FOUND["resnext"], COSTS["resnext"]
    importance = magnitude(model, groups)
    choice = choose(groups, importance.scores, costs, ranking="global", measure="macs", target=0.5)
    described = json.loads(json.dumps(plan.describe(groups, importance, choice)))
    assert described["reached"] == choice.reached
    assert described["before"] == {"parameters": choice.before.parameters, "macs": choice.before.macs}
    assert [entry["name"] for entry in described["groups"]] == [g.name for g in groups]
    entry = described["groups"][1]
    assert entry["kept"] == choice.kept[entry["name"]].tolist()
    assert (entry["width_before"], entry["width_after"]) == (16, len(entry["kept"]))
    assert entry["importance"]["max_removed"] <= entry["importance"]["max"]
    assert {"path": "1.body.1.0", "side": "in", "kind": "GroupedConv2d"} in entry["members"]
