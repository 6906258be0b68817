import pytest
import torch
from surgery_zoo import build, images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compress.surgery.cost import cost_model, model_cost


def test_costs_agree_with_torch(network):
    batch = images(4)
    with FlopCounterMode(display=False) as counter:
        network(batch)
    cost = model_cost(network, (batch,))
    assert cost.macs == counter.get_total_flops() // 2 // 4
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_layers_account_for_every_mac(network):
    assert cost_model(network, (), (images(),)).other_macs == 0


def test_known_costs():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1, bias=True), nn.Conv2d(8, 8, 3, groups=8, stride=2))
    cost = model_cost(model, (torch.zeros(2, 3, 9, 9),))
    assert cost.parameters == 8 * 27 + 8 + 8 * 9 + 8
    assert cost.macs == 81 * 8 * 27 + 16 * 8 * 9


def test_products_outside_layers_are_counted_apart():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(256, 16)

        def forward(self, x):
            x = self.project(x.flatten(2))
            return x @ x.transpose(1, 2)

    model = cost_model(Attention(), (), (images(2),))
    assert model.other_macs == 3 * 3 * 16
    assert model.cost({}).macs == 3 * 256 * 16 + 3 * 3 * 16


def test_a_shared_parameter_is_counted_once_and_used_twice():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    cost = model_cost(model, (torch.zeros(1, 8),))
    assert cost.parameters == 64 + 16
    assert cost.macs == 128


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_mode(training):
    model = build("plain").train(training)
    statistics = model[0][1].running_mean.clone()
    model_cost(model, (images(),))
    assert model.training is training
    assert torch.equal(model[0][1].running_mean, statistics)
