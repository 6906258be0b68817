"""The README as a stranger types it, in an environment of its own: from installing to a served prediction.

Its commands are read out of the README. The environment is new and the package is installed into it as `pip install .`
does; its dependencies are those of the environment that runs the tests, because downloading them takes minutes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import text_zoo
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATIENCE_S = 180

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]


def commands(title: str) -> list[str]:
    """The commands of a section of the README."""
    section = README.partition(f"### {title}\n")[2].partition("\n#")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return block.splitlines()


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """A new environment with the package, first on the path."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (install,) = re.findall(r"^pip (install \.)", README, re.MULTILINE)
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(ROOT / "compress", source / "compress", ignore=shutil.ignore_patterns("__pycache__"))
    words = [folder / "bin" / "python", "-m", "pip", *install.split(), "--no-deps", "-q"]
    subprocess.run(words, cwd=source, check=True)
    path = os.pathsep.join([str(folder / "bin"), sysconfig.get_path("scripts"), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PATH": path, "OMP_NUM_THREADS": "1"}


def edit(recipe: Path, old: str, new: str) -> None:
    """Put one's own in the place of what a marked line names."""
    text = recipe.read_text()
    (line,) = [line for line in text.splitlines() if old in line]
    assert "# <--" in line
    recipe.write_text(text.replace(old, new))


def walk(title: str, folder: Path, environment: dict[str, str], edits) -> dict:
    """Type a section's commands in turn; return what the server answers."""
    begin, *steps, serve, ask = commands(title)
    subprocess.run(["bash", "-c", begin], cwd=folder, env=environment, check=True)
    edits()
    for step in steps:
        done = subprocess.run(["bash", "-c", step], cwd=folder, env=environment, capture_output=True, text=True)
        missed = step.startswith("compressor run") and done.returncode == 4  # of so small a model
        assert done.returncode == 0 or missed, f"{step}\n{done.stdout}\n{done.stderr}"
    server = subprocess.Popen(["bash", "-c", serve], cwd=folder, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert server.poll() is None
            assert time.monotonic() < deadline, "waited in vain"
            done = subprocess.run(["bash", "-c", ask], cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode == 0:
                return json.loads(done.stdout)
            time.sleep(0.2)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_texts_in_a_csv(environment, tmp_path):
    def bring():
        text_zoo.write_reviews(tmp_path / "text" / "mine.csv", count=600)
        text_zoo.make_bert(tmp_path / "text" / "encoder", max_position_embeddings=128)
        recipe = tmp_path / "text" / "recipe.yaml"
        edit(recipe, "path: texts.csv", "path: mine.csv")
        edit(recipe, "path: my-encoder", "path: encoder")
        # An encoder that has read nothing needs larger steps than a pretrained one.
        recipe.write_text(recipe.read_text().replace("epochs: 3, batch_size: 32", "epochs: 8, batch_size: 32"))
        recipe.write_text(recipe.read_text().replace("learning_rate: 0.00005", "learning_rate: 0.003"))

    told = walk("Texts in a CSV", tmp_path, environment, bring)
    assert [answer["label"] for answer in told["predictions"]] == ["positive"]


def test_a_folder_of_photographs(environment, tmp_path):
    def bring():
        draw = np.random.default_rng(0)
        for name, colour in (("grass", (70, 150, 60)), ("sky", (90, 140, 220))):
            (tmp_path / "image-folder" / "mine" / name).mkdir(parents=True)
            for number in range(200):
                pixels = np.clip(colour + draw.normal(0, 40, (24, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "image-folder" / "mine" / name / f"{number}.jpg")
        shutil.copyfile(tmp_path / "image-folder" / "mine" / "sky" / "0.jpg", tmp_path / "photo.jpg")
        recipe = tmp_path / "image-folder" / "recipe.yaml"
        edit(recipe, "root: photos, size: 64", "root: mine, size: 16")
        edit(recipe, "width: 64, blocks: [2, 2, 2]", "width: 16, blocks: [1, 1]")
        recipe.write_text(
            recipe.read_text()
            .replace("epochs: 30", "epochs: 4")
            .replace("width: 32, blocks: [1, 1, 1]", "width: 32, blocks: [1, 1]")
        )

    told = walk("A folder of photographs", tmp_path, environment, bring)
    assert [answer["label"] for answer in told["predictions"]] == ["sky"]
