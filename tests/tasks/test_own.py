"""A task of the user's own: tried before anything trains, known by its fields and the content of its file."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress import DataConfig, Digits, Judge, OwnTask
from compress.data import Data, Samples
from compress.errors import DataError, InputError
from compress.tasks import ImageClassification
from compress.tasks.own import make_task

TASK = '''
from dataclasses import dataclass

import numpy as np
import torch

from compress import Task, shares
from compress.tasks import Batch, ImageClassification, Signature, Tensor


@dataclass(frozen=True)
class Rows(Task):
    classes: tuple[str, ...]
    scale: float

    problem = "single-label"
    measure = "hits"

    @property
    def signature(self):
        inputs = (Tensor(name="rows", dtype="float32", shape=("batch", 6)),)
        outputs = (Tensor(name="out", dtype="float32", shape=("batch", 3)),)
        return Signature(inputs=inputs, outputs=outputs, classes=self.classes)

    @property
    def preprocessing(self):
        return {"scale": self.scale}

    def batch(self, samples, index, *, view=None):
        rows = torch.from_numpy(samples.inputs[index.numpy()]) * self.scale
        return Batch(inputs=(rows,), labels=torch.from_numpy(samples.labels[index.numpy()]), index=index, view=view)

    def forward(self, model, batch):
        return model(*batch.inputs)

    def tallies(self, outputs, samples):
        return {"hits": shares(outputs.argmax(axis=1) == samples.labels)}


class Noisy(ImageClassification):
    """Adds noise to what ours reads."""


def rows(data):
    return Rows(data.classes, 2.0)


def noisy(data):
    return Noisy(classes=data.classes, shape=(1, 3, 2), scale=1.0, mean=(0.0,), std=(1.0,))
'''


@pytest.fixture
def data() -> Data:
    generator = np.random.default_rng(0)
    samples = Samples(generator.standard_normal((40, 6)).astype(np.float32), generator.integers(0, 3, 40))
    return Data(roles=dict.fromkeys(("train", "calibration", "select", "test"), samples), classes=("a", "b", "c"))


def load(text: str, folder: Path, *, name: str = "my_task") -> dict:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(f"{name}_{abs(hash(text))}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return vars(module)


def test_it_is_made_of_the_data(data, tmp_path):
    task = DataConfig(source=Digits(), task=load(TASK, tmp_path)["rows"]).task_of(data, tokenizer=None)
    assert (task.classes, task.scale, task.measure) == (("a", "b", "c"), 2.0, "hits")


def test_its_digest_is_of_its_fields_and_the_content_of_its_file(data, tmp_path):
    task = make_task(load(TASK, tmp_path)["rows"], data)
    assert make_task(load(TASK, tmp_path, name="moved")["rows"], data).digest == task.digest
    assert make_task(load(TASK + "# edited\n", tmp_path, name="edited")["rows"], data).digest != task.digest
    assert replace(task, scale=3.0).digest != task.digest


def test_fields_that_cannot_be_written_are_refused(data, tmp_path):
    task = make_task(load(TASK, tmp_path)["rows"], data)
    with pytest.raises(DataError, match="fields of Rows are not all JSON values"):
        _ = replace(task, scale=np.ones(2)).digest


def test_a_subclass_of_ours_is_not_taken_for_ours(tmp_path):
    ours = ImageClassification(classes=("a", "b"), shape=(1, 3, 2), scale=1.0, mean=(0.0,), std=(1.0,))
    kind = load(TASK, tmp_path)["Noisy"]
    theirs = kind(**{name: getattr(ours, name) for name in ("classes", "shape", "scale", "mean", "std")})
    assert theirs.state == ours.state == ours.digest
    assert theirs.digest != ours.digest


@pytest.mark.parametrize(
    ("written", "instead", "words"),
    [
        ("return Rows(data.classes, 2.0)", "return 3", "expected: a Task"),
        ('("batch", 6)', '("batch", 5)', r"batches as the signature says: float32 \['batch', 5\]"),
        ('name="rows", dtype="float32"', 'name="rows", dtype="int64"', "batches as the signature says: int64"),
        ('problem = "single-label"', 'problem = "ranking"', "a problem: one of single-label"),
        ('measure = "hits"', 'measure = "misses"', "misses among the tallies"),
        ("outputs.argmax(axis=1) == samples.labels", "outputs.argmax(axis=1)[:1] >= 0", "a finite hits of 2 samples"),
        ('{"scale": self.scale}', '{"scale": np.float32(self.scale)}', r"rows of my_task.py fails[\s\S]*float32"),
        ("@dataclass(frozen=True)\nclass", "class", "takes no arguments"),
        ("model(*batch.inputs)\n\n    def tallies", "model(*batch.inputs)\n\n    def tally_up", "abstract"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_trains(data, tmp_path, written, instead, words):
    assert written in TASK
    with pytest.raises(DataError, match=words):
        make_task(load(TASK.replace(written, instead), tmp_path)["rows"], data)


def test_a_file_that_was_not_run_is_told(data):
    with pytest.raises(InputError, match=r"rows of my_task\.py"):
        make_task(OwnTask(file=Path("my_task.py"), function="rows"), data)


def test_what_ours_take_is_refused_beside_it(data, tmp_path):
    config = DataConfig(source=Digits(), task=load(TASK, tmp_path)["rows"], judge=Judge(measure="matthews"))
    with pytest.raises(DataError, match=r"reads and judges samples itself[\s\S]*judge"):
        config.task_of(data, tokenizer=None)


def test_without_one_nothing_of_it_is_written(tmp_path):
    assert "task" not in DataConfig(source=Digits()).model_dump(mode="json")
    dumped = DataConfig(source=Digits(), task=load(TASK, tmp_path)["rows"]).model_dump(mode="json")
    assert dumped["task"].startswith("rows ")
