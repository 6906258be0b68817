"""Checkpoints as training scripts save them; what is not clear is refused by name."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from compress.errors import ModelError
from compress.models import load_weights


class Exploit:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickled_weights_are_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save({"model": Exploit()}, path)
    with pytest.raises(ModelError, match="cannot be read safely"):
        load_weights(nn.Linear(1, 1), path)
    path.write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(ModelError, match="cannot be read safely"):
        load_weights(nn.Linear(1, 1), path)
    assert "code ran" not in capsys.readouterr().out


def test_state_dict_is_loaded_and_misfits_are_listed(tmp_path):
    source, path = nn.Linear(3, 2), tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    target = nn.Linear(3, 2)
    load_weights(target, path)
    assert torch.equal(target.weight, source.weight)
    with pytest.raises(ModelError, match=r"weight: expected \(2, 4\), got \(2, 3\)"):
        load_weights(nn.Linear(4, 2), path)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: {"epoch": 3, "state_dict": model.state_dict(), "optimizer": {"state": {}, "param_groups": []}},
        lambda model: {"model": nn.DataParallel(model).state_dict(), "args": {"lr": 0.1}},
        lambda model: {f"model._orig_mod.{name}": value for name, value in model.state_dict().items()},
        lambda model: AveragedModel(model).state_dict(),
        lambda model: {"ema": model.half().state_dict(), "best": torch.tensor(0.5)},
        lambda model: {
            "model": {"state_dict": nn.DataParallel(model).half().state_dict(), "name": "net"},
            "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4, 3)}}, "param_groups": []},
        },
    ],
    ids=["state_dict", "DataParallel", "compiled in Lightning", "averaged", "half precision", "two deep"],
)
def test_checkpoints_of_training_scripts_are_read(tmp_path, wrap):
    path, target = tmp_path / "checkpoint.pt", net(1)
    torch.save(wrap(net()), path)
    load_weights(target, path)
    for name, value in net().state_dict().items():
        loaded = target.state_dict()[name]
        assert loaded.dtype == value.dtype
        torch.testing.assert_close(loaded, value, rtol=1e-3, atol=1e-3)


def test_two_sets_of_weights_that_both_fit_are_refused(tmp_path):
    torch.save({"model": net(0).state_dict(), "ema": net(1).state_dict()}, tmp_path / "both.pt")
    with pytest.raises(
        ModelError, match=r"(?s)several sets of weights.*got: +model, ema.*torch\.load\('both\.pt'\)\['ema'\]"
    ):
        load_weights(net(2), tmp_path / "both.pt")


def test_of_several_sets_the_one_that_fits_is_taken(tmp_path):
    torch.save({"critic": nn.Linear(2, 1).state_dict(), "actor": net(0).state_dict()}, tmp_path / "two.pt")
    target = net(1)
    load_weights(target, tmp_path / "two.pt")
    assert torch.equal(target[0].weight, net(0)[0].weight)


def test_another_head_is_refused_with_the_names_that_differ(tmp_path):
    state = {f"module.{name}": value for name, value in net().state_dict().items() if not name.startswith("2.")}
    torch.save({"state_dict": state | {"module.head.weight": torch.zeros(7, 4)}}, tmp_path / "other.pt")
    with pytest.raises(
        ModelError, match=r"(?s)do not fit.*got: +missing 2\.weight.*unexpected head\.weight \(7, 4\).*state_dict"
    ):
        load_weights(net(), tmp_path / "other.pt")


def test_integers_are_no_weights(tmp_path):
    save_file({"weight": torch.zeros(2, 3, dtype=torch.int8), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"weight: expected torch\.float32, got torch\.int8"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")


def test_what_holds_no_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 1, "loss": [0.5]}, tmp_path / "log.pt")
    with pytest.raises(ModelError, match="(?s)no state dict.*epoch, loss"):
        load_weights(net(), tmp_path / "log.pt")


def test_weights_that_are_no_numbers_are_refused_by_name_and_masks_of_infinity_are_not(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    save_file(model.state_dict(), tmp_path / "good.safetensors")
    load_weights(model, tmp_path / "good.safetensors")
    save_file(model.state_dict() | {"bias": torch.tensor([0, torch.nan])}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="NaN in bias"):
        load_weights(model, tmp_path / "bad.safetensors")
