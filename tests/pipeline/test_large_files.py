"""Files whose weights do not fit into one message: every step gives what it gives with one file.

Protobuf's limit of 2 GiB is lowered, so that small models have their weights in files of their own;
benchmarks/large_file.py does the same with a model that is really larger.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import text_zoo
import torch

from compress.benchmark.process import Place, Worker
from compress.errors import ArtifactError
from compress.export import onnx_file
from compress.export.feed import first_inputs
from compress.export.onnx_file import external_files, size_bytes
from compress.export.verify import verify_bundle
from compress.judge.scores import score
from compress.loss import GuidedLoss
from compress.models import HuggingFace
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stages.create import Create
from compress.stages.export import Export
from compress.stages.quantize import Quantize
from compress.store.store import Store

LIMIT = 3000  # bytes; the smallest file here has 15,000
VARIANTS = ("fp32", "fp16-gpu", "int8-x86")


@pytest.fixture
def images(make_context, trained_digits):
    return make_context(teacher=trained_digits), trained_digits, Quantize(max_accuracy_drop=0.02)


@pytest.fixture
def texts(make_context, tmp_path):
    torch.manual_seed(0)
    folder = text_zoo.make_bert(tmp_path / "bert")
    data = text_zoo.review_data(kind="label", count=240)
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    context = replace(context, loss=GuidedLoss.model_validate({"hard": {}, "kl": {}}))
    created = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    return replace(context, teacher=created), created, Quantize.without_limits(mode="dynamic")


def ship(context, source, quantize, root: Path):
    """Score, quantize, score, export and score every variant; return bundle and scores, each by the step's name."""
    context = replace(context, store=Store.open(root))
    found = {"source": score(source, *context, role="select", teacher=None)}
    quantized = quantize.run(source, *context)
    found["quantized"] = score(quantized, *context, role="select", teacher=found["source"])
    bundle = Export(variants=VARIANTS, primary="int8-x86").run(quantized, *context)
    return bundle, found | {
        name: score(bundle, *context, role="select", teacher=found["source"], variant=name) for name in VARIANTS
    }


@pytest.mark.parametrize("kind", ["images", pytest.param("texts", marks=pytest.mark.slow)])
def test_two_files_give_the_numbers_of_one(kind, request, tmp_path, monkeypatch):
    context, source, quantize = request.getfixturevalue(kind)
    bundle, expected = ship(context, source, quantize, tmp_path / "one")
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", LIMIT)
    large, found = ship(context, source, quantize, tmp_path / "two")
    for name, scores in found.items():
        np.testing.assert_array_equal(scores.logits, expected[name].logits, err_msg=name)
        (weights,) = external_files(scores.onnx_path)
        sizes = scores.facts.size_bytes, expected[name].facts.size_bytes
        assert scores.onnx_path.stat().st_size + weights.stat().st_size == sizes[0]
        assert sizes[1] < sizes[0]  # each weight begins on a page
        assert not external_files(expected[name].onnx_path)
    assert large.facts["variants"].keys() == set(VARIANTS)
    for name in VARIANTS:
        assert large.facts["variants"][name]["size_bytes"] == size_bytes(large.path / f"{name}.onnx")
    assert verify_bundle(large.path).passed
    with np.load(bundle.path / "reference.npz") as one, np.load(large.path / "reference.npz") as two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert labels(large.path) == labels(bundle.path)


def labels(bundle: Path) -> str:
    """What predict.py says of the reference inputs, or of texts."""
    texts = ["good film", "bad film"] if (bundle / "tokenizer.json").exists() else []
    command = [sys.executable, str(bundle / "predict.py"), *texts]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_changed_weights_are_found(images, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", LIMIT)
    bundle = Export().run(images[1], *replace(images[0], store=Store.open(tmp_path / "two")))
    weights = bundle.path / "fp32.onnx.data"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="changed"):
        verify_bundle(bundle.path)
    done = subprocess.run(
        [sys.executable, str(bundle.path / "predict.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "fp32.onnx.data is not the file that was exported" in done.stderr


@pytest.mark.parametrize("place", [Place(), Place(python=sys.executable, launcher=("env",))])
def test_a_worker_runs_them_here_and_where_they_are_sent(place, images, tmp_path, monkeypatch):
    context, source, _ = images
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", LIMIT)
    scores = score(source, *context, role="select", teacher=None)
    (rows,) = first_inputs(context.task, context.data.select, 8)
    np.savez(tmp_path / "inputs.npz", pixel_values=rows)
    with Worker(place) as worker:
        worker.load(runtime="ort-cpu", model=scores.onnx_path, inputs=tmp_path / "inputs.npz", batch_size=8)
        np.testing.assert_array_equal(worker.outputs({"pixel_values": rows})[0], scores.logits[:8])


RECIPE = """
schema: 1
name: large
data: {source: digits}
teacher: {model: {cnn: {widths: [16, 32, 32], strides: [1, 2, 1]}}, train: {epochs: 2, batch_size: 64}}
student: {cnn: {widths: [16, 32], strides: [1, 2]}}
stages:
  - distill: {epochs: 2, batch_size: 64}
  - quantize: {max_accuracy_drop: null, min_agreement: 0.5}
  - export: {variants: [int8-x86, fp32]}
benchmark: {preset: quick, profiles: [{}]}
gates: {max_accuracy_drop: 1.0}
"""


@pytest.mark.slow
def test_a_whole_run_races_ships_and_registers_them(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", LIMIT)
    recipe = Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path())
    outcome = run(recipe, Options(store=tmp_path / "store", threads=1, reporter=Reporter(quiet=True)))
    bundle = outcome.run_dir / "bundle"
    assert outcome.passed
    assert verify_bundle(bundle).passed
    import mlflow

    from compress.tracking import database_uri

    mlflow.set_tracking_uri(database_uri(tmp_path / "store"))
    with np.load(bundle / "reference.npz") as archive:
        rows, expected = archive["input/pixel_values"], archive["int8-x86/logits"]
    session = mlflow.pyfunc.load_model("models:/large@candidate").unwrap_python_model().session
    np.testing.assert_array_equal(session.run(None, {"pixel_values": rows})[0], expected)
    files = json.loads((bundle / "bundle.json").read_text())["files"]
    assert {"int8-x86.onnx.data", "fp32.onnx.data"} < files.keys()
