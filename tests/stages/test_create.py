"""Create: what is built outside compress is known by its content, never by where it lies."""

import numpy as np
import pytest
import torch

from compress.data import Data, Samples
from compress.errors import EnvironmentFault, ModelError
from compress.models import Timm, TorchVision, UserFile, load_model
from compress.stages.create import Create
from compress.stages.train import Train

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


def test_a_model_of_torchvision_is_built_by_name_for_the_classes_or_refused(make_context):
    """torchvision is an extra: without it that is told, with it an architecture is built, trained and stored."""
    grey = make_context()
    colours = Data(
        roles={role: Samples(np.repeat(of.array, 3, axis=1), of.labels) for role, of in grey.data.roles.items()},
        classes=grey.data.classes,
    )
    context = make_context(data=colours)
    model = TorchVision(name="shufflenet_v2_x0_5")
    try:
        import torchvision  # noqa: F401 # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError):
        with pytest.raises(EnvironmentFault, match="torchvision does not import"):
            model.build(context.task.signature, code=())
        return
    made = Create(model=model).run(None, *context)
    trained = Train(epochs=1, batch_size=128).run(made, *context)
    images = torch.rand(2, 3, 8, 8)
    assert load_model(trained.path)(images).shape == (2, 10)
    with pytest.raises(ModelError, match="three channels"):
        model.build(grey.task.signature, code=())
    with pytest.raises(ModelError, match="cannot build"):
        TorchVision(name="resnet17").build(context.task.signature, code=())
    inception = TorchVision(name="googlenet", arguments={"aux_logits": False, "init_weights": False})
    assert inception.build(context.task.signature, code=()).eval()(torch.rand(2, 3, 64, 64)).shape == (2, 10)
