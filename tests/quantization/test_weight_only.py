"""Weights of few bits: what MatMulNBits computes of them, in the runtime, and what a bundle ships."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.export.graph import to_onnx
from compress.export.session import Session
from compress.quantization.weight_only import BLOCK, has_products, round_blocks, write_weight_only
from compress.tasks.signature import Signature, Tensor


class Tied(nn.Module):
    """A table that is looked up and multiplied with, and layers with and without a bias."""

    def __init__(self):
        super().__init__()
        self.table, self.inner, self.outer = nn.Embedding(96, 40), nn.Linear(40, 72), nn.Linear(72, 40, bias=False)

    def forward(self, ids):
        hidden = self.table(ids)
        return (hidden + self.outer(self.inner(hidden).relu())) @ self.table.weight.T


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    signature = Signature(
        inputs=(Tensor(name="ids", dtype="int64", shape=("batch", "length")),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", "length", 96)),),
    )
    return to_onnx(Tied().eval(), signature, (torch.ones(2, 3, dtype=torch.int64),))


def restored(weight: np.ndarray, bits: int) -> np.ndarray:
    """What a weight [K, N] is after rounding: (integer - zero) * scale, block by block, unpacked by hand."""
    packed, scales, zeros = round_blocks(weight, bits=bits)
    columns, blocks = packed.shape[:2]
    if bits == 4:
        packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(columns, blocks, BLOCK)
        zeros = np.stack([zeros & 15, zeros >> 4], axis=-1)
    zeros = zeros.reshape(columns, -1)[:, :blocks]
    values = (packed.astype(np.float32) - zeros[..., None]) * scales.reshape(columns, blocks)[..., None]
    return values.reshape(columns, -1)[:, : len(weight)].T


@pytest.mark.parametrize(("bits", "steps"), [(4, 15), (8, 255)])
def test_a_weight_is_rounded_to_the_nearest_of_its_blocks_steps(bits, steps):
    weight = np.random.default_rng(0).standard_normal((72, 24)).astype(np.float32)
    found = restored(weight, bits)
    for start in range(0, len(weight), BLOCK):
        block = weight[start : start + BLOCK]
        step = (np.maximum(block.max(axis=0), 0) - np.minimum(block.min(axis=0), 0)) / steps
        assert (np.abs(found[start : start + BLOCK] - block) <= 1.01 * step).all()


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.02), (4, 0.25)])
def test_the_runtime_multiplies_with_them_and_the_file_holds_nothing_in_float(graph, bits, tolerance):
    made = write_weight_only(graph, bits=bits)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("MatMulNBits") == 3
    assert not {"MatMul", "Gemm"} & set(kinds)
    floats = [tensor for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(tensor.dims)) for tensor in floats) < 96 * 40 // 4
    ids = np.random.default_rng(0).integers(0, 96, (5, 7))
    (expected,), (found,) = Session(graph)(ids), Session(made)(ids)
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_gemm_with_its_bias_is_what_the_rounded_weights_give(bits):
    torch.manual_seed(0)
    signature = Signature(
        inputs=(Tensor(name="x", dtype="float32", shape=("batch", 72)),),
        outputs=(Tensor(name="y", dtype="float32", shape=("batch", 24)),),
    )
    layer = nn.Linear(72, 24).eval()
    graph = to_onnx(layer, signature, (torch.ones(2, 72),))
    assert [node.op_type for node in graph.graph.node] == ["Gemm"]
    made = write_weight_only(graph, bits=bits)
    assert [node.op_type for node in made.graph.node] == ["MatMulNBits", "Add"]
    x = np.random.default_rng(0).standard_normal((5, 72)).astype(np.float32)
    weight = layer.weight.detach().numpy().T
    expected = x @ restored(np.ascontiguousarray(weight), bits) + layer.bias.detach().numpy()
    (found,) = Session(made)(x)
    # What is left are activations of 8 bits: half a step of each, on 72 weights.
    assert np.abs(found - expected).max() < 72 * np.abs(x).max() / 254 * np.abs(weight).max()
    assert np.abs(found - expected).max() < np.abs(x @ weight).max() / 40


def test_what_has_no_products_is_told(graph):
    assert has_products(graph)
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    layers = [node for node in bare.graph.node if node.op_type not in ("Gemm", "MatMul")]
    del bare.graph.node[:]
    bare.graph.node.extend(layers)
    assert not has_products(bare)
