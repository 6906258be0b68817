"""A folder of transformers, from a recipe to a bundle that writes without transformers."""

import subprocess
import sys

import numpy as np
import pytest
import writing_zoo
from seq2seq_zoo import make_model

from compress.export.program_file import open_program
from compress.export.verify import verify_bundle
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.tasks.symbols import Vocabularies

RECIPE = """
schema: 1
name: copied
data:
  source: {table: {path: words.csv, text: word, target_text: sounds}}
  split: {test: 40, select: 40, calibration: 40}
  tokenize: {max_length: 24}
teacher: {model: {seq2seq: {path: published, beams: 2}}, train: {epochs: 1, batch_size: 32}}
student: {seq2seq: {path: published, encoder_layers: 1, decoder_layers: 1}}
loss: sequence
stages:
  - distill: {label: {decoding: greedy, keep_given: true}, epochs: 1, batch_size: 32}
  - quantize: {max_accuracy_drop: 1, min_agreement: 0, max_weight_bytes_fraction: 1}
  - export
benchmark: {preset: smoke}
gates: {max_accuracy_drop: 1.0}
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["marian", "t5"])
def test_a_published_model_becomes_a_bundle(family, tmp_path):
    writing_zoo.write_table(tmp_path / "words.csv", 300)
    (tmp_path / "published").mkdir()
    make_model(family, tmp_path / "published")
    recipe = Recipe.parse(RECIPE, origin="recipe.yaml", directory=tmp_path)
    outcome = run(
        recipe, Options(store=tmp_path / "store", threads=1, reporter=Reporter(quiet=True), force_teacher=True)
    )
    bundle = outcome.shipped.path
    assert verify_bundle(bundle).passed
    words = [line.split(",")[0] for line in (tmp_path / "words.csv").read_text().splitlines()[1:8]]
    block = "import runpy, sys\nfor name in ('torch', 'transformers', 'compress'): sys.modules[name] = None\n"
    script = block + "sys.path.insert(0, sys.argv[1])\nsys.argv = sys.argv[1:]\nsys.argv[0] += '/predict.py'\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle), *words], capture_output=True, text=True, check=True
    )
    sides = Vocabularies.read((bundle / "vocabulary.json").read_text())
    decoder = open_program(bundle / "int8-x86.json").decoder
    expected = []
    for word in words:
        ids = np.array([sides.source.read([word], most=24).numbers])
        expected.append(sides.target.decode(decoder.write(ids, np.ones_like(ids)).tokens[0].tolist()))
    assert [line.strip() for line in done.stdout.splitlines()] == expected
