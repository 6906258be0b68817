"""Prune on encoders of text: one label a text, one label a word."""

import json
from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch

from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.loss.logits import Hard
from compress.models import load_model
from compress.recipe import Recipe
from compress.stages.create import Create
from compress.stages.prune import Prune
from compress.surgery.cost import model_cost

RECIPE = """
schema: 1
name: text
data:
  source: {{table: {{path: {path}, {columns}}}}}
  split: {{test: 32, select: 32, calibration: 32}}
teacher: {{model: {{huggingface: {{path: bert}}}}, train: {{epochs: 1}}}}
student: teacher
loss: {{hard: {{}}}}
stages: [{{prune: {{kept_macs_fraction: 0.5}}}}]
"""


def write_tagged(path):
    """Sentences of several lengths as lists of words, each with a label."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(160):
        words = rng.choice(text_zoo.GOOD + text_zoo.FILLERS, int(rng.integers(2, 9))).tolist()
        lines.append({"text": words, "label": ["good" if word in text_zoo.GOOD else "other" for word in words]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("path", "columns", "write"),
    [
        ("texts.csv", "text: text, label: label", text_zoo.write_reviews),
        ("words.jsonl", "words: text, tags: label", write_tagged),
    ],
)
def test_an_encoder_of_text_is_pruned_at_the_length_of_the_select_samples(path, columns, write, tmp_path, make_context):
    text_zoo.make_bert(tmp_path / "bert", initializer_range=0.3, max_position_embeddings=256)
    write(tmp_path / path)
    recipe = Recipe.parse(RECIPE.format(path=path, columns=columns), origin="recipe.yaml", directory=tmp_path)
    data = recipe.data.load(code=())
    context = replace(make_context(loss=GuidedLoss(hard=Hard())), data=data, task=recipe.task(data))
    source = Create(model=recipe.teacher.model).run(None, *context)
    module, asked = load_model(source.path), (recipe.teacher.model, context.work, context.host)
    (told,) = Prune(kept_macs_fraction=0.9).foresee(module, *asked)
    assert told.startswith("kept_macs_fraction can be anything from 0.")
    with pytest.raises(StageError, match="cannot be reached"):
        Prune(kept_macs_fraction=0.001).foresee(module, *asked)
    with pytest.raises(StageError, match="matches no module"):
        Prune(kept_macs_fraction=0.9, protected=("nothing",)).foresee(module, *asked)
    made = Prune(kept_macs_fraction=0.5, round_to=8, importance_batches=2, importance_batch_size=16).run(
        source, *context
    )
    batch = context.task.batch(data.select, torch.arange(8)).inputs
    assert 0 < int(batch[1].sum()) < batch[1].numel()  # some are padded
    assert made.facts["sample_shapes"] == [list(tensor.shape[1:]) for tensor in batch]
    assert made.facts["masked_difference"] <= 1e-9
    assert made.facts["importance"]["method"] == "taylor"
    assert made.facts["after"]["macs"] == model_cost(load_model(made.path), batch).macs
    assert made.facts["kept_macs_fraction"] <= 0.5
