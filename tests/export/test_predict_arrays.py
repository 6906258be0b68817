"""predict.py of tables and arrays: raw rows and arrays become what the task makes of them, or are refused in a line."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from compress.data.named import name_arrays
from compress.data.samples import Data, Samples
from compress.export.bundle import EXACT, FROM_MEMORY, write_bundle
from compress.export.deployable import Deployable
from compress.export.graph import to_onnx
from compress.export.metadata import Lineage, Metadata
from compress.measures.judge import Judge
from compress.tasks import ArrayTask, Encode, StepTask

COUNT = 40
PLAIN = Encode()
GENERATOR = np.random.default_rng(0)
BLOCKED = ("torch", "onnx", "pandas", "pydantic", "sklearn", "scipy", "compress")


class Sums(nn.Module):
    """Sums of all inputs, weighted by their places, so that each of them shows in the outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.places = torch.arange(1.0, outputs + 1)

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        first = first.flatten(1).float()
        return (first * torch.linspace(1, 2, first.shape[1])).sum(1, keepdim=True) * self.places


class BothSums(Sums):
    """The same of two inputs."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return super().forward(first) + 10 * super().forward(second.reshape(second.shape[0], -1))


class StepSums(nn.Module):
    """The first number of a step as the logit of the first class, the second one of the second."""

    def forward(self, sequence: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return sequence[..., :2] + 0 * lengths[:, None, None]


def write(folder, inputs, *, labels=None, classes=("cost", "time"), encode=PLAIN, layouts=None):
    """Write a bundle, and return the task and the samples that it was made for."""
    labels = GENERATOR.normal(100, 5, (COUNT, len(classes))).astype(np.float32) if labels is None else labels
    samples = Samples(inputs, labels)
    data = Data(dict.fromkeys(("train", "calibration", "select", "test"), samples), classes, layouts=layouts or {})
    kind = StepTask if labels.dtype == object else ArrayTask
    task = kind.of(data, encode=encode, normalize=None, judge=Judge())
    module = (Sums if len(task.signature.inputs) == 1 else BothSums)(len(classes))
    module = StepSums() if kind is StepTask else module
    batch = task.batch(samples, torch.arange(COUNT))
    fp32 = Deployable.of(to_onnx(module, task.signature, tuple(tensor[:2] for tensor in batch.inputs)))
    metadata = Metadata(
        variant="",
        lineage=Lineage(teacher=None, stages=()),
        labels=classes,
        preprocessing=task.preprocessing,
        signature=task.signature,
    )
    rows = tuple(tensor.numpy() for tensor in batch.inputs)
    write_bundle(folder, fp32=fp32, variants={"fp32": fp32}, primary="fp32", metadata=metadata, inputs=rows, files={})
    return task, module(*batch.inputs).numpy()


def predict(folder, *arguments):
    blocked = f"import runpy, sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    run = "path = sys.argv[1]; sys.argv = sys.argv[1:]\nrunpy.run_path(path, run_name='__main__')\n"
    command = [sys.executable, "-c", blocked + run, str(folder / "predict.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def numbers(done) -> np.ndarray:
    assert done.returncode == 0, done.stderr
    return np.array([[float(word) for word in line.split()[1::2]] for line in done.stdout.splitlines()])


@pytest.fixture(scope="module")
def columns():
    ages = GENERATOR.normal(40, 9, COUNT)
    ages[5] = np.nan
    jobs = np.array(["nurse", "cook, retired", "", "7"] * (COUNT // 4))
    return {"age": ages, "job": jobs, "pay": GENERATOR.normal(1e9, 1e4, COUNT)}


@pytest.fixture(scope="module", params=["one-hot", "index"])
def of_rows(request, tmp_path_factory, columns):
    folder = tmp_path_factory.mktemp("rows")
    encode = Encode(categories=request.param, missing="median")
    return folder, *write(folder, name_arrays(columns, where="here"), encode=encode)


@pytest.mark.parametrize("name", ["rows.csv", "semicolons.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.npz"])
def test_rows_become_the_inputs_that_training_had_and_numbers_its_units(of_rows, columns, tmp_path, name):
    folder, task, outputs = of_rows
    path, frame = tmp_path / name, pd.DataFrame(columns)[["pay", "job", "age"]]
    if name.endswith("npz"):
        np.savez(path, **columns)
    elif "json" in name:
        rows = json.loads(frame.to_json(orient="records", double_precision=15))
        path.write_text(json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows)))
    else:
        frame.to_csv(path, index=False, sep={"rows.csv": ",", "rows.tsv": "\t"}.get(name, ";"), encoding="utf-8-sig")
    expected = outputs * np.array(task.targets.std) + np.array(task.targets.mean)
    np.testing.assert_allclose(numbers(predict(folder, path)), expected, rtol=1e-5, atol=1e-3)


def test_an_unknown_value_is_told_and_a_missing_column_refused(of_rows, tmp_path):
    folder, *_ = of_rows
    (tmp_path / "rows.csv").write_text("age,job,pay\n1,pilot,2\n")
    done = predict(folder, tmp_path / "rows.csv")
    assert done.returncode == 0
    assert "job: not in training, and taken as unknown: pilot" in done.stderr
    for text, words in (("age,pay\n1,2\n", "'job', but age, pay"), ("age,job,pay\n1,7,x\n", "row 1, column pay.*'x'")):
        (tmp_path / "rows.csv").write_text(text)
        done = predict(folder, tmp_path / "rows.csv")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert re.search(words, done.stderr), done.stderr


def test_arrays_by_name_become_the_inputs_that_training_had(tmp_path):
    lengths = GENERATOR.integers(1, 6, COUNT)
    arrays = {"sequence": GENERATOR.normal(9, 2, (COUNT, 5, 2)), "lengths": lengths}
    labels = (GENERATOR.random((COUNT, 2)) < 0.5).astype(np.uint8)
    inputs = name_arrays(arrays, where="here")
    _, outputs = write(tmp_path, inputs, labels=labels, layouts={"sequence": "NTF"})
    np.savez(tmp_path / "some.npz", **arrays)
    found = numbers(predict(tmp_path, tmp_path / "some.npz"))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-outputs.astype(np.float64))), atol=0.006)
    np.savez(tmp_path / "some.npz", **arrays | {"lengths": lengths + 9})
    assert "lengths: expected whole numbers from 1 to 5" in predict(tmp_path, tmp_path / "some.npz").stderr


@pytest.mark.parametrize(("layout", "shape"), [("NCL", (3, 8)), ("NCHW", (3, 4, 4))])
def test_an_array_alone_is_an_npy(tmp_path, layout, shape):
    kind = np.uint8 if layout == "NCHW" else np.float32
    values = (GENERATOR.random((COUNT, *shape)) * 200).astype(kind)
    task, outputs = write(tmp_path, values, layouts={"": layout})
    np.save(tmp_path / "some.npy", values)
    expected = outputs * np.array(task.targets.std) + np.array(task.targets.mean)
    np.testing.assert_allclose(numbers(predict(tmp_path, tmp_path / "some.npy")), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(numbers(predict(tmp_path)), expected, rtol=1e-4, atol=1e-3)
    np.save(tmp_path / "some.npy", values[:, :2])
    assert "expected numbers ['N', 3," in predict(tmp_path, tmp_path / "some.npy").stderr


def test_classes_have_their_probability(tmp_path):
    rows, classes = GENERATOR.normal(size=(COUNT, 3)).astype(np.float32), ("ham", "spam")
    _, outputs = write(tmp_path, rows, labels=np.arange(COUNT) % 2, classes=classes)
    np.save(tmp_path / "some.npy", rows)
    chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    expected = [f"{classes[row.argmax()]} {row.max():.2f}" for row in chances]
    assert predict(tmp_path, tmp_path / "some.npy").stdout.splitlines() == expected


def test_the_script_has_the_lines_that_large_and_inexact_files_replace(of_rows):
    text = (of_rows[0] / "predict.py").read_text()
    assert text.count(EXACT) == 1
    assert text.count(FROM_MEMORY) == 1


def test_every_step_that_is_no_padding_is_told_its_class(tmp_path):
    lengths = GENERATOR.integers(1, 5, COUNT)
    sequence = GENERATOR.normal(50, 9, (COUNT, 4, 2)).astype(np.float32)
    tags = np.array([np.arange(steps) % 2 for steps in lengths], object)
    rows = name_arrays({"sequence": sequence, "lengths": lengths}, where="here")
    task, outputs = write(tmp_path, rows, labels=tags, classes=("up", "down"), layouts={"sequence": "NTF"})
    np.savez(tmp_path / "new.npz", sequence=sequence, lengths=lengths)
    wanted = [
        " ".join(task.classes[tag] for tag in row[:steps].argmax(1))
        for row, steps in zip(outputs, lengths, strict=True)
    ]
    assert predict(tmp_path, tmp_path / "new.npz").stdout.splitlines() == wanted
    assert predict(tmp_path).stdout.splitlines() == wanted
    shown = predict(tmp_path, tmp_path / "new.npz", "--probabilities").stdout.splitlines()[0].split()
    assert [word.partition("/")[0] for word in shown] == wanted[0].split()
    (first, *_) = map(json.loads, predict(tmp_path, "--json").stdout.splitlines())
    assert [step["label"] for step in first["steps"]] == wanted[0].split()
    assert sum(first["steps"][0]["probabilities"].values()) == pytest.approx(1)
