"""Create: what is built outside compress is known by its content, never by where it lies."""

import pytest

from compress.errors import EnvironmentFault
from compress.models import Timm, UserFile
from compress.stages.create import Create

MODEL = """
import torch
from torch import nn
class Net(nn.Sequential):
    def forward(self, image): return super().forward(image) * 1
def build():
    torch.manual_seed(0)
    return Net(nn.Flatten(), nn.Linear(64, 10))
"""


def test_an_edited_forward_gives_another_artifact_although_the_weights_are_the_same(make_context, tmp_path):
    file = tmp_path / "mine.py"
    made = []
    for text in (MODEL, MODEL.replace("* 1", "* 2")):
        file.write_text(text)
        made.append(Create(model=UserFile(path=file)).run(None, *make_context(code=(file,))))
    before, after = made
    assert (before.path / "model.safetensors").read_bytes() == (after.path / "model.safetensors").read_bytes()
    assert before.key != after.key
    assert before.digest != after.digest


def test_a_project_that_moved_finds_its_artifacts(make_context, tmp_path):
    made = []
    for place in ("here", "there"):
        file = tmp_path / place / "mine.py"
        file.parent.mkdir()
        file.write_text(MODEL)
        stage, context = Create(model=UserFile(path=file)), make_context(code=(file,))
        made.append((stage.key(None, *context), stage.run(None, *context).digest))
    assert made[0] == made[1]


def test_a_model_whose_library_is_missing_is_told(make_context):
    """timm is an extra, which the tests' environment does not have."""
    with pytest.raises(EnvironmentFault, match="timm"):
        Create(model=Timm(name="resnet18")).key(None, *make_context())
    with pytest.raises(EnvironmentFault, match="timm does not import"):
        Timm(name="resnet18").build(make_context().task.signature, code=())
