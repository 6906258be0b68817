"""Every further family of texts as teacher and student: distilled with states and attention, or refused; shipped."""

from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch

from compress.errors import ModelError
from compress.judge.scores import score
from compress.loss import GuidedLoss, bind
from compress.models import HuggingFace, load_model
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.training.inference import predict

ALL = {"hard": {}, "kl": {}, "layers": {}, "relations": {}, "last_feature": {}}
MODERNBERT = {name: {} for name in ALL if name != "relations"}
ALBERT = {name: {} for name in ALL if name not in ("layers", "relations")}
# Family -> the loss that it is distilled by, and what is refused with which words.
FAMILIES = {
    "mpnet": (ALL, {}),
    "xlm-roberta": (ALL, {}),
    "camembert": (ALL, {}),
    "modernbert": (MODERNBERT, dict.fromkeys(("relations", "scores"), "no attention that is known")),
    "albert": (ALBERT, dict.fromkeys(("layers", "relations", "scores"), r"(?s)not one tensor.*2 calls")),
}


@pytest.fixture
def made(request, make_context, tmp_path):
    """A setting with a teacher of four layers, and a narrower student, of the family asked for."""
    torch.manual_seed(0)
    data = text_zoo.review_data(count=200)
    folder = text_zoo.make_encoder(tmp_path / "teacher", request.param, num_hidden_layers=4, initializer_range=0.1)
    narrow = text_zoo.make_encoder(tmp_path / "student", request.param, hidden_size=16, num_attention_heads=2)
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    teacher, student = (Create(model=HuggingFace(path=str(path))).run(None, *context) for path in (folder, narrow))
    loss = GuidedLoss.model_validate(FAMILIES[request.param][0])
    return replace(context, teacher=teacher, loss=loss), student


def distil(student, context, *, epochs):
    size = len(context.data.train)  # all of train in every update, so that steps differ in the weights alone
    distill = Distill(epochs=epochs, batch_size=size, optimizer="adamw", learning_rate=0.003, warmup_fraction=0)
    return distill.run(student, *context)


@pytest.mark.parametrize(("made", "family"), [(family, family) for family in FAMILIES], indirect=["made"])
def test_a_family_learns_from_a_larger_one_of_it(made, family):
    context, student = made
    distil(student, context, epochs=5)
    points = [values for _, values in context.recorder.points]
    terms = {*context.loss.terms}
    assert {name.removeprefix("train/loss_") for name in points[0]} == {*terms, "total", "train/learning_rate"}
    for term in {*terms, "total"} - {"hard", "kl"}:  # two untrained heads say much the same, and nothing of labels
        assert points[-1][f"train/loss_{term}"] < points[0][f"train/loss_{term}"], term

    models = [load_model(artifact.path) for artifact in (student, context.teacher)]
    example = context.task.batch(context.data.select, torch.arange(2)).inputs
    for term, told in FAMILIES[family][1].items():  # as `plan` finds out
        with pytest.raises(ModelError, match=told):
            bind(GuidedLoss.model_validate({"hard": {}, term: {}}), *models, example, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("made", FAMILIES, indirect=True)
def test_what_a_family_has_learnt_is_what_its_file_says(made):
    context, student = made
    distilled = distil(student, context, epochs=2)
    bundle = Export(variants=("fp32",)).run(distilled, *context)
    shipped = score(bundle, *context, role="test", teacher=None).logits
    module = load_model(distilled.path)
    assert np.allclose(shipped, predict(module, context.task, context.host, context.data.test), atol=1e-4)
