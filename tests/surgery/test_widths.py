import itertools
import json
import math

import encoder_zoo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_zoo import MODELS, build, conv, find_groups, head, images
from torch import nn

from compress.errors import StageError
from compress.surgery import encoders, plan
from compress.surgery.cost import CostModel, cost_model
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


@pytest.mark.parametrize(
    ("kind", "width", "run", "round_to", "legal"),
    [
        ("heads", 24, 8, 5, [8, 16, 24]),
        ("layers", 3, 1, 8, [1, 2, 3]),
        ("feed_forward", 96, 1, None, [32, 64, 96]),
        ("feed_forward", 768, 1, None, [*range(64, 769, 64)]),
        ("hidden", 384, 1, 128, [128, 256, 384]),
        ("feed_forward", 48, 1, None, [32, 48]),
    ],
)
def test_heads_and_layers_leave_whole_and_widths_are_what_matrix_kernels_like(kind, width, run, round_to, legal):
    group = Group("g", width, (), torch.arange(width) // run, torch.zeros(width, dtype=torch.int64), kind=kind)
    assert legal_widths(group, round_to) == legal


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


def transformer() -> tuple[list[Group], CostModel]:
    groups = find_groups(encoder_zoo.build("bert"), encoder_zoo.inputs("bert"), units=encoders.UNITS)
    return list(groups), cost_model(encoder_zoo.build("bert"), groups, encoder_zoo.inputs("bert"))


TRANSFORMER = transformer()


def lost(groups, scores, kept) -> float:
    """The sum of the scores of all that leaves, an atom's counted once."""
    total = 0.0
    for g in groups:
        gone = sorted(set(range(g.width)) - set(kept[g.name].tolist()))
        total += float(scores[g.name][gone].sum()) * len(g.atoms.unique()) / g.width
    return total


def scores_of(groups, seed: int) -> dict[str, torch.Tensor]:
    """As of taylor: one for all channels of an atom."""
    generator = torch.Generator().manual_seed(seed)
    raw = {g.name: torch.rand(g.width, generator=generator, dtype=torch.float64) ** 4 for g in groups}
    size = {"heads": 16, "layers": 60, "hidden": 8, "feed_forward": 1}
    return {g.name: raw[g.name][g.atoms] * size[g.kind] for g in groups}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    target=st.floats(0.1, 1.0),
    seed=st.integers(0, 999),
    measure=st.sampled_from(["macs", "parameters"]),
    round_to=st.sampled_from([1, 8]),
)
def test_by_cost_the_budget_is_met_within_one_unit(target, seed, measure, round_to):
    groups, costs = TRANSFORMER
    scores = scores_of(groups, seed)
    choice = choose(groups, scores, costs, ranking="per_cost", measure=measure, target=target, round_to=round_to)
    check_kept(groups, choice.kept)
    assert choice.reached <= target
    assert choice.after == costs.cost(choice.kept)
    total = getattr(choice.before, measure)
    for g in groups:
        assert torch.equal(choice.kept[g.name], g.pick(scores[g.name], len(choice.kept[g.name])))
        wider = [width for width in legal_widths(g, round_to) if width > len(choice.kept[g.name])]
        if wider:
            cost = costs.cost({**choice.kept, g.name: g.pick(scores[g.name], wider[0])})
            assert getattr(cost, measure) / total > target


@pytest.mark.parametrize("seed", range(20))
def test_by_cost_little_more_is_lost_than_the_least_that_can_be(seed):
    """Against all choices of one layer's heads, another's neurons, and layers."""
    groups, costs = TRANSFORMER
    chosen = [next(g for g in groups if g.kind == kind) for kind in ("heads", "feed_forward", "layers")]
    scores = scores_of(chosen, seed)
    choice = choose(chosen, scores, costs, ranking="per_cost", measure="macs", target=0.75, round_to=8)
    best = math.inf
    for widths in itertools.product(*(legal_widths(g, 8) for g in chosen)):
        kept = {g.name: g.pick(scores[g.name], width) for g, width in zip(chosen, widths, strict=True)}
        if costs.cost(kept).macs / choice.before.macs <= 0.75:
            best = min(best, lost(chosen, scores, kept))
    largest = max(float(scores[g.name].max()) for g in chosen if g.kind != "layers")
    assert best <= lost(chosen, scores, choice.kept) <= best + 8 * largest


def test_by_cost_a_layer_does_not_leave_where_little_is_missing():
    groups, costs = TRANSFORMER
    price = {
        "heads": 5.0,
        "feed_forward": 1.0,
        "hidden": 99.0,
        "layers": 20.0,
    }  # layers are the cheapest for their size
    scores = {g.name: torch.full((g.width,), price[g.kind], dtype=torch.float64) for g in groups}
    layers = next(g for g in groups if g.kind == "layers")
    choice = choose(groups, scores, costs, ranking="per_cost", measure="macs", target=0.99, round_to=1)
    assert len(choice.kept[layers.name]) == 3
    assert 0.98 < choice.reached <= 0.99


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


def test_choosing_for_a_resnet_asks_for_few_costs(monkeypatch):
    groups, costs = FOUND["resnet_basic"], COSTS["resnet_basic"]
    scores = magnitude(build("resnet_basic"), groups).scores
    asked = []
    ask = costs.cost
    monkeypatch.setattr(type(costs), "cost", lambda _, kept: asked.append(0) or ask(kept))
    choose(groups, scores, costs, ranking="global", measure="macs", target=0.5)
    assert 1 < len(asked) < 6 * len(groups)


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
