"""A model that writes, cut by every stage that cuts, from a recipe to a bundle that writes."""

import json
import subprocess
import sys

import pytest
import writing_zoo

from compress.export.program_file import ProgramFile, open_program
from compress.export.verify import verify_bundle
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe

RECIPE = """
schema: 1
name: shorter
data:
  source: {table: {path: words.csv, text: word, target_text: sounds}}
  symbols: {text: characters, target_text: words, max_length: 16}
teacher:
  model:
    transducer: {width: 32, heads: 4, feed_forward: 64, encoder_layers: 2, decoder_layers: 2, max_length: 16}
  train: {epochs: 30, batch_size: 32, optimizer: adamw, learning_rate: 0.01, label_smoothing: 0.05}
student: teacher
loss: word
stages:
  - prune-vocabulary: {min_count: 6}
  - shorten: {decoder: {evenly: 1}}
  - distill:
      {freeze: encoder, loss: shrink-and-fine-tune, epochs: 12, batch_size: 32, optimizer: adamw, learning_rate: 0.005}
  - prune: {kept_macs_fraction: 0.7, round_to: 8, importance_batches: 2}
  - distill: {name: recover, label: sequence, epochs: 12, batch_size: 32, optimizer: adamw, learning_rate: 0.005}
  - export: {variants: [fp32]}
benchmark: {preset: smoke}
gates: {max_accuracy_drop: 1.0}
"""


@pytest.mark.slow
def test_a_recipe_that_cuts_everything_ends_in_a_bundle_that_writes(tmp_path):
    table = writing_zoo.write_table(tmp_path / "words.csv", 600)
    with table.open("a") as file:
        file.write("".join(f"q{letter},{sound} Q\n" for letter, sound in [*writing_zoo.LETTERS.items()][:5]))
    recipe = Recipe.parse(RECIPE, origin="recipe.yaml", directory=tmp_path)
    options = Options(store=tmp_path / "store", threads=1, reporter=Reporter(quiet=True), force_teacher=True)
    told = plan(recipe, options).foreseen
    assert any(line.startswith("prune-vocabulary: keeps") and "could not be written before" in line for line in told)
    assert any(line.startswith("prune: kept_macs_fraction can be anything from") for line in told)
    outcome = run(recipe, options)
    facts = {row.name: row.facts for row in outcome.report.stages}
    assert facts["shorten"] == {"decoder": {"layers_before": 2, "kept": [0]}}
    symbols = facts["prune-vocabulary"]["symbols"]["source"]
    assert symbols["after"] < symbols["before"]
    accuracy = {row.name: row.scores.accuracy for row in outcome.report.stages if row.scores is not None}
    assert accuracy["recover"] > 0.4 * accuracy["teacher"] > 0.1
    bundle = outcome.shipped.path
    assert verify_bundle(bundle).passed
    vocabulary = json.loads((bundle / "vocabulary.json").read_text())
    assert "q" not in vocabulary["source"]["symbols"]
    program = open_program(bundle / "fp32.json")
    assert len(program.decoder.cache) == 2
    assert ProgramFile.read(bundle / "fp32.json").graphs.keys() == {"encoder", "decoder"}
    done = subprocess.run(
        [sys.executable, str(bundle / "predict.py"), "kate", "qa"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0]
    assert "qa: not in training, and taken as unknown: q" in done.stderr
