"""Weights that other tensors compute: copied, folded, stored and loaded as what evaluation mode computes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from compress.models.fold import computed_weights, duplicate, fold, folded


def network(norm) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Flatten(), norm(nn.Linear(8 * 36, 5)))
    model(torch.randn(2, 3, 8, 8)).sum().backward()  # the older norms keep a tensor with a history
    return model.eval()


NORMS = [nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", NORMS)
def test_a_folded_copy_computes_the_same_with_plain_weights_and_the_given_one_is_untouched(norm):
    model, images = network(norm), torch.randn(2, 3, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted, plain = model(images), folded(model)
    torch.testing.assert_close(plain(images), wanted)
    assert [name for name, _ in plain.named_parameters()] == ["0.bias", "0.weight", "3.bias", "3.weight"]
    assert not list(computed_weights(plain))
    assert [path for path, _ in computed_weights(model)] == ["0", "3"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model(images), wanted)
    plain.load_state_dict(copy.deepcopy(plain).state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", NORMS)
def test_a_duplicate_still_computes_its_weights(norm):
    model, images = network(norm), torch.randn(2, 3, 8, 8)
    twin = duplicate(model)
    torch.testing.assert_close(twin(images), model(images))
    assert list(computed_weights(twin)) == list(computed_weights(model))
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


def test_only_the_named_weights_are_folded_and_the_mode_stays():
    model = network(parametrizations.weight_norm).train()
    assert fold(model, only=frozenset({"3.weight"})) == ("3.weight",)
    assert [path for path, _ in computed_weights(model)] == ["0"]
    assert model.training
    assert model[3].training


def test_a_module_without_computed_weights_is_returned_as_it_is():
    model = nn.Linear(2, 2)
    assert folded(model) is model
