"""Texts are measured at their own lengths, in the shares in which the samples have them."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from compress.benchmark.process import Worker
from compress.benchmark.runtimes.interface import Load
from compress.benchmark.runtimes.worker import MAX_RAGGED_BATCHES, Model, batches


def save_texts(path: Path, lengths: list[int], *, padded: int, left: bool = False) -> Path:
    """Samples whose tokens are the sample's number, and 0 where padded."""
    places = np.arange(padded)
    if left:
        places = places[::-1]
    mask = (places < np.array(lengths)[:, None]).astype(np.int64)
    ids = mask * np.arange(1, len(lengths) + 1)[:, None]
    np.savez(path, input_ids=ids, attention_mask=mask, weight=np.ones((len(lengths), 3), np.float32))
    return path


def save_sum(path: Path) -> Path:
    """The sum of a text's token numbers; tokens that are cut away are missing in it."""
    shapes = {"input_ids": ["n", "length"], "attention_mask": ["n", "length"], "weight": ["n", 3]}
    kinds = {"weight": onnx.TensorProto.FLOAT}
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["real"]),
        helper.make_node("ReduceSum", ["real"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [
            helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.INT64), shape)
            for name, shape in shapes.items()
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [])],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def request(runtime: str, model: Path, inputs: Path, *, batch_size: int) -> Load:
    return Load(
        runtime=runtime, model=str(model), inputs=str(inputs), batch_size=batch_size, threads=1,
        first_core=None, seed=0, strict=False, package_root="", code=[],
    )  # fmt: skip


def test_a_batch_is_cut_to_its_longest_text_and_no_token_is_lost(tmp_path: Path):
    lengths = [3, 7, 1, 5, 2]
    inputs = save_texts(tmp_path / "texts.npz", lengths, padded=9)
    single = batches(inputs, batch_size=1)
    assert [batch["input_ids"].shape for batch in single] == [(1, length) for length in lengths]
    assert [batch["input_ids"].sum() for batch in single] == [
        number * length for number, length in enumerate(lengths, 1)
    ]
    assert all(batch["weight"].shape == (1, 3) for batch in single)
    assert all(array.flags.c_contiguous for batch in single for array in batch.values())
    pairs = batches(inputs, batch_size=2)  # 3 and 7, 1 and 5, 2 and around the end 3
    assert [batch["attention_mask"].shape for batch in pairs] == [(2, 7), (2, 5), (2, 3)]


def test_lengths_that_are_given_count_more_than_the_mask(tmp_path: Path):
    rows, mask = np.arange(12).reshape(3, 4), np.ones((3, 4), np.int64)
    np.savez(tmp_path / "given.npz", ids=rows, attention_mask=mask, __lengths__=np.array([2, 3, 0]))
    found = batches(tmp_path / "given.npz", batch_size=1)
    assert [batch["ids"].tolist() for batch in found] == [[[0, 1]], [[4, 5, 6]], [[8]]]
    assert all(set(batch) == {"ids", "attention_mask"} for batch in found)


def test_samples_without_a_mask_keep_their_shape(tmp_path: Path):
    np.savez(tmp_path / "images.npz", image=np.zeros((3, 1, 8, 8), np.float32))
    assert [batch["image"].shape for batch in batches(tmp_path / "images.npz", batch_size=2)] == [(2, 1, 8, 8)] * 2


def test_padding_on_the_left_is_not_mistaken_for_tokens(tmp_path: Path):
    inputs = save_texts(tmp_path / "texts.npz", [3, 5], padded=9, left=True)
    assert [batch["input_ids"].shape for batch in batches(inputs, batch_size=1)] == [(1, 9), (1, 9)]


def test_a_text_of_padding_alone_keeps_one_place(tmp_path: Path):
    inputs = save_texts(tmp_path / "texts.npz", [0], padded=4)
    assert batches(inputs, batch_size=1)[0]["input_ids"].shape == (1, 1)


def test_few_batches_stand_for_the_lengths_of_all_samples(tmp_path: Path):
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(2.5, 0.7, 256).astype(int), 1, 128).tolist()
    found = batches(save_texts(tmp_path / "texts.npz", lengths, padded=128), batch_size=1)
    kept = [batch["input_ids"].shape[1] for batch in found]
    assert len(kept) == MAX_RAGGED_BATCHES
    expected = np.quantile(lengths, (np.arange(MAX_RAGGED_BATCHES) + 0.5) / MAX_RAGGED_BATCHES, method="inverted_cdf")
    np.testing.assert_allclose(sorted(kept), expected, atol=1)
    assert kept != sorted(kept)  # the order in which the samples came, not of length


@pytest.mark.parametrize("runtime", ["ort-cpu", "torch-cpu"])
def test_a_block_runs_every_length_equally_often(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    class Sum(torch.nn.Module):
        def forward(self, input_ids, attention_mask, weight):
            return (input_ids * attention_mask).sum()

    # Both would hold for the rest of this process.
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda count: None)
    monkeypatch.setattr(torch, "set_grad_enabled", lambda *, mode: None)
    monkeypatch.setattr("compress.models.load_model", lambda path, code: Sum())
    lengths = [3, 7, 1, 5, 2]
    inputs = save_texts(tmp_path / "texts.npz", lengths, padded=9)
    model = Model(request(runtime, save_sum(tmp_path / "sum.onnx"), inputs, batch_size=1), place=Path())
    seen, run = Counter(), model._loaded.run

    def counted(feed):
        result = run(feed)
        length = (feed if runtime == "ort-cpu" else feed[1])["input_ids"].shape[1]
        seen[length, int(model._loaded.outputs(result)[0])] += 1

    monkeypatch.setattr(model._loaded, "run", counted)
    for _ in range(3):
        times_ns, _ = model.block(block_ms=0.2, calls_per_query=1, arrivals_per_s=None, compute=False)
        assert len(times_ns) % len(lengths) == 0
    assert set(seen) == {(length, number * length) for number, length in enumerate(lengths, 1)}
    assert len(set(seen.values())) == 1


def test_texts_of_one_length_need_no_whole_turn(tmp_path: Path):
    inputs = save_texts(tmp_path / "texts.npz", [4, 4, 4], padded=9)
    with Worker() as worker:
        worker.load(runtime="ort-cpu", model=save_sum(tmp_path / "sum.onnx"), inputs=inputs)
        assert len(worker.block(block_ms=0).times_ns) == 1
