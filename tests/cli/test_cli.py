"""The command line as a user types it: in a process of its own."""

import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typed import compressor

from compress.loss import GuidedLoss
from compress.loss.logits import Kl
from compress.report.markdown import MARKERS

STUDENT = "student: {cnn: {widths: [4], strides: [2]}}"
STAGE = "- distill: {epochs: 1, batch_size: 64}"
RECIPE = """\
schema: 1
name: tiny
data:
  source: digits
teacher:
  model: {cnn: {widths: [8], strides: [2]}}
  train: {epochs: 6, batch_size: 64}
student: {cnn: {widths: [4], strides: [2]}}
stages:
  - distill: {epochs: 1, batch_size: 64}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def change(project: Path, old: str, new: str) -> None:
    path = project / "recipe.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(project: Path, *arguments: str | Path, code: int, words: tuple[str, ...]) -> None:
    """Assert that ``run`` ends with this exit code, these words and no traceback, and says nothing on stdout."""
    result = compressor("run", "recipe.yaml", "--until", "distill", *arguments, cwd=project)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def test_help_lists_the_exit_codes_and_imports_nothing_heavy(tmp_path):
    code = "import sys, compress.cli.main as c\ntry: c.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "130  interrupted; the same command continues" in result.stdout
    loaded = set(result.stderr.split())
    assert not loaded & {"torch", "numpy", "mlflow", "onnx", "onnxruntime", "sklearn", "pydantic", "yaml", "rich"}


def test_telemetry_is_off_unless_the_user_says_otherwise(tmp_path):
    code = "import compress, os; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_DISABLE_TELEMETRY": "false"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["1", "false"]


def test_validate_prints_the_whole_recipe_which_is_a_recipe(project):
    first = compressor("validate", "recipe.yaml", "--set", "stages.distill.epochs=3", cwd=project)
    assert "epochs: 3" in first.stdout
    (project / "again.yaml").write_text(first.stdout)
    assert compressor("validate", "again.yaml", cwd=project).stdout == first.stdout


def test_the_schema_is_json(tmp_path):
    assert "stages" in json.loads(compressor("schema", cwd=tmp_path).stdout)["properties"]


def test_init_writes_a_valid_recipe_once(tmp_path):
    assert "digits/recipe.yaml" in compressor("init", "digits", cwd=tmp_path).stdout
    assert compressor("validate", "digits/recipe.yaml", cwd=tmp_path).returncode == 0
    again = compressor("init", "digits", cwd=tmp_path)
    assert again.returncode == 2
    assert "there is a recipe already" in again.stderr
    assert "one of digits" in compressor("init", "digts", cwd=tmp_path).stderr


def test_the_version_and_every_summary_are_whole_at_80_columns(tmp_path):
    from importlib.metadata import version

    assert compressor("--version", cwd=tmp_path).stdout == f"{version('compress-onnx')}\n"
    told = compressor("--help", cwd=tmp_path, COLUMNS="80").stdout
    commands = told[told.index("Commands:") : told.index("Exit codes:")]
    assert "..." not in commands
    assert all(len(line) <= 80 for line in told.splitlines())
    assert [line.split()[0] for line in commands.splitlines()[1:] if line.strip()][:4] == [
        "init",
        "plan",
        "check",
        "run",
    ]


def test_what_is_refused_is_one_json_object_where_that_was_asked_for(tmp_path):
    result = compressor("plan", "nothing.yaml", "--json", cwd=tmp_path)
    told = json.loads(result.stdout)["error"]
    assert told["exit_code"] == result.returncode == 3
    assert told["where"] == "nothing.yaml"
    assert told["message"] == "the recipe cannot be read"
    assert "compressor init digits" in told["next"]
    assert compressor("plan", "nothing.yaml", cwd=tmp_path).stdout == ""


def test_env_says_which_runtimes_work(tmp_path):
    found = json.loads(compressor("env", "--json", cwd=tmp_path).stdout)
    names = "ort-cpu ort-cuda ort-tensorrt ort-webgpu torch-cpu torch-compile torch-cuda openvino"
    assert [*found["runtimes"]] == names.split()
    assert found["runtimes"]["ort-cpu"]["usable"]
    assert found["runtimes"]["torch-cpu"]["usable"]
    assert found["versions"]["torch"]
    told = compressor("env", "--python", "/nowhere/bin/python", cwd=tmp_path).stdout
    assert re.search(r"ort-cpu +not usable: the worker did not start.*\n +next: pip install onnxruntime\n", told)


def test_a_wrong_command_line_is_2(project):
    assert compressor("run", cwd=project).returncode == 2
    assert compressor("rum", cwd=project).returncode == 2
    refused(project, "--from", "distil", code=2, words=("--from names no stage", "did you mean distill?"))
    refused(project, "--set", "seed", code=2, words=("--set needs a path and a value",))


def test_a_run_prints_json_on_stdout_and_progress_on_stderr(project):
    result = compressor("run", "recipe.yaml", "--until", "distill", "--json", "--threads", "1", cwd=project)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["passed"] is None
    assert [stage["name"] for stage in report["stages"]] == ["teacher", "distill"]
    assert "on select" in result.stderr
    quiet = compressor("run", "recipe.yaml", "--until", "distill", "-q", "--threads", "1", cwd=project)
    assert quiet.returncode == 0
    assert quiet.stderr == ""


def test_a_smoke_run_that_stops_early_predicts_nothing(project):
    result = compressor("run", "recipe.yaml", "--smoke", "--until", "distill", "--json", "-q", cwd=project)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["estimate"] is None


def test_the_store_comes_from_the_environment(project):
    result = compressor("run", "recipe.yaml", "--until", "distill", cwd=project, COMPRESS_STORE=str(project / "there"))
    assert result.returncode == 0, result.stderr
    assert (project / "there" / "artifacts").is_dir()
    assert not (project / "compress-store").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_checkpoints_and_says_how_to_go_on(project, number, code):
    change(project, "train: {epochs: 6, batch_size: 64}", "train: {epochs: 10000, batch_size: 64}")
    with subprocess.Popen(
        [sys.executable, "-m", "compress", "run", "recipe.yaml", "--until", "distill", "--threads", "1"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        checkpoints = project / "compress-store" / "work"
        deadline = time.monotonic() + 300
        while not list(checkpoints.glob("*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)  # made right before training: the first step ends in a checkpoint
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    assert "compressor run recipe.yaml --until distill" in stderr
    assert "Traceback" not in stderr
    assert list(checkpoints.glob("*/checkpoint.safetensors"))


def test_the_second_interruption_stops_at_once(project):
    """Steps of seconds, so that the first one is still waiting for its checkpoint."""
    change(project, "model: {cnn: {widths: [8], strides: [2]}}", "model: {resnet: {width: 64, blocks: [3, 3]}}")
    change(project, "train: {epochs: 6, batch_size: 64}", "train: {epochs: 10000, batch_size: 1024}")
    with subprocess.Popen(
        [sys.executable, "-m", "compress", "run", "recipe.yaml", "--until", "distill", "--threads", "1"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while not list((project / "compress-store" / "work").glob("*")):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert any("once more stops at once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        left = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "this goes on from here" not in left
    assert "Traceback" not in left
    assert not list((project / "compress-store" / "work").glob("*/checkpoint.safetensors"))


GATED = """\
schema: 1
name: gated
data: {source: digits}
teacher:
  model: {cnn: {widths: [8], strides: [2]}}
  train: {epochs: 6, batch_size: 64}
