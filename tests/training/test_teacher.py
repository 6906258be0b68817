"""Teacher outputs: cached once, in shards, for several teachers, checked live; generations and mixtures."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

import compress.training.teacher as module
from compress.errors import StageError
from compress.loss import GuidedLoss, Tap
from compress.loss.features import Hint, LastFeature
from compress.loss.logits import Dkd, HardToken, Kl
from compress.models import Cnn, load_model
from compress.stage import Optimization, Precision
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.tasks import View
from compress.training.inference import predict
from compress.training.teacher import teacher_outputs

STUDENT = Create(model=Cnn(widths=(8, 8), strides=(1, 2)))
TAPS = {Tap("layers.2"): (16, 8, 8), Tap("head", "input"): (32,)}
MAP, VECTOR = TAPS


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


@pytest.mark.parametrize("in_memory", [True, False])
def test_shards_hold_what_one_pass_gives(in_memory, context, trained_digits, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 512)
    monkeypatch.setattr(module, "SMALL", module.SMALL if in_memory else 0)
    outputs = teacher_outputs(*context, context.data.train, views=(None,), taps=TAPS, limit_bytes=1e9)
    assert [len(outputs.cached[None][0].features[tap]) for tap in TAPS] == [1 if in_memory else 2] * 2
    assert torch.equal(
        outputs.logits(None), predict(load_model(trained_digits.path), context.task, context.host, context.data.train)
    )
    batch = context.task.batch(context.data.train, torch.tensor([700, 3, 512, 511]))
    taught = outputs(batch)
    assert torch.equal(taught.logits[0], outputs.logits(None)[batch.index])
    live = module.live_features(load_model(trained_digits.path), context.task, context.host, batch, list(TAPS))
    for tap in TAPS:
        torch.testing.assert_close(taught.features[tap].float(), live[tap].float(), rtol=1e-4, atol=1e-4)


def test_an_interrupted_pass_goes_on_with_the_next_shard(context, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 512)
    forward, calls = module.forward_all, []

    def killed(*arguments, **options):
        calls.append(options["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    monkeypatch.setattr(module, "forward_all", killed)
    with pytest.raises(KeyboardInterrupt):
        teacher_outputs(*context, context.data.train, views=(None,))
    teacher_outputs(*context, context.data.train, views=(None,))
    assert [name.rpartition(",")[2] for name in calls] == [" part 1 of 2", " part 2 of 2", " part 2 of 2"]


def test_a_request_to_stop_is_heard_while_outputs_are_computed(context):
    with pytest.raises(KeyboardInterrupt):
        teacher_outputs(*replace(context, interrupted=lambda: True), context.data.train, views=(None,))


def test_maps_above_the_limit_come_from_a_live_pass_and_vectors_never_do(context):
    size = 1000 * 16 * 8 * 8 * 4
    for limit, live in ((size - 1, True), (size, False)):
        outputs = teacher_outputs(*context, context.data.train, views=(None,), taps=TAPS, limit_bytes=limit)
        assert (outputs.live is not None) == live
        assert (MAP in outputs.cached[None][0].features) != live
        assert VECTOR in outputs.cached[None][0].features
        assert set(outputs(context.task.batch(context.data.train, torch.arange(3))).features) == set(TAPS)


def test_a_cache_that_is_not_the_teachers_is_caught_by_the_live_check(context):
    outputs = teacher_outputs(*context, context.data.train, views=(None,))
    outputs.check(0)
    (first,) = outputs.cached[None]
    wrong = replace(first, logits=tuple(part + 1 for part in first.logits))
    outputs = replace(outputs, cached={None: (wrong,)})
    with pytest.raises(StageError, match="not what the teacher says now"):
        outputs.check(1)


def test_a_stored_feature_that_is_not_the_teachers_is_caught_too(context):
    outputs = teacher_outputs(*context, context.data.train, views=(None,), taps=TAPS, limit_bytes=1e9)
    outputs.check(0)
    (first,) = outputs.cached[None]
    features = {**first.features, MAP: tuple(part[:, ::-1] for part in first.features[MAP])}
    with pytest.raises(StageError, match=r"the stored tap layers\.2"):
        replace(outputs, cached={None: (replace(first, features=features),)}).check(1)


def test_a_copy_of_the_teacher_has_nothing_to_learn_without_labels(context, trained_digits):
    for loss in (GuidedLoss(preset="born-again"), GuidedLoss(dkd=Dkd(), hint=Hint())):
        with pytest.raises(StageError, match="nothing to learn"):
            Distill(epochs=1, batch_size=100, loss=loss).run(trained_digits, *context)


def test_a_copy_learns_from_a_second_teacher_and_from_decisions(context, trained_digits):
    both = replace(context, ensemble=((STUDENT.run(None, *context), 1.0),))
    for loss, here in ((GuidedLoss(preset="born-again"), both), (GuidedLoss(hard_token=HardToken()), context)):
        made = Distill(epochs=1, batch_size=100, loss=loss).run(trained_digits, *here)
        assert made.digest != trained_digits.digest


def test_a_second_teacher_changes_the_key_and_is_averaged(context, trained_digits):
    created = STUDENT.run(None, *context)
    both = replace(context, ensemble=((created, 3.0),))
    stage = Distill(epochs=1, batch_size=100)
    assert stage.key(created, *both) != stage.key(created, *context)
    outputs = teacher_outputs(*both, context.data.train, views=(None,))
    taught = outputs(context.task.batch(context.data.train, torch.arange(4)))
    assert taught.weights == (0.25, 0.75)
    assert torch.equal(
        taught.logits[1], predict(load_model(created.path), context.task, context.host, context.data.train)[:4]
    )
    assert stage.run(created, *both).facts["loss_fingerprint"] == context.loss.fingerprint


def test_mixed_samples_are_the_same_for_both_and_unlabelled(context):
    task, train = context.task, context.data.train
    index = torch.arange(40)
    mixed = task.batch(train, index, view=View(1, mixup=1.0))
    assert mixed.labels is None
    assert torch.equal(mixed.inputs[0], task.batch(train, index, view=View(1, mixup=1.0)).inputs[0])
    assert not torch.equal(mixed.inputs[0], task.batch(train, index, view=View(2, mixup=1.0)).inputs[0])
    half = task.batch(train, index, view=View(1, mixup=0.5)).inputs[0]
    plain = task.batch(train, index).inputs[0]
    untouched = (half == plain).flatten(1).all(1)
    assert 5 < int(untouched.sum()) < 35
    low, high = plain.amin(), plain.amax()
    assert bool(((mixed.inputs[0] >= low - 1e-4) & (mixed.inputs[0] <= high + 1e-4)).all())


def test_function_matching_needs_no_labels(make_context, trained_digits):
    unlabelled = replace(make_context().data.train, labels=None)
    data = replace(make_context().data, roles={**make_context().data.roles, "train": unlabelled})
    context = make_context(data=data, teacher=trained_digits, loss=GuidedLoss(preset="function-matching"))
    student = Create(model=Cnn(widths=(16, 32), strides=(1, 2))).run(None, *context)
    made = Distill(epochs=15, batch_size=50).run(student, *context)
    ours, theirs = (
        predict(load_model(each.path), context.task, context.host, context.data.select)
        for each in (made, trained_digits)
    )
    assert float((ours.argmax(1) == theirs.argmax(1)).float().mean()) > 0.8


def test_each_generation_learns_from_the_one_before(context, monkeypatch):
    created = STUDENT.run(None, *context)
    teachers = []
    import compress.stages.distill as distill

    fit = distill.fit_guided

    def noted(student, work, host, **options):
        teachers.append(work.teacher.artifact.digest)
        return fit(student, work, host, **options)

    monkeypatch.setattr(distill, "fit_guided", noted)
    stage = Distill(epochs=1, batch_size=100, generations=3, loss=GuidedLoss(preset="born-again"))
    made = stage.run(created, *context)
    assert len(set(teachers)) == 3
    assert teachers[0] == context.teacher.digest
    assert made.digest not in teachers
    first = Distill(epochs=1, batch_size=100, loss=GuidedLoss(preset="born-again")).run(created, *context)
    assert load_model(first.path).state_dict().keys() == load_model(made.path).state_dict().keys()


def test_generations_resume_with_the_same_bits(context, tmp_path, monkeypatch):
    from compress.store.store import Store

    created = STUDENT.run(None, *context)
    stage = Distill(epochs=1, batch_size=100, generations=2)
    undisturbed = replace(context, store=Store.open(tmp_path / "undisturbed"))
    expected = stage.run(created, *undisturbed)
    questions = iter(range(15))
    with pytest.raises(KeyboardInterrupt):  # ten steps are a generation
        stage.run(created, *replace(context, interrupted=lambda: next(questions, None) is None))
    assert stage.run(created, *context).digest == expected.digest


def test_a_pruned_student_has_no_later_generations(context, trained_digits):
    pruned = Prune(kept_macs_fraction=0.6, importance="magnitude").run(trained_digits, *context)
    with pytest.raises(StageError, match="no later generations"):
        Distill(epochs=1, batch_size=100, generations=2).run(pruned, *context)


def test_recovery_rebinds_hints_to_the_pruned_widths(context, trained_digits):
    loss = GuidedLoss(kl=Kl(), hint=Hint(weight=1, pairs={"layers.5": "layers.5"}), last_feature=LastFeature())
    pruned = Prune(kept_macs_fraction=0.6, importance_batches=2, loss=loss).run(trained_digits, *context)
    made = Distill(epochs=1, batch_size=100, loss=loss).run(pruned, *context)
    shapes = {name: value.shape for name, value in load_model(made.path).state_dict().items()}
    assert shapes == {name: value.shape for name, value in load_model(pruned.path).state_dict().items()}


def test_what_cannot_work_with_the_loss_is_told_before_anything_runs():
    dist, features = GuidedLoss(preset="dist"), GuidedLoss(hint=Hint())
    assert "splits the batch, which dist compares" in Distill(accumulate=2).misfits(dist)[0]
    assert Distill().misfits(dist) == []
    assert "value for each sample" in Prune(kept_macs_fraction=0.5).misfits(features)[0]
    assert Prune(kept_macs_fraction=0.5, importance="magnitude").misfits(features) == []
    assert Prune(kept_macs_fraction=0.5, loss=GuidedLoss(preset="hinton")).misfits(features) == []
    stepwise = Prune(kept_macs_fraction=0.5, steps=2, recover=Optimization(accumulate=2))
    assert len(stepwise.misfits(dist)) == 1
    from compress.stages.quantize import Quantize

    assert "ranked by the loss on logits" in Quantize().misfits(features)[0]
    assert Quantize(max_accuracy_drop=None).misfits(features) == []
    assert Quantize(loss=GuidedLoss(preset="hinton")).misfits(features) == []


def test_stages_refuse_what_they_cannot_do_from_python_too(context, trained_digits):
    created = STUDENT.run(None, *context)
    for stage in (
        Distill(epochs=1, batch_size=50, accumulate=2, loss=GuidedLoss(preset="dist")),
        Prune(kept_macs_fraction=0.6, loss=GuidedLoss(hint=Hint())),
    ):
        with pytest.raises(StageError, match="dist compares|value for each sample"):
            stage.run(created, *context)


def test_every_precision_has_a_tolerance():
    assert set(module.TOLERANCE) == set(get_args(Precision))
