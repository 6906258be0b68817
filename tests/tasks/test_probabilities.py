"""Outputs that went through softmax are told from logits exactly, with the line that does it."""

import pytest
import torch
from torch import nn

from compress.config.user_code import run_user_file
from compress.errors import ModelError
from compress.functional import distill
from compress.tasks.probabilities import are_log_probabilities, are_probabilities, refuse_probabilities

MODEL = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.Softmax(dim=0)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.head(x)
        return x.softmax(dim=1)
"""


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_probabilities_are_told_from_logits(classes):
    logits = 3 * torch.randn(64, classes, generator=torch.Generator().manual_seed(0))
    assert are_probabilities(logits.softmax(1))
    assert are_log_probabilities(logits.log_softmax(1))
    assert not are_probabilities(logits)
    assert not are_log_probabilities(logits)
    assert not are_probabilities(logits.sigmoid())
    assert not are_probabilities(logits.relu())
    assert not are_log_probabilities(-logits.abs())
    assert not are_probabilities(torch.zeros(64, classes))


def test_the_line_of_the_users_that_applies_it_is_told(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    net = run_user_file(path, code=[path]).Net()
    with pytest.raises(ModelError) as caught:
        refuse_probabilities(net(torch.randn(5, 4)), net, where="model")
    assert f"return the logits: {path}:12: return x.softmax(dim=1)" in str(caught.value)
    refuse_probabilities(net.head(torch.randn(5, 4)), net, where="model")


def test_a_layer_of_torch_is_told_by_its_name():
    net = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
    with pytest.raises(ModelError, match=r"(?s)went through log-softmax.*leave out the layer 1"):
        refuse_probabilities(net(torch.randn(5, 4)), net, where="model")


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_distill_without_a_pipeline_refuses_them(role):
    plain, ended = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    student, teacher = (ended, plain) if role == "student" else (plain, ended)
    batches = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
    with pytest.raises(ModelError, match=f"(?s)went through softmax.*the {role}"):
        distill(student, teacher, batches, epochs=1, quiet=True)