student: {cnn: {widths: [4], strides: [2]}}
loss: {kl: {temperature: 4}}
stages:
  - distill: {epochs: 1, batch_size: 64, loss: {kl: {temperature: 2}}}
  - export
benchmark: {preset: quick, profiles: [{}]}
gates: {max_size_mb: 0.0001}
"""


@pytest.fixture(scope="module")
def missed(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole run that misses its gate; read-only."""
    directory = tmp_path_factory.mktemp("missed")
    (directory / "recipe.yaml").write_text(GATED)
    begin, end = MARKERS
    (directory / "README.md").write_text(f"# Mine\n\n{begin}\n\nold\n\n{end}\n\nThe end.\n")
    arguments = ("run", "recipe.yaml", "--threads", "1", "--store", "my store", "--readme", "README.md")
    return directory, compressor(*arguments, cwd=directory)


def test_a_missed_gate_is_4_and_everything_is_saved(missed):
    directory, result = missed
    assert result.returncode == 4, result.stderr
    assert "gate MISSED  max_size_mb: at most 0.0001 MB asked" in result.stdout
    assert "a gate is missed; the student and the report are saved" in result.stderr
    (run_dir,) = (directory / "my store" / "runs").iterdir()
    assert {"report.json", "bundle", "plan.json"} <= {path.name for path in run_dir.iterdir()}


