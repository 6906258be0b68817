"""Under a locale that knows ASCII alone, names with other letters are found, and nothing fails to print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.errors import EnvironmentFault
from compress.store.store import Store

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
RECIPE = """\
schema: 1  # größer als 模型
name: klein
data: {source: digits}
teacher:
  model: {cnn: {widths: [8], strides: [2]}}
  train: {epochs: 1, batch_size: 64}
student: {cnn: {widths: [4], strides: [2]}}
stages:
  - distill: {epochs: 1, batch_size: 64}
  - export: {variants: [fp32]}
benchmark: {preset: smoke, profiles: [{}]}
"""


def python(*words: str | Path, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | environment | ASCII,
        input=None if text is None else text.encode(),
        capture_output=True,
        check=False,
    )


def test_every_command_takes_other_letters(tmp_path):
    folder = tmp_path / "größe 模型"
    folder.mkdir()
    (folder / "rezept ö.yaml").write_text(RECIPE, encoding="utf-8")
    for words in (
        ["init", "digits", "ä"],
        ["plan", "rezept ö.yaml", "--store", "lager ü", "--smoke"],
        ["run", "rezept ö.yaml", "--store", "lager ü", "--smoke", "-q", "--threads", "1"],
        ["report", "klein", "--store", "lager ü/smoke", "--all"],
    ):
        done = python("-m", "compress", *words, cwd=folder)
        assert done.returncode == 0, (words, done.stderr.decode())
    assert (folder / "ä" / "recipe.yaml").exists()
    (bundle,) = (folder / "lager ü" / "smoke" / "runs").glob("*/bundle")
    done = python("-m", "compress", "verify", bundle, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    labels = bundle / "labels.json"
    labels.write_text(json.dumps([f"größe {digit}" for digit in range(10)], ensure_ascii=False), encoding="utf-8")
    done = python(bundle / "predict.py", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert rb"gr\xf6\xdfe" in done.stdout


def test_a_name_that_is_no_utf8_is_refused_in_one_line(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(EnvironmentFault, match="no UTF-8"):
        Store.open(odd)
    done = python("-m", "compress", "plan", odd / "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
