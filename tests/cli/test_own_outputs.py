"""Models that return something else than one tensor of logits, as a stranger types them, from plan to predict.py."""

import copy
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typed import compressor

from compress import Recipe
from compress.errors import ModelError
from compress.export.onnx_file import read_graph
from compress.models.outputs import Reading, check_outputs, describe_outputs, read_outputs, tensors_of
from compress.pipeline.plan import plan
from compress.pipeline.run import Options
from compress.progress import Reporter

MODELS = """\
from dataclasses import dataclass

import torch
from torch import nn


class Body(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.output = nn.Linear(4 * width, outputs)  # a name that users choose
        self.aux = nn.Linear(4 * width, outputs)

    def features(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1)


class OneLogit(Body):
    def forward(self, x):
        return self.output(self.features(x)).squeeze(-1)


class Column(Body):
    def forward(self, x):
        return self.output(self.features(x))


class Sigmoid(Body):
    def forward(self, x):
        return torch.sigmoid(self.output(self.features(x))).squeeze(1)


class Heads(Body):
    def forward(self, x):
        x = self.features(x)
        return {"aux": self.aux(x), "logits": self.output(x)}


@dataclass
class Answer:
    embedding: torch.Tensor
    score: torch.Tensor


class Fields(Body):
    def forward(self, x):
        x = self.features(x)
        return Answer(x, self.output(x))


class Maps(Body):
    def forward(self, x):
        return self.output(self.features(x))[:, :, None, None]


class TrainingHeads(Body):
    def forward(self, x):
        x = self.features(x)
        return (self.output(x), self.aux(x)) if self.training else self.output(x)


class TurnedHeads(Body):
    def forward(self, x):
        x = self.features(x)
        return (self.aux(x), self.output(x)) if self.training else self.output(x)


class Detector(Body):
    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should not be None in training mode")
        return self.output(self.features(x))


class Noisy(Column):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


class Summed(Column):
    def forward(self, x):
        return super().forward(x) * len(x)


class Squeezed(Column):
    def forward(self, x):
        return super().forward(x).squeeze()


def Scripted(width, outputs):
    return torch.jit.script(Column(width, outputs))


def Compiled(width, outputs):
    return torch.compile(Column(width, outputs))


def build(kind, width=8, outputs=2):
    return globals()[kind](width, outputs)


def data():
    from sklearn.datasets import load_digits

    raw = load_digits()
    return {"train": ((raw.images * 15).astype("uint8")[:, None], (raw.target > 4).astype(int))}
"""
LABELS = """

def labelled():
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (400, 1, 8, 8)).astype("uint8")
    return {"train": (images, rng.integers(0, 2, (400, 2)))}
"""
RECIPE = """\
schema: 1
name: strange
data: {source: {file: {path: mine.py}}}
teacher:
  model: {file: {path: mine.py, arguments: {kind: OneLogit, width: 32, outputs: 1}}}
  train: {epochs: 8, batch_size: 32}
student: {file: {path: mine.py, output: logits, arguments: {kind: Heads, width: 16}}}
stages:
  - distill: {epochs: 8, batch_size: 32}
  - prune: {kept_macs_fraction: 0.5}
  - distill: {epochs: 4, batch_size: 32, name: recover}
  - quantize: {mode: static}
  - export: {variants: [int8-x86, fp32]}
benchmark: {preset: smoke}
gates: {max_accuracy_drop: 0.1}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODELS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "short.yaml").write_text(RECIPE[: RECIPE.index("  - prune")])
    return tmp_path


def planned(project: Path, *overrides: str) -> tuple[str, ...]:
    recipe = Recipe.load(project / "short.yaml", overrides=overrides)
    quiet = Reporter(quiet=True)
    options = Options(
        store=project / "store", threads=1, code=[project / "mine.py"], until_stage="distill", reporter=quiet
    )
    return plan(recipe, options).foreseen


def of_student(kind: str, *more: str, outputs: int = 2) -> tuple[str, ...]:
    arguments = f"student.file.arguments={{kind: {kind}, width: 8, outputs: {outputs}}}"
    return (arguments, "student.file.output=null", *more)


@pytest.mark.slow
def test_one_logit_teaches_one_of_several_heads_that_is_cut_quantized_and_shipped(project):
    ran = compressor("run", "recipe.yaml", "--code", "mine.py", "--json", cwd=project)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert "[0, z] of the two classes" in ran.stderr
    assert "of the model's outputs aux [2, 2], logits [2, 2] the logits are logits" in ran.stderr
    bundle = Path(report["run_dir"]) / "bundle"
    names = [tensor.name for tensor in read_graph(bundle / "fp32.onnx").graph.initializer]
    assert any("output" in name for name in names)
    assert not any("aux" in name for name in names)
    checked = compressor("verify", str(bundle), cwd=project)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    told = subprocess.run(
        [sys.executable, bundle / "predict.py"], cwd=project, capture_output=True, text=True, check=False
    )
    assert set(told.stdout.split()) == {"0", "1"}, told.stderr


@pytest.mark.parametrize(
    ("kind", "outputs", "told"),
    [
        ("OneLogit", 1, "student: the model's one logit z is read, and exported, as the logits [0, z]"),
        ("Fields", 2, "student: of the model's outputs embedding [2, 32], score [2, 2] the logits are score;"),
        ("Maps", 2, "student: the model's outputs [2, 2, 1, 1] are read as [2, 2]"),
        ("TrainingHeads", 2, ""),
    ],
)
def test_plan_takes_outputs_whose_meaning_is_clear_and_says_so(project, kind, outputs, told):
    foreseen = [line for line in planned(project, *of_student(kind, outputs=outputs)) if line.startswith("student: ")]
    assert [line.startswith(told) for line in foreseen] == ([True] if told else [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            of_student("Heads"),
            r"(?s)logits is not clear.*aux \[2, 2\], logits \[2, 2\].*kind='Heads'.*output: aux",
        ),
        (of_student("Heads", "student.file.output=scores"), r"(?s)no output of this name.*aux.*logits.*output: scores"),
        (of_student("Heads", "student.file.output=2"), r"(?s)no output of this name or position.*output: 2"),
        (of_student("Sigmoid", outputs=1), "went through a sigmoid already"),
        (of_student("TurnedHeads"), r"(?s)output of another head would be taken.*output: 1"),
        (of_student("Detector"), r"(?s)does not run in training mode.*targets should not.*distill; .*mine\.py:7\d"),
        (of_student("Noisy"), "differ from time to time in evaluation mode"),
        (of_student("Summed"), "depend on the samples beside it"),
        (of_student("Squeezed"), r"(?s)depend on the samples beside it.*\[2, 2\] instead of \[1, 2\]"),
        (of_student("Scripted"), "(?s)the model is compiled.*ScriptModule"),
        (of_student("Compiled"), "(?s)the model is compiled.*OptimizedModule"),
        (of_student("OneLogit", outputs=3), r"(?s)outputs do not match.*\[2, 2\].*\[2, 3\]"),
        (
            ("teacher.model.file.arguments={kind: Detector}",),
            r"(?s)does not run in training mode.*targets should not.*train; .*mine\.py:7\d",
        ),
    ],
)
def test_plan_refuses_outputs_that_are_not_clear_in_words_of_the_users_code(project, overrides, message):
    with pytest.raises(ModelError, match=message):
        planned(project, *overrides)


def test_a_head_that_is_named_works_where_training_returns_another_one_first(project):
    told = planned(project, *of_student("TurnedHeads", "student.file.output=1"))
    assert not [line for line in told if "student" in line]


def test_one_number_for_two_labels_is_refused(project):
    (project / "mine.py").write_text(MODELS + LABELS)
    with pytest.raises(ModelError, match="(?s)one number for two outputs.*only two classes"):
        planned(project, *of_student("OneLogit", outputs=1), "data.source.file.factory=labelled", "loss={hard: {}}")


class Steps(nn.Module):
    """One number for each step."""

    def __init__(self, *, squashed):
        super().__init__()
        self.rnn, self.logit, self.squashed = nn.GRU(2, 6, batch_first=True), nn.Linear(6, 1), squashed

    def forward(self, x):
        z = self.logit(self.rnn(x)[0]).squeeze(2)
        return torch.sigmoid(z) if self.squashed else z


def test_one_logit_for_each_step_of_a_sequence_is_read_as_two_and_its_sigmoid_is_refused():
    x = torch.randn(3, 6, 2)
    for squashed in (False, True):
        model = Steps(squashed=squashed)
        plain = model(x)
        read_outputs(model, Reading(("batch", 6, 2)))
        torch.testing.assert_close(model(x), torch.stack([torch.zeros(3, 6), plain], 2))
        assert describe_outputs(model, (x,)).startswith("the model's one logit z is read")
        if not squashed:
            check_outputs(model, (x,), single_label=True, where="here")
            continue
        with pytest.raises(ModelError, match="(?s)went through a sigmoid already.*return the logit"):
            check_outputs(model, (x,), single_label=True, where="here")


def test_a_gate_beside_the_logits_is_not_taken_for_one_logit():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x), torch.sigmoid(x[:, :1])

    model = Gated()
    read_outputs(model, Reading(("batch", 2)))
    check_outputs(model, (torch.randn(3, 3),), single_label=True, where="here")


class Trio(nn.Module):
    """A body with three layers that surgery, taps and state dicts call by the names that its user chose."""

    def __init__(self):
        super().__init__()
        self.body, self.logit, self.other = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        x = self.body(x)
        return self.logit(x), self.other(x)


def read_trio(output: int) -> nn.Module:
    model = Trio()
    read_outputs(model, Reading(("batch", 2), output))
    return model


def test_a_model_that_is_read_keeps_its_class_its_names_and_its_weights():
    plain = Trio()
    model = read_trio(0)
    assert isinstance(model, Trio)
    assert type(model).__qualname__ == "Trio"
    assert str(inspect.signature(model.forward)) == "(x)"
    assert [*model.state_dict()] == [*plain.state_dict()]
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(torch.ones(2, 3)), model(torch.ones(2, 3)))


def test_two_logits_of_one_have_the_binary_cross_entropy_and_only_the_chosen_head_learns():
    model, x, y = read_trio(0), torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    loss = F.cross_entropy(model(x), y)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(Trio.forward(model, x)[0][:, 0], y.float()))
    loss.backward()
    assert model.logit.weight.grad is not None
    assert model.other.weight.grad is None


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        (("batch", 10), (3, 10, 1, 1), (3, 10)),
        (("batch", 2), (3, 1, 1, 1), (3, 2)),
        (("batch", 2), (3,), (3, 2)),
        (("batch", 2), (), (1, 2)),  # squeeze() of a single sample
        (("batch", 1), (3,), (3, 1)),
        (("batch", 10), (3, 1), (3, 1)),  # refused by those who know the task
        (("batch", 10), (3, 10, 2, 2), (3, 10, 2, 2)),
        (("batch", "tokens", 2), (3, 4, 2), (3, 4, 2)),
        (("batch", "tokens", 2), (3, 4), (3, 4)),
        (("batch", "tokens", 2), (3, 4, 1), (3, 4, 2)),
        (("batch", 4, 2), (3, 4, 1), (3, 4, 2)),
        (("batch", 4, 2), (3, 4), (3, 4, 2)),
        (("batch", 4, 2), (3, 1, 4), (3, 4, 2)),
        (("batch", 4, 2), (3, 2), (3, 2)),  # one row for a whole sequence
        (("batch", 4, 3), (3, 4), (3, 4)),
    ],
)
def test_shapes_that_can_mean_logits_become_logits(shape, given, expected):
    assert Reading(shape).convert(torch.zeros(given)).shape == expected


def test_containers_in_containers_are_named_by_the_way_to_each_tensor():
    found = tensors_of({"heads": [torch.zeros(2, 1), torch.zeros(2, 3)], "loss": None, "ids": torch.zeros(2).long()})
    assert {name: tuple(value.shape) for name, value in found.items()} == {"heads.0": (2, 1), "heads.1": (2, 3)}
    assert Reading(("batch", 3)).choose(found, training=False) == "heads.1"
