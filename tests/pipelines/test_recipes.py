"""Every shipped recipe goes through everything in a smoke run, and the README's commands and code are true."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from text_zoo import make_bert, write_entities, write_mails
from typed import compressor
from writing_zoo import rows, write_table

from compress.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "pipelines").glob("*/recipe.yaml"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Return a function from a pipeline's name to its smoke run and the folder it ran in; each is run once."""

    @functools.cache
    def run(name: str) -> tuple[subprocess.CompletedProcess, Path]:
        folder = tmp_path_factory.mktemp(name)
        path, options = ROOT / "pipelines" / name / "recipe.yaml", stand_ins(name, folder, run)
        command = ("run", str(path), "--smoke", "--json", "--store", "store", *options)
        return compressor(*command, cwd=folder), folder

    return run


def stand_ins(name: str, folder: Path, run: Callable[[str], tuple[subprocess.CompletedProcess, Path]]) -> list[str]:
    """Options that put made-up data, a tiny encoder or a hasty teacher where a pipeline's README has the real one."""
    values: dict[str, object] = {}
    code: list[str] = []
    if name in ("fashion_mnist", "vit_fashion"):
        values = {"data.split.select": 128, "data.augment.views": 2}  # of thousands, and of four, to be done sooner
    if name == "vit_fashion":
        done, where = run("fashion_mnist")
        assert done.returncode == 0, done.stderr
        (teacher,) = (row for row in json.loads(done.stdout)["stages"] if row["name"] == "teacher")
        values |= {"teacher.artifact": where / "store/smoke/artifacts" / teacher["key"]}
    if name in (written := {"spam": write_mails, "mail_entities": write_entities}):
        encoder = make_bert(folder / "bert", max_position_embeddings=256, num_hidden_layers=4)
        # As many as make the whole run longer than its smoke.
        data = written[name](folder / {"spam": "mails.csv", "mail_entities": "lines.jsonl"}[name], count=9000)
        values = {"data.source.table.path": data, "teacher.model.huggingface.path": encoder, "data.split.test": 200}
        values |= {"data.split.select": 200, "data.split.calibration": 64}
    if name in ("pronunciation", "translation"):
        # A model that has not learnt to end a text writes to the limit, each symbol after the other.
        small = {"width": 16, "heads": 2, "feed_forward": 32, "encoder_layers": 1, "decoder_layers": 1}
        values = {"data.symbols.max_length": 12, "teacher.model.transducer.beams": 2}
        values |= {
            f"{model}.transducer.{key}": size for model in ("teacher.model", "student") for key, size in small.items()
        }
    if name == "pronunciation":
        values |= {"data.source.table.path": write_table(folder / "words.csv", 3000, target="phones")}
        values |= {"data.split.test": 64, "data.split.select": 64, "data.split.calibration": 32}
        values |= {"stages.distill.label.sources": folder / "more_words.txt"}
        (folder / "more_words.txt").write_text("kkotx\noxtekk\nsesese\n")
    if name == "translation":
        pytest.importorskip("sacrebleu", reason="an extra")
        starts = {"train": 200, "calibration": 0, "select": 64, "test": 128}  # of rows; words are in one role each
        pairs = [*dict(rows(3000)).items()]
        for role, start in starts.items():
            found = pairs[start:] if role == "train" else pairs[start : start + 64]
            lines = "".join(f"{word},{sounds}\n" for word, sounds in found)
            (folder / f"{role}.csv").write_text(f"german,english\n{lines}")
            values[f"data.source.table.files.{role}"] = folder / f"{role}.csv"
    if name == "imagenet":
        drawn = np.random.default_rng(0)
        (folder / "photographs").mkdir()
        for number in range(300):
            colour, noise = drawn.integers(0, 200, 3), drawn.integers(0, 55, (40, 48, 3))
            Image.fromarray((colour + noise).astype(np.uint8)).save(folder / "photographs" / f"{number}.jpg")
        (folder / "lite.py").write_text(LITE)
        values = {"data.source.image-folder.root": folder / "photographs", "data.labels.classes": 4}
        values |= {"data.preprocess.size": 32, "data.split.calibration": 16, "teacher.weights": folder / "lite.pt"}
        values |= {"teacher.model.file.path": folder / "lite.py"}
        torch.manual_seed(0)
        scope: dict[str, Any] = {}
        exec(LITE, scope)  # as the recipe's file will be
        model = scope["lite0"]()
        colours = torch.rand(64, 3, 1, 1).expand(-1, -1, 32, 32) * 4 - 2
        with torch.no_grad():
            model[-1].bias -= model(colours).mean(dim=0)  # so that it does not say one class of every colour
        torch.save(model.state_dict(), folder / "lite.pt")
        code = ["--code", str(folder / "lite.py")]
    return [*code, *(option for path, value in values.items() for option in ("--set", f"{path}={value}"))]


