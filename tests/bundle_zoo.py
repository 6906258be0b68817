"""Bundles made on the spot, of two tiny models: one reads two words, one two pixels."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compress.export.bundle import write_bundle
from compress.export.deployable import Deployable
from compress.export.metadata import Lineage, Metadata
from compress.quantization.calibration import minmax
from compress.quantization.writer import plan_without_training, write_quantized
from compress.tasks.signature import Signature, Tensor

SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
WORDS = {"type": "WordLevel", "vocab": {"x": 0, "bad": 1, "good": 7}, "unk_token": "x"}


def model(name: str, dtype: int, shape: list[str | int], operator: str, *, layers: int = 1, **fields):
    given = helper.make_tensor_value_info(name, dtype, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    weight = numpy_helper.from_array(np.array([[1, 0.25], [0.25, 1]], np.float32), "weight")
    values = ["read", *(f"hidden {layer}" for layer in range(1, layers)), "logits"]
    nodes = [helper.make_node(operator, [name], ["read"], name="read", **fields)]
    for left, right in itertools.pairwise(values):
        nodes.append(helper.make_node("MatMul", [left, "weight"], [right], name=f"to {right}"))
    graph = helper.make_graph(nodes, "g", [given], [logits], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def bundle_of(folder: Path, graph, tensor: Tensor, rows: np.ndarray, files: dict[str, str], **preprocessing) -> Path:
    folder.mkdir()
    metadata = Metadata(
        variant="",
        lineage=Lineage(teacher=None, stages=()),
        labels=("first", "second"),
        preprocessing=preprocessing,
        signature=Signature(inputs=(tensor,), outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 2)),)),
    )
    int8 = write_quantized(graph, plan_without_training(graph, lambda: [(rows,)], mode="static", find=minmax))
    fp32 = Deployable.of(graph)
    write_bundle(
        folder,
        fp32=fp32,
        variants={"fp32": fp32, "int8-x86": Deployable.of(int8)},
        primary="int8-x86",
        metadata=metadata,
        inputs=(rows,),
        files=files,
    )
    return folder


def text_bundle(folder: Path) -> Path:
    """The bundle of an encoder that sees which of two words has the larger number."""
    files = {
        "tokenizer.json": json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": SPLIT, "model": WORDS}),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}),
        "config.json": json.dumps({"model_type": "bert", "id2label": {"0": "first", "1": "second"}}),
    }
    tensor = Tensor(name="input_ids", dtype="int64", shape=("batch", "length"))
    graph = model("input_ids", TensorProto.INT64, ["batch", 2], "Cast", to=TensorProto.FLOAT)
    rows = np.random.default_rng(0).integers(0, 8, (32, 2))
    return bundle_of(folder, graph, tensor, rows, files, texts=1, problem="single-label")


def image_bundle(folder: Path) -> Path:
    """The bundle of a network that sees which of two pixels is the brighter one."""
    tensor = Tensor(name="image", dtype="float32", shape=("batch", 1, 1, 2))
    graph = model("image", TensorProto.FLOAT, ["batch", 1, 1, 2], "Flatten")
    rows = np.random.default_rng(0).uniform(-2, 2, (32, 1, 1, 2)).astype(np.float32)
    return bundle_of(folder, graph, tensor, rows, {}, scale=1 / 255, mean=[0.5], std=[0.25])


def answers(bundle: Path, *words: str | Path) -> list[tuple[str, float]]:
    """What a bundle's own predict.py says of texts or image files: labels and their probabilities."""
    command = [sys.executable, bundle / "predict.py", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(entry["label"], entry["probabilities"][entry["label"]]) for entry in found]