def test_a_run_says_where_the_bundle_is_and_how_to_open_mlflow(missed):
    directory, result = missed
    (run_dir,) = (directory / "my store" / "runs").iterdir()
    shown = run_dir.relative_to(directory)
    *_, bundle, report, details, server = result.stdout.splitlines()
    assert bundle == f"bundle:  {shown / 'bundle'}"
    assert report == f"report:  {shown / 'report.html'}"
    assert details == f"details: compressor report '{shown}' --all"
    assert server == "MLflow:  compressor ui --store 'my store'"
    assert re.search(r"^Missed.*: max_size_mb$", result.stdout, re.MULTILINE)
    assert "The shipped file is " in result.stdout


def test_a_run_says_what_it_learns_from_before_it_starts(missed):
    _, result = missed
    assert re.match(r"data: train [\d,]+, .*select [\d,]+, .*; \d+ duplicates dropped from train\n", result.stderr)


def test_a_run_is_told_again_by_its_directory_or_the_beginning_of_its_name(missed):
    directory, result = missed
    (run_dir,) = (directory / "my store" / "runs").iterdir()
    again = compressor("report", str(run_dir), cwd=directory)
    assert again.returncode == 0, again.stderr
    assert again.stdout in result.stdout  # before it said where MLflow is
    short = compressor("report", "gated", "--store", "my store", cwd=directory)
    assert short.stdout.splitlines()[:-3] == again.stdout.splitlines()[:-3]
    everything = compressor("report", run_dir.name, "--all", "--store", "my store", cwd=directory).stdout
    assert "Verdict (test, read once)" in everything
    assert "Verdict (test, read once)" not in again.stdout
    refused = compressor("report", "gone", "--store", "my store", cwd=directory)
    assert refused.returncode == 3
    assert f"one of {run_dir.name}" in refused.stderr


def test_a_stage_with_a_loss_of_its_own_shows_it(missed):
    directory, _ = missed
    own, other = (GuidedLoss(kl=Kl(temperature=value)).fingerprint for value in (4, 2))
    told = compressor("report", "gated", "--all", "--store", "my store", cwd=directory)
    assert f"loss: {own}; distill uses {other}\n" in told.stdout
    assert f"loss: {own}; distill uses {other}.\n" in (directory / "README.md").read_text()


def test_the_result_is_written_between_the_markers(missed):
    directory, _ = missed
    text = (directory / "README.md").read_text()
    (report,) = (directory / "my store" / "runs").glob("*/report.md")
    assert text == f"# Mine\n\n{MARKERS[0]}\n\n{report.read_text()}\n{MARKERS[1]}\n\nThe end.\n"
    assert "old" not in text
    assert re.search(r"^data: train .* duplicates dropped from train\.$", text, re.MULTILINE)
    assert re.search(r"This run took \d+ s\.", text)


def test_the_command_on_the_page_repeats_the_run(missed, tmp_path):
    directory, _ = missed
    (run_dir,) = (directory / "my store" / "runs").iterdir()
    page = shutil.copytree(run_dir, tmp_path / "page")
    first = json.loads((page / "report.json").read_text())
    program, *words = shlex.split(first["command"])
    assert program == "compressor"
    again = compressor(*words, cwd=page)
    assert again.returncode == 4, again.stderr
    (found,) = (page / "compress-store" / "runs").glob("*/report.json")
    second = json.loads(found.read_text())
    assert second["recipe_sha256"] == first["recipe_sha256"]
    assert not any(stage["reused"] for stage in second["stages"])
    assert [stage["digest"] for stage in second["stages"]] == [stage["digest"] for stage in first["stages"]]
    assert second["verdict"]["test"] == first["verdict"]["test"]


@pytest.mark.parametrize("text", [None, "# Mine\n", MARKERS[0]])
def test_a_readme_without_a_place_for_the_result_is_told_before_anything_runs(project, text):
    if text is not None:
        (project / "README.md").write_text(text)
    result = compressor("run", "recipe.yaml", "--readme", "README.md", cwd=project)
    assert result.returncode == 3
    assert "README.md" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project / "compress-store").exists()
    refused(project, "--readme", "README.md", code=2, words=("--readme takes the result of a whole run",))