LITE = """
from torch import nn
def lite0():
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
"""


SLOW = ("imagenet", "translation", "vit_fashion")  # what they do besides, tests of their own show


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.parent.name in SLOW), id=path.parent.name)
        for path in RECIPES
    ],
)
def test_a_smoke_run_takes_the_recipe_through_everything(path, smoke):
    done, folder = smoke(path.parent.name)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is None
    assert report["estimate"]["hours"] > report["estimate"]["seconds"]["teacher"] / 3600 > 0
    assert report["estimate"]["seconds"]["teacher"] >= round(report["stages"][0]["made_s"], 1)
    stages = [
        next(iter(stage)) if isinstance(stage, dict) else stage for stage in yaml.safe_load(path.read_text())["stages"]
    ]
    assert stages[-1] == "export"
    assert len(report["stages"]) + len(report["absent"]) >= len(stages) + 3
    assert all(row["latency_ms"] for row in report["benchmark"]["rows"])
    bundle = folder / report["run_dir"] / "bundle"
    verified = compressor("verify", str(bundle), "--json", cwd=folder)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("name", SLOW)
def test_the_plan_of_a_slow_recipe_refuses_nothing(name, smoke, tmp_path):
    options = stand_ins(name, tmp_path, smoke)
    planned = compressor("plan", ROOT / "pipelines" / name / "recipe.yaml", "--smoke", *options, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr


def test_the_recipe_that_init_writes_is_the_digits_pipeline(tmp_path):
    assert compressor("init", "digits", cwd=tmp_path).returncode == 0
    assert (tmp_path / "digits" / "recipe.yaml").read_text() == (ROOT / "pipelines/digits/recipe.yaml").read_text()


def test_the_recipe_of_the_docs_is_the_digits_pipeline():
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "recipe.md").read_text(), re.DOTALL)
    assert yaml.safe_load(text) == yaml.safe_load((ROOT / "pipelines/digits/recipe.yaml").read_text())


def test_the_exit_codes_of_the_docs_are_the_ones_there_are():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs" / "recipe.md").read_text(), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_the_python_of_the_docs_compresses_a_users_own_model(tmp_path):
    """The block as it stands, beside a user's model, weights and data."""
    section = (ROOT / "docs" / "python.md").read_text().split("## Your own model and data\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "my_model.py").write_text(
        "from torch import nn\n"
        "def build_teacher():\n"
        "    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),\n"
        "        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))\n"
    )
    (tmp_path / "prepare.py").write_text(
        "import numpy as np, torch\n"
        "from safetensors.torch import save_file\n"
        "from sklearn.datasets import load_digits\n"
        "from my_model import build_teacher\n"
        "raw = load_digits()\n"
        "images = (raw.images * 15).astype(np.uint8)[:, None]\n"
        "np.savez('data.npz', train_inputs=images, train_labels=raw.target.astype(np.int64))\n"
        "torch.manual_seed(0)\n"
        "torch.set_num_threads(1)\n"
        "model = build_teacher()\n"
        "x = torch.from_numpy(images).float() / 255\n"
        "x, y = (x - 0.5) / 0.25, torch.from_numpy(raw.target).long()\n"
        "optimizer = torch.optim.Adam(model.parameters(), 5e-3)\n"
        "for epoch in range(12):\n"
        "    for index in torch.randperm(len(x)).split(64):\n"
        "        optimizer.zero_grad()\n"
        "        torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()\n"
        "        optimizer.step()\n"
        "save_file(model.state_dict(), 'teacher.safetensors')\n"
    )
    (tmp_path / "readme.py").write_text(code + "\nprint(outcome.shipped.kind, outcome.report.verdict.test)\n")
    for name in ("prepare.py", "readme.py"):
        done = subprocess.run([sys.executable, name], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bundle")
