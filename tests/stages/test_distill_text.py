"""Distill on texts of many lengths: the losses for transformers really train a student."""

import math
from dataclasses import replace
from itertools import groupby

import pytest
import text_zoo
import torch

from compress.loss import GuidedLoss
from compress.models import HuggingFace
from compress.stages.create import Create
from compress.stages.distill import Distill

LOSSES = {
    "distilbert": "distilbert",
    "minilm": "minilm",
    "tinybert": "tinybert",
    "cofi": {"hard": {}, "dynamic_layers": {}},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_for_transformers_falls_on_padded_texts(name, make_context, tmp_path):
    torch.manual_seed(0)
    data = text_zoo.review_data(count=200)
    folder = text_zoo.make_bert(tmp_path / "teacher", num_hidden_layers=4, initializer_range=0.1)
    narrow = text_zoo.make_bert(tmp_path / "student", hidden_size=16)  # of equal heads, and of projectors
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    teacher, student = (Create(model=HuggingFace(path=str(path))).run(None, *context) for path in (folder, narrow))
    size = len(data.train)
    assert not context.task.batch(data.train, torch.arange(size)).mask.all()

    # All of train in every update, so that steps differ in the weights alone.
    context = replace(context, teacher=teacher, loss=GuidedLoss.model_validate(LOSSES[name]))
    optimization = {"batch_size": size, "optimizer": "adamw", "learning_rate": 0.003, "warmup_fraction": 0}
    Distill(epochs=12, **optimization).run(student, *context)
    points = [values for _, values in context.recorder.points]
    assert len(points) == 12
    assert all(math.isfinite(value) for values in points for value in values.values())
    seen = set()
    for terms, values in groupby(points, key=lambda values: frozenset(values) - {"train/learning_rate"}):
        totals = [point["train/loss_total"] for point in values]
        assert totals[-1] < 0.98 * totals[0], terms
        seen |= {term.removeprefix("train/loss_") for term in terms}
    assert seen == {*context.loss.terms, "total"}


def test_a_loss_whose_terms_begin_later_trains_by_plain_momentum_too(make_context, tmp_path):
    """The classifier gets its first gradient in the second half."""
    data = text_zoo.review_data(count=200)
    folder = text_zoo.make_bert(tmp_path / "teacher", num_hidden_layers=4)
    narrow = text_zoo.make_bert(tmp_path / "student", hidden_size=16)
    context = replace(
        make_context(), task=text_zoo.text_task(folder, data), data=data, loss=GuidedLoss(preset="tinybert")
    )
    teacher, student = (Create(model=HuggingFace(path=str(path))).run(None, *context) for path in (folder, narrow))
    made = Distill(epochs=2, batch_size=50, optimizer="sgd", learning_rate=0.01).run(
        student, *replace(context, teacher=teacher)
    )
    assert math.isfinite(made.facts["final_loss"])
