"""fit(): resumable to the bit, guarded against non-finite losses, faithful to its schedule."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress.errors import StageError
from compress.loss import GuidedLoss, bind
from compress.loss.features import Hint, LastFeature
from compress.loss.logits import Hard, Kl
from compress.models import Cnn, Mlp, load_model
from compress.stage import Optimization
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.train import Train
from compress.tasks import Augment
from compress.training.inference import predict
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.optimisation import learning_rate

LABELS = GuidedLoss(hard=Hard())


class StopAfter:
    """Says stop at the n-th question."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def weights(artifact):
    return load_model(artifact.path).state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_after", [0, 3, 17])
def test_interrupted_and_repeated_training_ends_with_the_same_bits(make_context, tmp_path, optimizer, stop_after):
    """Dropout and augmentation included; the undisturbed run has a store of its own."""
    from compress.store.store import Store

    stage = Train(epochs=2, batch_size=100, optimizer=optimizer, learning_rate=0.01)
    model = Create(model=Mlp(widths=(32,), dropout=0.3))
    context = make_context(augment=Augment(crop_padding=1))
    undisturbed = replace(context, store=Store.open(tmp_path / "undisturbed"))
    expected = stage.run(model.run(None, *undisturbed), *undisturbed)

    created = model.run(None, *context)
    with pytest.raises(KeyboardInterrupt):
        stage.run(created, *replace(context, interrupted=StopAfter(stop_after)))
    resumed = stage.run(created, *context)
    assert resumed.digest == expected.digest
    assert all(torch.equal(value, weights(expected)[name]) for name, value in weights(resumed).items())


def test_distillation_resumes_to_the_same_bits(make_context, tmp_path, trained_digits):
    from compress.store.store import Store

    stage = Distill(epochs=2, batch_size=100)
    context = make_context(teacher=trained_digits, augment=Augment(crop_padding=1, views=3))
    undisturbed = replace(context, store=Store.open(tmp_path / "undisturbed"))
    model = Create(model=Cnn(widths=(8, 8), strides=(1, 2)))
    expected = stage.run(model.run(None, *undisturbed), *undisturbed)
    created = model.run(None, *context)
    with pytest.raises(KeyboardInterrupt):
        stage.run(created, *replace(context, interrupted=StopAfter(7)))
    assert stage.run(created, *context).digest == expected.digest


@pytest.mark.parametrize("limit_gb", [0, 4])
def test_projectors_are_checkpointed_with_the_student(make_context, tmp_path, trained_digits, limit_gb):
    """Cached taps and live ones; the last features are cached either way."""
    from compress.store.store import Store

    loss = GuidedLoss(kl=Kl(), hint=Hint(weight=1), last_feature=LastFeature())
    stage = Distill(epochs=2, batch_size=100, cache_limit_gb=limit_gb, loss=loss)
    context = make_context(teacher=trained_digits, augment=Augment(crop_padding=1, views=2))
    undisturbed = replace(context, store=Store.open(tmp_path / "undisturbed"))
    model = Create(model=Cnn(widths=(8, 8), strides=(1, 2)))
    expected = stage.run(model.run(None, *undisturbed), *undisturbed)
    created = model.run(None, *context)
    with pytest.raises(KeyboardInterrupt):
        stage.run(created, *replace(context, interrupted=StopAfter(7)))
    resumed = stage.run(created, *context)
    assert resumed.digest == expected.digest
    assert set(weights(resumed)) == set(weights(created))


def test_accumulation_equals_one_large_batch(make_context):
    """The loss is divided by the units of the whole update, not by the mean of the micro-batches' means."""
    context = make_context()
    made = []
    for size, accumulate in ((100, 1), (25, 4)):
        module = Mlp(widths=(16,)).build(context.task.signature, code=())
        torch.manual_seed(0)
        for value in module.parameters():
            torch.nn.init.normal_(value, std=0.1)
        checkpoints = context.store.work(f"w{accumulate}")
        optimization = Optimization(epochs=1, batch_size=size, accumulate=accumulate, learning_rate=0.05)
        loader = RoleLoader(context.task, context.data.train, optimization, seed=3, views=lambda *_: None)
        fit(
            module, context.task, loader, context.host, loss=bind(LABELS, module, None, (), seed=0), teacher=None,
            optimization=optimization, seed=3, checkpoints=checkpoints, name="t",
        )  # fmt: skip
        made.append(module.state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name], rtol=1e-4, atol=1e-5)


class Rooted(nn.Module):
    """Finite outputs, but the square root has no finite gradient at 0, where the gate begins."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.gate = nn.Parameter(torch.zeros(16))

    def forward(self, image):
        return self.head((self.gate * self.inner(image.flatten(1))).square().sqrt())


def test_non_finite_loss_stops_with_advice(make_context):
    context = make_context()
    torch.manual_seed(0)
    module = Rooted()
    loader = RoleLoader(context.task, context.data.train, Optimization(), seed=0, views=lambda *_: None)
    with pytest.raises(StageError, match="not finite") as caught:
        fit(
            module, context.task, loader, context.host, loss=bind(LABELS, module, None, (), seed=0), teacher=None,
            optimization=Optimization(), seed=0, name="t",
        )  # fmt: skip
    assert "lower learning_rate" in str(caught.value)


def test_too_few_samples_for_a_batch_is_refused(make_context):
    context = make_context()
    created = Create(model=Mlp(widths=(16,))).run(None, *context)
    with pytest.raises(StageError, match="smaller than one update"):
        Train(batch_size=2000).run(created, *context)


def test_schedule_warms_up_linearly_and_ends_near_zero():
    optimization = Optimization(learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, 100, optimization) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates[99] < 1e-3


def test_training_learns_and_leaves_its_source_alone(make_context, trained_digits):
    context = make_context()
    logits = predict(load_model(trained_digits.path), context.task, context.host, context.data.select)
    assert context.task.tally(logits.numpy(), context.data.select).value > 0.93


def test_distilled_student_agrees_with_the_teacher_it_was_given(make_context, trained_digits):
    context = make_context(teacher=trained_digits, loss=GuidedLoss(kl=Kl()))
    unlabelled = replace(context.data.train, labels=None)
    data = replace(context.data, roles={**context.data.roles, "train": unlabelled})
    context = replace(context, data=data)
    student = Distill(epochs=6, batch_size=50).run(
        Create(model=Cnn(widths=(8, 16), strides=(1, 2))).run(None, *context), *context
    )
    ours = predict(load_model(student.path), context.task, context.host, context.data.select).argmax(1)
    theirs = predict(load_model(trained_digits.path), context.task, context.host, context.data.select).argmax(1)
    assert (ours == theirs).float().mean() > 0.85


def test_teacher_of_other_classes_is_refused(make_context, trained_digits, digits):
    data = replace(digits, classes=digits.classes[:9])
    roles = {}
    for role, samples in digits.roles.items():
        assert samples.labels is not None
        roles[role] = samples.take((samples.labels < 9).nonzero()[0])
    context = make_context(data=replace(data, roles=roles), teacher=trained_digits)
    created = Create(model=Mlp(widths=(16,))).run(None, *context)
    with pytest.raises(ValueError, match="do not match the data"):
        Distill(epochs=1).run(created, *context)
