"""A stranger's own teacher, as a user types it: its inputs, its outputs, its accuracy and its modules are checked."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from typed import compressor

MODEL = """\
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""
FAILING = MODEL.replace("nn.Sequential(", "Net(").replace(
    "def build", "class Net(nn.Sequential):\n    def forward(self, x):\n        return {}[x.dim()]\n\n\ndef build"
)
RECIPE = """\
schema: 1
name: strange
data: {source: digits}
teacher: {model: {file: {path: my_model.py}}, weights: teacher.pt}
student: {cnn: {widths: [4], strides: [2]}}
stages:
  - distill: {epochs: 1, batch_size: 64}
"""


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a teacher that was trained on (x - 0.9) / 0.1, far from what the train role would give."""
    raw = load_digits()
    torch.manual_seed(0)
    images = (torch.tensor(raw.images, dtype=torch.float32) / 16 - 0.9) / 0.1
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.tensor(raw.target)).backward()
        optimizer.step()
    return model.state_dict()


@pytest.fixture
def project(tmp_path: Path, weights) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    torch.save(weights, tmp_path / "teacher.pt")
    return tmp_path


def refused(*arguments: str, cwd: Path, words: tuple[str, ...]) -> None:
    result = compressor(*arguments, cwd=cwd)
    assert result.returncode == 3, result.stderr
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert "internal error" not in result.stderr


STATED = ("--set", "data.normalize={mean: [0.9], std: [0.1]}")


def test_weights_without_their_input_formula_are_refused_by_validate_and_told_what_to_write(project):
    refused("validate", "recipe.yaml", cwd=project, words=("is not stated", "data.normalize: identity"))


def test_plan_and_run_begin_with_the_input_formula(project):
    for command, *options in (("plan",), ("run", "--until", "teacher")):
        result = compressor(command, "recipe.yaml", "--code", "my_model.py", *STATED, *options, cwd=project)
        assert result.returncode == 0, result.stderr
        told = result.stdout if command == "plan" else result.stderr
        assert "input: (x / 255 - 0.9) / 0.1" in told.splitlines()[:3]


def test_a_teacher_at_chance_stops_the_run_unless_it_is_forced_and_check_says_it_first(project, weights):
    turned = {name: value.roll(1, 0) if name.startswith("3.") else value for name, value in weights.items()}
    torch.save(turned, project / "teacher.pt")  # classes in another order
    given = ("recipe.yaml", "--code", "my_model.py", *STATED)
    checked = compressor("check", *given, cwd=project)
    assert "WARNING lead teacher: the teacher has nothing to teach" in " ".join(checked.stdout.split())
    words = ("the teacher is not better than an answer that needs no model", "another order", "--force-teacher")
    refused("run", *given, "--until", "distill", cwd=project, words=words)
    for option in ("--force-teacher", "--smoke"):
        forced = compressor("run", *given, "--until", "distill", option, "--json", cwd=project)
        assert forced.returncode == 0, forced.stderr
        assert [row["name"] for row in json.loads(forced.stdout)["stages"]] == ["teacher", "distill"]


@pytest.mark.parametrize("command", ["plan", "check", "run"])
@pytest.mark.parametrize("layer", ["Softmax", "LogSoftmax"])
def test_outputs_that_are_probabilities_are_refused_with_what_to_change(project, command, layer):
    (project / "my_model.py").write_text(MODEL.replace("nn.Linear(32, 10))", f"nn.Linear(32, 10), nn.{layer}(1))"))
    given = ("recipe.yaml", "--code", "my_model.py", *STATED)
    refused(command, *given, cwd=project, words=("expected: logits", "leave out the layer 4"))


def actions(*arguments: str, cwd: Path) -> list[tuple[str, str]]:
    result = compressor("plan", "recipe.yaml", "--until", "teacher", "--json", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return [(step["action"], step["why"]) for step in json.loads(result.stdout)["steps"]]


def test_a_file_that_an_argument_names_counts_by_its_content(project):
    read = "def build(numbers):\n    open(__file__.replace('my_model.py', numbers)).close()\n"
    (project / "my_model.py").write_text(MODEL.replace("def build():\n", read))
    (project / "numbers.txt").write_text("1")
    named = ("--code", "my_model.py", *STATED, "--set", "teacher.model.file.arguments={numbers: numbers.txt}")
    run = compressor("run", "recipe.yaml", "--until", "teacher", *named, cwd=project)
    assert run.returncode == 0, run.stderr
    assert [action for action, _ in actions(*named, cwd=project)] == ["reuse"]
    (project / "numbers.txt").write_text("2")
    assert [action for action, _ in actions(*named, cwd=project)] == ["run"]


def test_a_module_that_the_model_imports_counts_and_a_folder_names_all_its_files(project):
    source = project / "src" / "nets"
    source.mkdir(parents=True)
    (source / "blocks.py").write_text(MODEL)
    (source / "models.py").write_text("from nets.blocks import build\n")
    (project / "recipe.yaml").write_text(RECIPE.replace("my_model.py", "src/nets/models.py"))
    given = ("--code", "src", *STATED)
    ran = compressor("run", "recipe.yaml", "--until", "teacher", *given, cwd=project)
    assert ran.returncode == 0, ran.stderr
    assert actions(*given, cwd=project) == [("reuse", "")]
    (source / "blocks.py").write_text(MODEL.replace("nn.ReLU()", "nn.GELU()"))
    ((action, why),) = actions(*given, cwd=project)
    assert (action, "model.sha256" in why) == ("run", True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MODEL + "    return (\n", "my_model.py:6"),
        (MODEL.replace("    return", "    raise Exception('odd')\n    return"), "my_model.py:5"),
        (FAILING, "my_model.py:6"),
    ],
)
def test_whatever_the_users_model_raises_is_refused_with_the_users_line(project, text, line):
    (project / "my_model.py").write_text(text)
    refused("plan", "recipe.yaml", "--code", "my_model.py", *STATED, cwd=project, words=(line,))
