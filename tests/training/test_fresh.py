"""Fresh views: a new one in each epoch, on which the teachers run, however they and the student read samples."""

from dataclasses import replace

import pytest
import torch

from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.models import Cnn, load_model
from compress.stage import Optimization
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.tasks import Augment, ImageClassification, View
from compress.training.guided import fit_guided

STUDENT = Create(model=Cnn(widths=(8, 8), strides=(2, 1)))
OPTIMIZATION = Optimization(epochs=1, batch_size=100, optimizer="adamw", learning_rate=0.01)


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(augment=Augment(crop_padding=1, views=1), teacher=trained_digits)


def learn(context, tmp_path, *, fresh: bool, epochs: int = 1) -> dict[str, torch.Tensor]:
    module = load_model(STUDENT.run(None, *context).path)
    fit_guided(
        module,
        *context,
        loss=context.loss,
        optimization=OPTIMIZATION.model_copy(update={"epochs": epochs}),
        seed=1,
        checkpoints=context.store.work(f"{fresh} {epochs}"),
        name="fresh",
        fresh=fresh,
    )
    return module.state_dict()


def stored(context) -> int:
    return len(list(context.store.root.glob("artifacts/*/logits.npy")))


@pytest.mark.parametrize("loss", ["hinton", "fitnets"])
def test_an_epoch_of_the_first_fresh_view_is_one_of_the_only_stored_view(context, tmp_path, trained_digits, loss):
    context = replace(context, loss=GuidedLoss(preset=loss), ensemble=((trained_digits, 0.5),))
    fresh = learn(context, tmp_path, fresh=True)
    assert stored(context) == 0
    same = learn(context, tmp_path, fresh=False)
    assert stored(context) > 0
    for name, value in same.items():
        torch.testing.assert_close(fresh[name], value, rtol=1e-3, atol=1e-4)


def test_each_epoch_has_a_view_of_its_own_and_its_own_mixture(context, tmp_path, monkeypatch):
    taken: list[View] = []
    batch = ImageClassification.batch

    def noted(self, samples, index, *, view=None):
        taken.append(view)
        return batch(self, samples, index, view=view)

    monkeypatch.setattr(ImageClassification, "batch", noted)
    learn(replace(context, loss=GuidedLoss(preset="function-matching")), tmp_path, fresh=True, epochs=3)
    views = [view for view in taken if view is not None and view.mixup]  # a mixture's partner is read without one
    assert [*dict.fromkeys(views)] == [View(number, 1.0) for number in range(3)]


def test_fresh_views_of_what_never_varies_are_refused_and_stored_ones_keep_their_key(make_context, trained_digits):
    context = make_context(teacher=trained_digits)
    module = load_model(STUDENT.run(None, *context).path)
    with pytest.raises(StageError, match="no fresh views"):
        Distill(views="fresh").check(module, context.work)
    Distill(views="fresh", loss=GuidedLoss(preset="function-matching")).check(module, context.work)
    assert "views" not in Distill().model_dump(mode="json")
    assert Distill(views="fresh").model_dump(mode="json")["views"] == "fresh"
