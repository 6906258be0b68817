"""Every kind of task with tiny data and two tiny models for it, and the losses that each kind is distilled with."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import causal_zoo
import numpy as np
import text_zoo
import writing_zoo
from causal_zoo import make_model as make_causal
from seq2seq_zoo import make_model

from compress.data import Data, Samples
from compress.data.given import read_given
from compress.data.named import name_arrays
from compress.data.roles import Split, assign
from compress.loss import GuidedLoss
from compress.measures.judge import Judge
from compress.models import CausalLM, Cnn, HuggingFace, Mlp, Seq2Seq, UserFile
from compress.models.spec import Model
from compress.tasks import ArrayTask, Encode, ImageClassification, StepTask, Symbols, Task, TransductionTask
from compress.tasks.pieces import load_pieces

PRESETS = {
    "images": ("hinton", "born-again", "function-matching", "dkd", "dist", "fitnets", "attention-transfer"),
    "texts": ("tinybert", "minilm", "distilbert", "mobilebert"),
    "written": ("word", "sequence", "distil-whisper", "gkd", "shrink-and-fine-tune"),
}
OTHERS = ("pairs", "tags", "labels", "numbers", "translated", "continued", "table", "signals", "sequences", "steps")
FITTING = {  # of the problems that no preset is for
    "labels": GuidedLoss.model_validate({"hard": {}, "bernoulli": {}}),
    "numbers": GuidedLoss.model_validate({"hard": {}, "mse": {}}),
    "steps": GuidedLoss(preset="word"),
    "translated": GuidedLoss(preset="word"),
    "continued": GuidedLoss(preset="word"),
}
SUBJECTS = [*((kind, preset) for kind, presets in PRESETS.items() for preset in presets), *((k, "") for k in OTHERS)]
TEXTS = {"texts": "label", "pairs": "pairs", "tags": "words", "labels": "labels", "numbers": "targets"}
NET = """
import torch

class Summed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = torch.nn.Linear(3, 8), torch.nn.Linear(8, 3)

    def forward(self, x, lengths):
        inside = torch.arange(x.shape[1], device=x.device) < lengths.view(-1, 1)
        return self.head((self.layer(x).relu() * inside[..., None]).sum(1) / lengths.view(-1, 1))

def build():
    return Summed()
"""
EACH = """
import torch

def build():
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
"""


@dataclass(frozen=True)
class Subject:
    """A task, its data, a teacher and a student for it, the loss, and the files that its models are in."""

    task: Task
    data: Data
    teacher: Model
    student: Model
    loss: GuidedLoss
    code: tuple[Path, ...] = ()


def make_subject(kind: str, preset: str, folder: Path, digits: Data) -> Subject:
    """One of `SUBJECTS`, its files in a folder."""
    loss = GuidedLoss(preset=preset) if preset else FITTING.get(kind, GuidedLoss(preset="hinton"))  # pyright: ignore[reportArgumentType]
    if kind == "images":
        task = ImageClassification.of(digits, augment=None)
        return Subject(task, digits, *(Cnn(widths=widths, strides=(1, 2)) for widths in ((8, 16), (4, 8))), loss)
    if kind in TEXTS:
        data = text_zoo.review_data(count=200, kind=TEXTS[kind])
        large = text_zoo.make_bert(folder / "teacher", num_hidden_layers=3, initializer_range=0.1)
        small = text_zoo.make_bert(folder / "student", num_hidden_layers=2, initializer_range=0.1)
        models = (HuggingFace(path=str(path)) for path in (large, small))
        return Subject(text_zoo.text_task(large, data), data, *models, loss)
    if kind == "written":
        data = writing_zoo.data(300)
        return Subject(writing_zoo.task(data), data, writing_zoo.TINY, writing_zoo.SMALLER, loss)
    if kind == "translated":
        data, published = writing_zoo.data(200, test=0.2), make_model("bart", folder)
        pieces = load_pieces(str(published))
        task = TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
        return Subject(task, data, *(Seq2Seq(path=str(published), decoder_layers=count) for count in (2, 1)), loss)
    if kind == "continued":
        data, published = causal_zoo.data(200), make_causal("gpt2", folder)
        pieces = load_pieces(str(published), continues=True)
        task = TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
        return Subject(task, data, CausalLM(path=str(published)), causal_zoo.TINY, loss)
    data = _arrays(kind)
    of = StepTask.of if kind == "steps" else ArrayTask.of
    task = of(data, encode=Encode(), normalize=None, judge=Judge(), given=False)
    if kind in ("sequences", "steps"):
        file = folder / "net.py"
        file.write_text(NET if kind == "sequences" else EACH)
        own = UserFile(path=file, factory="build")
        return Subject(task, data, own, own, loss, (file,))
    return Subject(task, data, Mlp(widths=(16,)), Mlp(widths=(8,)), loss)


def _arrays(kind: str) -> Data:
    drawn, count = np.random.default_rng(0), 120
    steps = drawn.normal(size=(count, 9, 3)).astype(np.float32)
    if kind == "steps":
        tags = [*drawn.integers(0, 3, (count, 9))]
        raw = read_given({"train": ([*steps], tags)}, layout="NTF", classes=(), where="here")
        return assign(raw, split=Split(test=20, select=32, calibration=20), overlap="refuse")
    inputs = {
        "table": lambda: name_arrays({"a": drawn.normal(size=count), "b": drawn.normal(3, 2, count)}, where="here"),
        "signals": lambda: drawn.normal(size=(count, 2, 32)).astype(np.float32),
        "sequences": lambda: name_arrays({"x": steps, "x_lengths": drawn.integers(1, 10, count)}, where="here"),
    }[kind]()
    samples = Samples(inputs, drawn.integers(0, 3, count))
    ends = [0, *accumulate((60, 20, 20, 20))]
    roles = zip(("train", "calibration", "select", "test"), pairwise(ends), strict=True)
    return Data({role: samples.take(np.arange(*of)) for role, of in roles}, ("a", "b", "c"))