def test_a_bundle_that_computes_something_else_here_is_4(missed, tmp_path):
    """The same bundle with another machine's outputs as its reference."""
    directory, _ = missed
    (stored,) = (directory / "my store" / "runs").glob("*/bundle")
    bundle = shutil.copytree(stored, tmp_path / "bundle")
    assert compressor("verify", bundle, cwd=tmp_path).returncode == 0
    with np.load(bundle / "reference.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez_compressed(bundle / "reference.npz", **arrays | {"fp32/logits": arrays["fp32/logits"] + 1})
    manifest = json.loads((bundle / "bundle.json").read_text())
    content = (bundle / "reference.npz").read_bytes()
    manifest["files"]["reference.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    result = compressor("verify", bundle, cwd=tmp_path)
    assert result.returncode == 4
    assert "DIFFERS" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_plan_says_what_is_reused_and_why_not_and_writes_its_note_alone(project):
    def plan(*arguments: str) -> list[tuple[str, str, str]]:
        result = compressor(
            "plan", "recipe.yaml", "--until", "distill", "--threads", "1", "--json", *arguments, cwd=project
        )
        return [(row["name"], row["action"], row["why"]) for row in json.loads(result.stdout)["steps"]]

    assert plan() == [
        ("teacher", "run", "never run before"),
        ("distill", "run", "what it starts from is made anew"),
    ]
    assert [path.name for path in (project / "compress-store").iterdir()] == ["notes"]
    compressor("run", "recipe.yaml", "--until", "distill", "--threads", "1", cwd=project)
    assert plan() == [("teacher", "reuse", ""), ("distill", "reuse", "")]
    assert plan("--force", "distill")[1] == ("distill", "run", "forced")
    assert plan("--set", "stages.distill.epochs=2")[1] == ("distill", "run", "epochs 1 -> 2")


def test_a_plan_shows_the_layers_that_would_be_compared(project):
    change(project, STUDENT, "student: {cnn: {widths: [4, 6], strides: [2, 2]}}\nloss: fitnets")
    result = compressor("plan", "recipe.yaml", "--until", "distill", cwd=project)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("distill     hint")]
    assert "layers.2 [4, 4, 4] : layers.2 [8, 4, 4]; projector of 32; stored" in line
    live = compressor("plan", "recipe.yaml", "--set", "stages.distill.cache_limit_gb=0", cwd=project)
    assert "live, about +" in live.stdout
    wrong = compressor("plan", "recipe.yaml", "--set", "loss.hint.pairs={layers.9: layers.2}", cwd=project)
    assert wrong.returncode == 3
    assert "no module of the student runs under this path" in wrong.stderr


def test_a_loss_that_a_stage_cannot_use_is_told_at_the_stage(project):
    change(project, STUDENT, STUDENT + "\nloss: dist")
    words = ("recipe.yaml:11:5: stages.distill", "which dist compares as a whole")
    refused(project, "--set", "stages.distill.accumulate=2", code=3, words=words)


def test_a_plan_refuses_a_student_that_a_run_would_refuse(project):
    (project / "my_model.py").write_text(MODEL)
    change(project, STUDENT, "student: {file: {path: my_model.py, factory: three_outputs}}")
    result = compressor("plan", "recipe.yaml", "--code", "my_model.py", cwd=project)
    assert result.returncode == 3
    assert "outputs do not match" in result.stderr


# Bad input: each with its message and exit code.


def test_faults_of_a_recipe_are_told_together(project):
    change(project, "epochs: 6, batch_size: 64}\nstudent", "epocs: 1, batch_size: many}\nstudent")
    words = ("recipe.yaml:7:11: teacher.train.epocs", "did you mean 'epochs'?", "recipe.yaml:7:21", "got 'many'")
    refused(project, code=3, words=words)


def test_a_missing_recipe_is_told(project):
    (project / "recipe.yaml").unlink()
    refused(project, code=3, words=("recipe.yaml", "No such file"))


def test_a_recipe_from_a_newer_schema_is_told(project):
    change(project, "schema: 1", "schema: 2")
    refused(project, code=3, words=("newer compress", "recipe.yaml:1:1"))


def test_a_missing_data_file_is_told(project):
    change(project, "source: digits", "source: {idx: {directory: images}}")
    refused(project, code=3, words=("an IDX file is missing", "train-images-idx3-ubyte"))


def test_a_corrupt_idx_file_is_told(project):
    change(project, "source: digits", "source: {idx: {directory: images}}")
    (project / "images").mkdir()
    (project / "images" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x05")
    refused(project, code=3, words=("no IDX file", "train-images-idx3-ubyte"))


def test_a_corrupt_image_is_told(project):
    change(project, "source: digits", "source: {image-folder: {root: images, size: 8}}")
    for name in ("cat", "dog"):
        (project / "images" / name).mkdir(parents=True)
        (project / "images" / name / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nnot an image")
    refused(project, code=3, words=("the image cannot be read", "cat/1.png"))


INPUTS = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
LABELS = np.arange(200) % 4
ARRAYS = {
    "labels out of range": ({"train_labels": LABELS - 1}, ("label is out of range", "got:      -1", "train, sample 0")),
    "a single class": ({"train_labels": LABELS * 0}, ("holds a single class",)),
    "an empty role": ({"test_inputs": INPUTS[:0], "test_labels": LABELS[:0]}, ("the test role is empty",)),
    "overlapping roles": ({"test_inputs": INPUTS[:9], "test_labels": LABELS[:9]}, ("9 train", "drop-from-train")),
    "not finite": ({"train_inputs": np.full((200, 8, 8), np.nan, np.float32)}, ("an input is not finite", "sample 0")),
}  # fmt: skip


@pytest.mark.parametrize("fault", ARRAYS)
def test_unusable_arrays_are_told(project, fault):
    arrays, words = ARRAYS[fault]
    np.savez(project / "data.npz", **({"train_inputs": INPUTS, "train_labels": LABELS} | arrays))
    change(project, "source: digits", "source: {numpy: {archive: data.npz}}")
    refused(project, code=3, words=words)


ROOTED = """
import torch
from torch import nn

class Rooted(nn.Module):
    # Finite outputs, but the square root has no finite gradient at 0, where the gate begins.
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.gate = nn.Parameter(torch.zeros(16))

    def forward(self, image):
        return self.head((self.gate * self.inner(image.flatten(1))).square().sqrt())

def rooted():
    return Rooted()
"""


def test_a_loss_that_is_not_finite_fails_the_stage(project):
    (project / "my_model.py").write_text(ROOTED)
    change(project, STUDENT, "student: {file: {path: my_model.py, factory: rooted}}")
    words = ("the loss is not finite", "lower learning_rate", "distill, step")
    refused(project, "--code", "my_model.py", code=6, words=words)


MODEL = """
from torch import nn

def three_outputs():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


def test_a_student_whose_outputs_do_not_match_is_told(project):
    (project / "my_model.py").write_text(MODEL)
    change(
        project,
        "student: {cnn: {widths: [4], strides: [2]}}",
        "student: {file: {path: my_model.py, factory: three_outputs}}",
    )
    refused(project, code=3, words=("my_model.py is Python code", "--code"))
    refused(project, "--code", "my_model.py", code=3, words=("outputs do not match", "[2, 10]", "[2, 3]"))


UNMAPPED = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2)
        self.mixing = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, image):
        return self.head(torch.einsum("bchw,cd->bd", self.first(image).relu(), self.mixing))

def odd():
    return Odd()
"""


def test_a_model_of_which_nothing_can_be_cut_is_refused_with_its_layer(project):
    (project / "my_model.py").write_text(UNMAPPED)
    change(project, STUDENT, "student: {file: {path: my_model.py, factory: odd}}")
    change(project, STAGE, "- prune: {kept_macs_fraction: 0.5}")
    result = compressor("run", "recipe.yaml", "--until", "prune", "--code", "my_model.py", cwd=project)
    assert result.returncode == 6, result.stderr
    assert "model.first keeps its 16 channels" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unreachable_prune_target_names_what_is_reachable(project):
    change(project, STUDENT, "student: {cnn: {widths: [16, 16], strides: [2, 1]}}")
    change(project, STAGE, "- prune: {kept_macs_fraction: 0.01, tolerance: 0.005}")
    result = compressor("run", "recipe.yaml", "--until", "prune", cwd=project)
    assert result.returncode == 6, result.stderr
    assert "reach" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_bundle_is_told(project):
    change(project, STAGE, "- export: {variants: [fp32]}")
    result = compressor("run", "recipe.yaml", "--until", "export", "--json", "-q", cwd=project)
    assert result.returncode == 0, result.stderr
    bundle = Path(json.loads(result.stdout)["run_dir"]) / "bundle"
    checked = compressor("verify", bundle, "--json", cwd=project)
    assert json.loads(checked.stdout)["passed"] is True, checked.stderr
    path = bundle / json.loads((bundle / "bundle.json").read_text())["primary"]
    content = path.read_bytes()
    for damaged, words in ((content[:-1], "truncated"), (content[:-1] + b"\0", "changed")):
        path.write_bytes(damaged)
        told = compressor("verify", bundle, cwd=project)
        assert told.returncode == 3
        assert words in told.stderr


def test_verify_needs_onnxruntime_and_numpy_only(project):
    code = "import sys, compress.cli.main as c\ntry: c.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code, "verify", "none"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert "onnxruntime" in result.stderr.split()
    # pydantic may be there: typer looks for it when it reads arguments.
    assert not {"torch", "onnx", "yaml", "sklearn", "mlflow"} & set(result.stderr.split())


def test_an_unwritable_store_is_told(project):
    (project / "file").write_text("no directory")
    refused(project, "--store", "file/store", code=5, words=("the store cannot be written", "--store"))


def test_a_pickled_checkpoint_is_told(project):
    class Model:
        pass

    with (project / "teacher.pt").open("wb") as file:
        pickle.dump({"model": np.float64(3)}, file)
    change(project, "train: {epochs: 6, batch_size: 64}", "weights: teacher.pt")
    change(project, "  source: digits", "  source: digits\n  normalize: identity")
    refused(project, code=3, words=("the weights cannot be read safely", "safetensors", "teacher.pt"))
    torch.save(torch.nn.Linear(2, 2), project / "teacher.pt")
    refused(project, code=3, words=("the weights cannot be read safely", "safetensors", "teacher.pt"))


def test_artifacts_that_are_damaged_are_told_and_made_anew(project):
    before = compressor("run", "recipe.yaml", "--until", "distill", "--json", cwd=project)
    assert before.returncode == 0
    first = json.loads(before.stdout)["stages"]
    for stage, damage in zip(first, ("truncate", "tamper"), strict=True):
        path = project / "compress-store" / "artifacts" / stage["key"] / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 255
        path.write_bytes(content[:-1] if damage == "truncate" else content)
    planned = compressor("plan", "recipe.yaml", "--until", "distill", cwd=project)
    assert "damaged" in planned.stdout
    after = compressor("run", "recipe.yaml", "--until", "distill", "--json", cwd=project)
    assert after.returncode == 0, after.stderr
    for stage in first:
        assert f"set aside and made anew: {stage['key'][:16]}" in after.stderr
    for word in ("model.safetensors", "not the file that was committed", "bytes", "sha256"):
        assert word in after.stderr
    assert [stage["digest"] for stage in first] == [stage["digest"] for stage in json.loads(after.stdout)["stages"]]


def test_a_store_in_use_is_told(project):
    change(project, "train: {epochs: 6, batch_size: 64}", "train: {epochs: 10000, batch_size: 64}")
    with subprocess.Popen(
        [sys.executable, "-m", "compress", "run", "recipe.yaml", "--until", "distill", "-q"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        while not list((project / "compress-store").glob("work/*")):
            time.sleep(0.1)
        refused(project, code=7, words=("another process is running this", str(process.pid)))
        process.kill()


def test_choosing_from_nothing_is_told_with_what_to_do_next(project):
    for arguments, words in (
        (("sweep", "recipe.yaml", "--set", "seed=1,2"), "no gates"),
        (("compare-runs",), "no finished pipelines"),
        (("promote", "tiny"), "no registry"),
    ):
        result = compressor(*arguments, cwd=project)
        assert result.returncode == 3, result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
    assert compressor("sweep", "recipe.yaml", cwd=project).returncode == 2


def test_runs_are_compared_as_a_table_or_as_json(project):
    folder = project / "compress-store" / "runs" / "digits-1"
    folder.mkdir(parents=True)
    shutil.copyfile((Path(__file__).parents[1] / "digits_report.json"), folder / "report.json")
    result = compressor("compare-runs", cwd=project)
    assert result.returncode == 0, result.stderr
    assert "digits-1" in result.stdout
    assert "\x1b[" not in result.stdout
    result = compressor("compare-runs", "--json", "--plot", "here.png", cwd=project)
    found = json.loads(result.stdout)
    assert [run["name"] for run in found["runs"]] == ["digits-1"]
    assert found["plot"] == "here.png"
    assert (project / "here.png").exists()
