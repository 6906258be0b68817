"""Two pipelines that need the same artifact at once: one makes it, the other waits and reuses it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RECIPE = """\
schema: 1
name: {name}
data: {{source: digits}}
teacher:
  model: {{file: {{path: mine.py}}}}
  train: {{epochs: 1, batch_size: 64}}
student: teacher
stages:
  - distill: {{epochs: {epochs}, batch_size: 64}}
"""
# Whoever builds the teacher first goes on only when the test has seen the other one wait.
MODEL = """\
import time
from pathlib import Path
from torch import nn

def build():
    here = Path(__file__).parent
    try:
        (here / "first").touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        while not (here / "go").exists():
            time.sleep(0.02)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
PATIENCE_S = 120


def start(name: str, project: Path) -> subprocess.Popen[str]:
    arguments = [f"{name}.yaml", "--until", "distill", "--code", "mine.py", "--threads", "1", "--json"]
    with (project / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "compress", "run", *arguments],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def test_two_recipes_at_once_make_their_teacher_once(tmp_path):
    (tmp_path / "mine.py").write_text(MODEL)
    for name, epochs in (("one", 1), ("two", 2)):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(name=name, epochs=epochs))
    running = [start(name, tmp_path) for name in ("one", "two")]
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not any("waiting for process" in (tmp_path / f"{name}.log").read_text() for name in ("one", "two")):
            assert time.monotonic() < deadline_s, "neither waited for the other"
            time.sleep(0.05)
        (tmp_path / "go").touch()
        outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [process.returncode for process in running] == [0, 0]
    teachers = [json.loads(output)["stages"][0] for output in outputs]
    assert teachers[0]["digest"] == teachers[1]["digest"]
    assert sorted(teacher["reused"] for teacher in teachers) == [False, True]
    manifests = (tmp_path / "compress-store" / "artifacts").glob("*/manifest.json")
    made = [json.loads(path.read_text())["inputs"].get("stage") for path in manifests]
    assert (made.count("Create"), made.count("Train"), made.count("Distill")) == (1, 1, 2)
