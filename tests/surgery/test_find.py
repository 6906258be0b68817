import copy
import re

import pytest
import torch
import torch.nn.functional as F
from surgery_zoo import Concatenate, Gated, Lambda, Residual, Scaled, build, conv, find_groups, head, images, randomise
from torch import nn

from compress.errors import ModelError
from compress.surgery import cut, layers, verify
from compress.surgery.cost import cost_model, model_cost
from compress.surgery.find import find

INPUTS = (images(),)


def found(*modules: nn.Module, protected: frozenset[str] = frozenset()):
    torch.manual_seed(0)
    return find_groups(randomise(nn.Sequential(*modules)), INPUTS, protected=protected)


def members(group) -> set[tuple[str, str]]:
    return {(member.path, member.side) for member in group.members}


def test_every_layer_that_produces_channels_is_in_a_group_unless_it_makes_the_output(network):
    produced = {
        member.path for group in find_groups(network, INPUTS) for member in group.members if member.side == "out"
    }
    producers = {path for path, module in network.named_modules() if isinstance(module, layers.PRODUCERS)}
    output = list(network.named_modules())[-1][0]
    assert producers - produced == {output}


def test_finding_leaves_the_model_as_it_was(network):
    network.train()
    frozen = next(network.parameters())
    frozen.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    find_groups(network, INPUTS)
    assert all(module.training for module in network.modules())
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in network.parameters() if parameter is not frozen)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_frozen_layer_is_found_and_a_layer_that_never_runs_is_left_alone():
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = build("plain"), nn.Linear(3, 7)

        def forward(self, x):
            return self.used(x)

    model = Partly().eval().requires_grad_(False)
    assert [group.name for group in find_groups(model, INPUTS)] == ["used.0.0", "used.2.0", "used.3.0"]


def test_a_residual_stream_is_one_group_and_the_inner_width_another():
    groups = {group.name: group for group in find_groups(build("resnet_basic"), INPUTS)}
    assert members(groups["1.body.0.0"]) == {("1.body.0.0", "out"), ("1.body.0.1", "out"), ("1.body.1.0", "in")}
    stream = {("0.0", "out"), ("1.body.1.0", "out"), ("1.body.0.0", "in"), ("2.body.0.0", "in"), ("2.shortcut.0", "in")}
    assert stream <= members(groups["0.0"])


def test_flattening_maps_a_channel_to_all_its_columns():
    group = find_groups(build("flattened"), INPUTS)[0]
    linear = next(member for member in group.members if member.path == "3")
    assert linear.of(torch.tensor([2]), group.width).tolist() == list(range(32, 48))


def test_concatenation_maps_a_channel_to_its_offset_even_before_flattening():
    groups = found(conv(3, 16), Concatenate(conv(16, 8), conv(16, 8)), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(256, 5))
    second = next(group for group in groups if group.name == "1.branches.1.0")
    linear = next(member for member in second.members if member.side == "in")
    assert linear.of(torch.tensor([0]), second.width).tolist() == list(range(128, 144))


def test_grouped_convolutions_narrow_all_their_blocks_alike():
    groups = {group.name: group for group in find_groups(build("resnext"), INPUTS)}
    assert groups["1.body.0.0"].unit == 4
    assert groups["0.0"].unit == 1
    kept = groups["1.body.0.0"].pick(torch.arange(16.0), 8)
    assert kept.tolist() == [2, 3, 6, 7, 10, 11, 14, 15]


def test_a_depthwise_convolution_with_a_multiplier_keeps_its_inputs():
    groups = found(conv(3, 8), conv(8, 16, groups=8), head(16))
    assert [(group.width, group.unit) for group in groups] == [(8, 8), (16, 8)]


def test_a_normalisation_group_leaves_whole():
    group = find_groups(build("group_norm"), INPUTS)[0]
    assert group.unit == 4
    assert group.pick(torch.arange(16.0), 8).tolist() == list(range(8, 16))


def test_the_halves_of_a_gated_unit_leave_together():
    group = find_groups(build("gated"), INPUTS)[0]
    assert group.unit == 2
    assert group.pick(torch.arange(32.0), 4).tolist() == [14, 15, 30, 31]


def test_a_module_that_runs_twice_is_one_member():
    shared = conv(16, 16)
    groups = found(conv(3, 16), shared, shared, head(16))
    assert [group.name for group in groups] == ["0.0"]
    assert {("1.0", "in"), ("1.0", "out")} <= members(groups[0])


