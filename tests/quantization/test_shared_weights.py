"""One weight with several readers: each is right in ONNX Runtime, or float with a told reason."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.export.graph import to_onnx
from compress.export.session import Session
from compress.quantization.calibration import minmax
from compress.quantization.kernels import check_kernels, float_copies, inspect_kernels, weight_bytes_fraction
from compress.quantization.sensitivity import Quantizer
from compress.quantization.writer import plan_without_training, write_quantized
from compress.tasks.signature import Signature, Tensor

WORDS = 256


class TwoScales(nn.Module):
    """One filter at two input scales; a dead channel's bias lets the second scale of its weight differ."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.filter, self.head = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 10)
        with torch.no_grad():
            self.filter.weight[3] = 1e-13
            self.filter.bias[3] = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.filter(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.filter(x * 30)).mean((2, 3)))


class TwoBiases(nn.Module):
    """Two layers with one weight and a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.left, self.right = nn.Linear(32, 32), nn.Linear(32, 32)
        self.right.weight = self.left.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.left(torch.relu(self.stem(x.flatten(1)))))
        return self.head(torch.relu(self.right(x * 20)))


class Tied(nn.Module):
    """A head that is the table of the embeddings, over the mean of a text or word by word."""

    def __init__(self, *, by_word: bool) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, 32), nn.Linear(32, WORDS)
        self.head.weight, self._by_word = self.embed.weight, by_word

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = torch.relu(self.mix(x if self._by_word else x.mean(1)))
        return self.head(x).mean(1) if self._by_word else self.head(x)


class Crossed(nn.Module):
    """A table whose rows are looked up, and whose columns are the outputs of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(WORDS, WORDS)), nn.Linear(WORDS, WORDS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(nn.functional.embedding(ids, self.table).mean(1) @ self.table))


IMAGE = ((Tensor(name="image", dtype="float32", shape=("batch", 1, 8, 8)),), 10)
TEXT = ((Tensor(name="ids", dtype="int64", shape=("batch", "length")),), WORDS)
MODELS = {
    "two scales": (TwoScales, IMAGE),
    "two biases": (TwoBiases, IMAGE),
    "tied": (lambda: Tied(by_word=False), TEXT),
    "tied by word": (lambda: Tied(by_word=True), TEXT),
    "crossed": (Crossed, TEXT),
}


@pytest.fixture(scope="module")
def case_of(images):
    """From a name to the float graph and a batch of inputs."""

    def make(name):
        build, (inputs, width) = MODELS[name]
        torch.manual_seed(0)
        batch = images[:128] if inputs[0].name == "image" else np.random.default_rng(0).integers(0, WORDS, (128, 9))
        outputs = (Tensor(name="logits", dtype="float32", shape=("batch", width)),)
        return to_onnx(build(), Signature(inputs=inputs, outputs=outputs), (torch.from_numpy(batch[:2]),)), batch

    return make


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_int8_decides_as_float_with_and_without_runtime_optimisation(case_of, name, mode):
    model, batch = case_of(name)
    plan = plan_without_training(model, lambda: [(batch,)], mode=mode, find=minmax)
    quantized = write_quantized(model, plan)
    reference = Session(model)(batch)[0]
    for optimize in (True, False):
        int8 = Session(quantized, optimize=optimize)(batch)[0]
        assert np.abs(int8 - reference).mean() < 0.05 * reference.std()
    report = inspect_kernels(model, quantized, plan)
    if name == "crossed":
        assert any("one weight along different axes" in why for why in report.float_layers.values())
    elif mode == "static" or name != "two scales":
        check_kernels(report, min_int8_macs_fraction=1.0)
        assert float_copies(model, quantized, plan) == {}


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_tied_table_is_stored_once(case_of, mode, reduce_range):
    model, batch = case_of("tied")
    plan = plan_without_training(model, lambda: [(batch,)], mode=mode, find=minmax)
    plan = plan.model_copy(update={"reduce_range": reduce_range})
    assert weight_bytes_fraction(model, write_quantized(model, plan), plan) == 0.25


def test_layers_that_share_a_weight_are_ranked_as_one_and_stay_in_float_together(case_of):
    model, batch = case_of("two biases")
    quantizer = Quantizer(model, mode="static", keep_float={})
    shared = [name for name in quantizer.layers if name not in {"stem", "head"}]
    assert len(quantizer.layers) == 3
    ranges = {value: (-1.0, 1.0) for value in quantizer.values}
    alone = [entry.at.path for entry in quantizer.alone(ranges, shared[0]).weights]
    assert len(alone) == 2
    kept = quantizer.plan(ranges, {shared[0]: "asked"}).kept_float
    assert set(kept) == set(alone)
    assert f"shares its weight with {shared[0]}, which is in float" in kept.values()


def test_a_use_that_onnx_runtime_left_in_float_is_not_counted_as_int8(case_of):
    model, batch = case_of("two biases")
    plan = plan_without_training(model, lambda: [(batch,)], mode="static", find=minmax)
    quantized = write_quantized(model, plan)
    names = [entry.at.path for entry in plan.weights if entry.at.path not in {"stem", "head"}]
    second = next(node for node in quantized.graph.node if node.name == names[1])
    pair = next(node for node in quantized.graph.node if second.input[0] in node.output)
    source = next(node for node in quantized.graph.node if pair.input[0] in node.output)
    second.input[0] = source.input[0]  # without the pair nothing fuses
    report = inspect_kernels(model, quantized, plan)
    assert report.float_layers == {names[1]: "ONNX Runtime left it in float"}
    assert report.int8_macs_fraction < 0.9
