"""Models on disk: reshaped modules come back as they were, without pickle."""

import json

import pytest
import torch
from torch import nn

from compress.errors import ArtifactError, InputError, ModelError
from compress.models import Cnn, Mlp, MobileNet, ResNet, UserFile, load_model, save_model
from compress.models.layer_lists import keep_layers
from compress.tasks import Signature, Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 3, 16, 16)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 5)),),
)
FAMILIES = [Cnn(), Mlp(), MobileNet(), ResNet()]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_saved_model_computes_the_same_bits(family, tmp_path):
    module = family.build(SIGNATURE, code=()).eval()
    save_model(module, tmp_path, model=family, signature=SIGNATURE)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(module(x), load_model(tmp_path)(x))


def test_reshaped_layers_are_restored(tmp_path):
    family = Cnn(widths=(8, 16), strides=(1, 2))
    module = family.build(SIGNATURE, code=()).eval()
    first, norm, second = (module.get_submodule(f"layers.{index}") for index in (0, 1, 3))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(second, nn.Conv2d)
    keep = torch.tensor([0, 2, 5])
    first.weight, first.out_channels = nn.Parameter(first.weight[keep]), 3
    norm.weight, norm.bias = nn.Parameter(norm.weight[keep]), nn.Parameter(norm.bias[keep])
    norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
    norm.num_features = 3
    second.weight, second.in_channels = nn.Parameter(second.weight[:, keep]), 3
    save_model(module, tmp_path, model=family, signature=SIGNATURE)
    loaded = load_model(tmp_path)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(module(x), loaded(x))
    assert loaded.get_submodule("layers.0").out_channels == 3
    assert loaded.get_submodule("layers.1").num_features == 3
    assert type(loaded.get_submodule("layers.0")) is nn.Conv2d


def test_loading_leaves_the_global_generator_alone(tmp_path):
    save_model(Cnn().build(SIGNATURE, code=()), tmp_path, model=Cnn(), signature=SIGNATURE)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_model(tmp_path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "missing"])
def test_damaged_weights_are_refused(tmp_path, damage):
    save_model(Cnn().build(SIGNATURE, code=()), tmp_path, model=Cnn(), signature=SIGNATURE)
    path = tmp_path / "model.safetensors"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 64)
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match="stored weights cannot be read"):
        load_model(tmp_path)


FACTORY = """
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads, self.dim = 4, 8
        self.query = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.query(x).sum(-1, keepdim=True) * self.num_heads * self.scale.sum() + x

class Stack(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(count)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

def build(count=3):
    return Stack(count)
"""


@pytest.fixture
def stack(tmp_path):
    (tmp_path / "stack.py").write_text(FACTORY)
    return UserFile(path=tmp_path / "stack.py")


def test_a_shorter_list_of_layers_with_other_heads_and_parameters_comes_back(stack, tmp_path):
    module = stack.build(SIGNATURE, code=[stack.path]).eval()
    keep_layers(module, "layers", [0, 2])
    first, second = module.layers
    first.query = nn.Linear(8, 4)
    first.num_heads, first.dim = 2, 4
    second.scale = nn.Parameter(torch.rand(6))
    save_model(module, tmp_path, model=stack, signature=SIGNATURE)
    loaded = load_model(tmp_path, code=[stack.path])
    x = torch.randn(2, 8)
    assert torch.equal(loaded(x), module(x))
    assert [(layer.num_heads, layer.dim) for layer in loaded.layers] == [(2, 4), (4, 8)]


def test_a_list_of_layers_that_the_family_has_not_is_refused(stack, tmp_path):
    save_model(stack.build(SIGNATURE, code=[stack.path]), tmp_path, model=stack, signature=SIGNATURE)
    path = tmp_path / "structure.json"
    for lengths, message in (({"layers": 4}, "more layers than its family"), ({"blocks": 1}, "its family has not")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lengths": lengths}))
        with pytest.raises(ArtifactError, match=message):
            load_model(tmp_path, code=[stack.path])


def test_newer_structure_is_refused(tmp_path):
    save_model(Cnn().build(SIGNATURE, code=()), tmp_path, model=Cnn(), signature=SIGNATURE)
    path = tmp_path / "structure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ArtifactError, match="newer compress"):
        load_model(tmp_path)


def test_a_users_file_runs_only_when_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\ndef build(width): return nn.Sequential(nn.Flatten(), nn.Linear(768, width))\n"
    )
    family = UserFile(path=file, arguments={"width": 5})
    with pytest.raises(InputError, match="--code"):
        family.build(SIGNATURE, code=())
    assert family.build(SIGNATURE, code=(file,))(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    with pytest.raises(InputError, match="defines no 'missing'"):
        UserFile(path=file, factory="missing").build(SIGNATURE, code=(file,))


USERS_FILE = """
from torch import nn
class Net(nn.Sequential):
    def forward(self, image): return super().forward(image) * 1
def build(): return Net(nn.Flatten(), nn.Linear(768, 5))
"""


def test_a_stored_model_is_built_by_the_file_of_that_content_wherever_it_lies(tmp_path):
    (tmp_path / "project").mkdir()
    file, stored = tmp_path / "project" / "mine.py", tmp_path / "stored"
    stored.mkdir()
    file.write_text(USERS_FILE)
    family = UserFile(path=file)
    module = family.build(SIGNATURE, code=(file,)).eval()
    save_model(module, stored, model=family, signature=SIGNATURE)
    assert str(tmp_path) not in (stored / "structure.json").read_text()
    moved = (tmp_path / "project").rename(tmp_path / "moved") / "mine.py"
    other = tmp_path / "other.py"
    other.write_text("raise AssertionError('not the file that was asked for')")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_model(stored, code=(other, moved))(x), module(x))
    with pytest.raises(ModelError, match=r"add --code mine\.py"):
        load_model(stored)
    moved.write_text(USERS_FILE.replace("* 1", "* 2"))
    with pytest.raises(ModelError, match="unchanged since the model was made"):
        load_model(stored, code=(moved,))