def test_inputs_outputs_and_what_is_added_to_them_are_never_pruned():
    assert [group.name for group in found(Residual(nn.Conv2d(3, 3, 3, padding=1)), conv(3, 8), head(8))] == ["1.0"]

    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = conv(3, 16), conv(16, 8), head(8)

        def forward(self, x):
            features = self.stem(x)
            return {"features": features, "logits": self.head(self.body(features))}

    assert [group.name for group in find_groups(TwoOutputs().eval(), INPUTS)] == ["body.0"]


def test_protected_modules_and_containers_keep_their_channels():
    model = build("resnet_basic")
    names = {group.name for group in find_groups(model, INPUTS, protected=frozenset({"0.0", "2.body"}))}
    assert names == {"1.body.0.0", "3.body.0.0"}
    with pytest.raises(ModelError, match=r"2\.body"):
        find_groups(model, INPUTS, protected=frozenset({"2.bodi"}))


def test_structures_that_differ_only_in_size_are_isomorphic():
    groups = {group.name: group for group in find_groups(build("mobilenet"), INPUTS)}
    assert groups["1.body.0.0"].signature == groups["2.body.0.0"].signature
    assert groups["1.body.0.0"].signature != groups["1.body.2.reduce"].signature


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(16, 1, 1))

    def forward(self, x):
        return x * self.scale


def shuffle(x, columns=-1):
    return x.view(len(x), 2, columns, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def ones_first(x):
    return torch.cat([torch.ones_like(x[:, :1].detach()), x], dim=1)


STAYS = {
    "a buffer": (
        [conv(3, 16), Constant(), conv(16, 8), head(8)],
        "0.0",
        r"written out at model\.1 \(`return x \* self\.scale`\)",
    ),
    "a softmax over channels": (
        [conv(3, 16), Lambda(lambda x: x.softmax(1)), conv(16, 8), head(8)],
        "0.0",
        "SoftmaxBackward0",
    ),
    "a constant in a concatenation": ([conv(3, 16), Lambda(ones_first), conv(17, 8), head(8)], "0.0", "CatBackward0"),
    "a fixed slice": ([conv(3, 16), Lambda(lambda x: x[:, :10]), conv(10, 8), head(8)], "0.0", "SliceBackward0"),
    "one output per block": ([conv(3, 16), conv(16, 8, groups=8), head(8)], "0.0", "Conv2d, out side"),
    "a computed weight": (
        [conv(3, 8), nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 16, 3)), head(16)],
        "0.0",
        "Parametrized",
    ),
    "a product of channels": (
        [nn.Flatten(2), nn.Linear(256, 16), Lambda(lambda x: x @ x.mT), nn.Flatten(), nn.Linear(9, 5)],
        "1",
        "cannot map",
    ),
    "a channel shuffle with a number written out": (
        [conv(3, 16), Lambda(lambda x: shuffle(x, 8)), conv(16, 8), head(8)],
        "0.0",
        r"written out at model\.1 \(`return x\.view\(len\(x\), 2, columns",
    ),
}


@pytest.mark.parametrize("what", STAYS)
def test_what_is_not_understood_stays_by_name_with_the_reason(what):
    modules, name, reason = STAYS[what]
    torch.manual_seed(0)
    model = randomise(nn.Sequential(*modules)).eval()
    left = {item.name: item for item in find(model, INPUTS).left}
    assert re.search(reason, left[name].reason)
    assert str(left[name]).startswith(f"model.{name} keeps its {left[name].width} channels: ")
    without = find(model, INPUTS, protected=frozenset(left))
    assert not without.left
    assert without.groups or what not in ("a buffer", "a fixed slice")


CUT = {
    "a bare parameter": [conv(3, 16), Scaled(16), conv(16, 8), head(8)],
    "a channel shuffle": [conv(3, 16), Lambda(shuffle), conv(16, 8), head(8)],
    "a pixel shuffle": [conv(3, 16), nn.PixelShuffle(2), conv(4, 8), head(8)],
    "layer normalisation": [nn.Flatten(), nn.Linear(768, 16), nn.LayerNorm(16), nn.Linear(16, 5)],
    "one normalisation group": [conv(3, 16), nn.GroupNorm(1, 16), conv(16, 8), head(8)],
    "normalisation of each sample": [conv(3, 16), nn.InstanceNorm2d(16, affine=True), conv(16, 8), head(8)],
    "one slope for all": [conv(3, 16), nn.PReLU(), conv(16, 8), head(8)],
    "a linear unit with a gate": [conv(3, 16), nn.GLU(dim=1), conv(8, 8), head(8)],
    "two gates in a row": [conv(3, 32)[:2], Gated(), Gated(), head(8)],
    "an input in a concatenation": [Concatenate(conv(3, 8), keep_input=True), head(11)],
}


@pytest.mark.parametrize("what", CUT)
def test_what_is_understood_is_cut_everywhere_and_costs_what_was_predicted(what):
    torch.manual_seed(0)
    model = randomise(nn.Sequential(*CUT[what])).eval()
    groups = find_groups(model, INPUTS)
    assert groups
    kept = {group.name: group.pick(torch.arange(group.width) % 5, group.width // 2) for group in groups}
    pruned = copy.deepcopy(model)
    cut.apply(pruned, groups, kept)
    assert verify.against_masked(model, pruned, groups, kept, INPUTS) <= 1e-9
    predicted = cost_model(model, groups, INPUTS).cost(kept)
    assert predicted == model_cost(pruned, INPUTS)
    assert predicted.parameters == sum(parameter.numel() for parameter in pruned.parameters())


def test_the_rows_of_a_channel_shuffle_leave_together():
    group = found(*CUT["a channel shuffle"])[0]
    assert (group.unit, group.pick(torch.arange(16.0), 4).tolist()) == (2, [6, 7, 14, 15])


def test_a_branch_of_training_alone_is_cut_along():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.aux, self.head = conv(3, 16), head(16), head(16)

        def forward(self, x):
            x = self.stem(x)
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    model = Auxiliary().eval()
    assert {("aux.2", "in"), ("head.2", "in")} <= members(find_groups(model, INPUTS)[0])
    assert not model.training


class Trained(nn.Module):
    """A second head in training mode, behind dropout as a module and as a function, and a drop of whole samples."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change, self.stem, self.aux, self.head = change, conv(3, 16), head(16), head(16)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.stem(x)
        if not self.training:
            return self.head(x)
        dropped = F.dropout2d(self.drop(x), 0.5, training=True) * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype) > 0.5)
        return self.head(x), self.aux(self.change(dropped))


def test_a_branch_of_training_alone_is_proved_by_its_values():
    torch.manual_seed(0)
    assert [group.name for group in find_groups(randomise(Trained(lambda x: 2 * x)).eval(), INPUTS)] == ["stem.0"]
    turned = find(randomise(Trained(lambda x: x.flip(1))).eval(), INPUTS)  # of the same shape
    assert not turned.groups
    assert turned.left[0].reason.startswith("in training mode, an operation on them is not understood")


def test_whatever_a_forward_raises_in_training_mode_says_nothing_of_what_is_cut():
    class NeedsTargets(nn.Sequential):
        def forward(self, x, targets=None):
            if self.training:
                raise KeyError("targets")
            return super().forward(x)

    assert len(find_groups(NeedsTargets(conv(3, 16), conv(16, 8), head(8)).eval(), INPUTS)) == 2


def test_a_model_that_does_not_run_is_refused_with_its_own_line():
    class Broken(nn.Sequential):
        def forward(self, x):
            return super().forward(x)[self.missing]

    with pytest.raises(ModelError, match=r"(?s)does not run.*`return super\(\)\.forward\(x\)\[self\.missing\]`"):
        find(Broken(conv(3, 16), head(16)).eval(), INPUTS)


def test_the_trial_needs_no_helpful_weights():
    """A zero weight would make every index map look right."""
    model = nn.Sequential(conv(3, 16), Lambda(lambda x: x.softmax(1)), conv(16, 8), head(8)).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert [item.name for item in find(model, (torch.zeros(1, 3, 16, 16),)).left] == ["0.0"]


def test_functions_between_layers_are_followed():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(8, 5)

        def forward(self, x):
            x = F.silu(F.max_pool2d(F.pad(self.first(x), (1, 1, 1, 1)), 2))
            return self.last(F.gelu(self.second(x)).mean((2, 3)))

    assert [group.name for group in find_groups(Functional().eval(), INPUTS)] == ["first", "second"]
