"""Packed logits: what is kept, what comes back, and that training on them is training on the whole up to that."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.loss import GuidedLoss
from compress.loss.guided import Reading
from compress.models import Cnn
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.training.packing import RETAINED, VERSION, measure, pack, unpack
from compress.training.teacher import teacher_outputs


def peaked(classes: int, *, scale: float) -> torch.Tensor:
    return scale * torch.randn(200, classes, generator=torch.Generator().manual_seed(0)) + 5.0


def test_up_to_256_classes_all_are_kept_in_half_precision():
    logits = peaked(256, scale=3.0)
    found = measure(logits, readings=[Reading()])
    assert (found.kept, found.mass) == (256, pytest.approx(1.0))
    assert found.nats < 1e-4
    torch.testing.assert_close(unpack(*pack(logits, kept=256), classes=256), logits, rtol=1e-3, atol=1e-3)


def test_above_the_fewest_are_kept_that_hold_enough_and_the_others_share_what_is_left():
    logits = peaked(1000, scale=6.0)
    found = measure(logits, readings=[Reading()])
    p = logits.softmax(1)
    held = p.sort(1, descending=True).values[:, : found.kept].sum(1).mean()
    assert 8 < found.kept < 256
    assert held >= RETAINED
    assert p.sort(1, descending=True).values[:, : found.kept // 2].sum(1).mean() < RETAINED
    back = unpack(*pack(logits, kept=found.kept), classes=1000)
    torch.testing.assert_close(back.logsumexp(1), logits.logsumexp(1), rtol=0, atol=5e-3)
    top = logits.topk(found.kept, dim=1)
    torch.testing.assert_close(back.gather(1, top.indices), top.values, rtol=1e-2, atol=1e-2)
    kl = (p * (p.log() - back.log_softmax(1))).sum(1).mean()
    assert float(kl) == pytest.approx(found.nats, abs=1e-4)
    assert 0 < found.nats < 0.1
    assert measure(logits, readings=[Reading()], probabilities=False).kept == 1000


def softmax(values, temperature):
    exponents = np.exp((values - values.max(axis=1, keepdims=True)) / temperature)
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("temperature", "kept"), [(1.0, 8), (2.0, 128), (3.0, 512)])
def test_mass_and_cost_are_those_at_the_temperature_that_is_read(temperature, kept):
    logits = peaked(1000, scale=9.0)
    found = measure(logits, readings=[Reading(temperature)])
    exact = logits.numpy().astype(np.float64)
    p = softmax(exact, temperature)
    held = np.sort(p, axis=1)[:, ::-1].cumsum(axis=1).mean(axis=0)
    assert held[found.kept // 2 - 1] < RETAINED <= held[found.kept - 1]
    assert found.mass == pytest.approx(held[found.kept - 1])
    back = np.empty_like(exact)  # as it is stored, in half precision but for the others' mean
    for row, values in enumerate(exact):
        top = np.argsort(values)[::-1][: found.kept]
        offset = np.log(np.exp(values - values.max()).sum()) + values.max()
        rest = np.delete(values, top)
        back[row] = np.log(np.exp(rest - values.max()).sum() / len(rest)) + values.max()
        back[row, top] = (values[top] - offset).astype(np.float16) + offset
    nats = (p * np.log(p / softmax(back, temperature))).sum(axis=1).mean()
    assert found.nats == pytest.approx(nats, rel=0.01, abs=1e-5)
    assert found.kept == kept
    assert f"at temperature {temperature:g}" in str(found)


@pytest.mark.parametrize("kept", [300, 8])
def test_masked_classes_come_back_finite_and_impossible(kept):
    logits = peaked(300, scale=3.0)
    logits[:, 4:] = -1e9  # fewer classes than are kept
    back = unpack(*pack(logits, kept=kept), classes=300)
    assert bool(back.isfinite().all())
    assert bool(back[:, 4:].le(-6e4).all())
    torch.testing.assert_close(back.softmax(1), logits.softmax(1), rtol=0.02, atol=0)
    assert measure(logits, readings=[Reading()]).nats == pytest.approx(0, abs=1e-4)


def test_outputs_that_are_no_distribution_have_no_nats():
    found = measure(peaked(1000, scale=9.0), readings=[Reading()], probabilities=False)
    assert (found.kept, found.nats, str(found)) == (1000, None, "half precision")


def test_a_loss_is_read_at_its_largest_temperature():
    assert GuidedLoss.model_validate({"kl": {"temperature": 3}, "dkd": {"temperature": 5}}).readings == (Reading(5),)
    assert GuidedLoss(preset="hinton").readings == (Reading(4),)
    assert GuidedLoss.model_validate({"mse": {}}).readings == (Reading(1),)
    both = {"hard": {}, "kl": {"temperature": 2, "standardise": True}, "dkd": {"temperature": 3}}
    assert GuidedLoss.model_validate(both).readings == (Reading(3), Reading(2, standardised=True))
    assert GuidedLoss.model_validate({"hard": {}, "kl": both["kl"]}).readings == (Reading(2, standardised=True),)


def test_standardised_logits_are_kept_by_what_their_softmax_holds():
    logits = peaked(1000, scale=9.0)
    plain, read = (measure(logits, readings=[Reading(2, standardised=how)]) for how in (False, True))
    assert (plain.kept, read.kept) == (128, 1000)  # their probabilities lie near each other, though a few logits lead
    assert read.nats < 1e-4
    assert "temperature 2 of standardised logits" in str(read)
    both = measure(logits, readings=[Reading(2), Reading(2, standardised=True)])
    assert both.kept == 1000
    scaled = measure(logits, readings=[Reading(0.2, standardised=True)])  # where few hold enough
    exact = logits.numpy().astype(np.float64)
    back = unpack(*pack(logits, kept=scaled.kept), classes=1000).numpy().astype(np.float64)
    whole, less = (
        softmax((side - side.mean(1, keepdims=True)) / side.std(1, ddof=1, keepdims=True), 0.2)
        for side in (exact, back)
    )
    nats = (whole * np.log(whole / less)).sum(axis=1)
    assert scaled.kept < 1000
    assert (scaled.nats, scaled.most_nats) == pytest.approx((nats.mean(), nats.max()), rel=1e-3)


def test_outputs_that_no_few_classes_hold_are_kept_whole():
    assert measure(torch.zeros(4, 1000), readings=[Reading()]).kept == 1000


@pytest.mark.parametrize("whole", [256, 4])
def test_a_student_learns_from_packed_outputs_what_it_learns_from_whole_ones(
    make_context, trained_digits, monkeypatch, whole
):
    monkeypatch.setattr("compress.training.packing.WHOLE", whole)
    monkeypatch.setattr("compress.training.packing.FEWEST", 2)
    context = make_context(teacher=trained_digits, ensemble=((trained_digits, 1.0),))
    train = context.data.train
    stored = [
        teacher_outputs(context.work, context.host, train, views=(None,), pack_for=how)
        for how in (None, [Reading(4.0)])
    ]
    batch = context.task.batch(train, torch.tensor([7, 3, 900]))
    exact, packed = (outputs(batch) for outputs in stored)
    for one, other in zip(exact.logits, packed.logits, strict=True):
        torch.testing.assert_close(one.softmax(1), other.softmax(1), rtol=0, atol=0.02)
    for epoch in range(2):
        stored[1].check(epoch)
    sizes = [
        sum(path.stat().st_size for path in context.store.root.glob(f"artifacts/*/{name}.npy"))
        for name in ("logits", "kept")
    ]
    assert sizes[1] * 1.9 < sizes[0]


def test_distill_takes_packed_outputs_and_its_key_says_so(make_context, trained_digits):
    context = make_context(teacher=trained_digits, loss=GuidedLoss(preset="hinton"))
    source = Create(model=Cnn(widths=(8, 8), strides=(2, 1))).run(None, *context)
    stage = Distill(epochs=1, batch_size=100, outputs="packed")
    stage.run(source, *context)
    assert not list(context.store.root.glob("artifacts/*/logits.npy"))
    assert "outputs" not in Distill().model_dump(mode="json")
    assert stage.inputs(source, *context)["packed"] == VERSION
    assert stage.key(source, *context) != Distill(epochs=1, batch_size=100).key(source, *context)


def test_what_packing_costs_is_told_before_a_run_once_there_is_a_teacher(make_context, trained_digits):
    context = make_context(teacher=trained_digits, loss=GuidedLoss(preset="hinton"))
    stage = Distill(outputs="packed")
    (told,) = stage.tell_outputs(context.work, context.host)
    assert "half precision" in told
    assert "at most, at temperature 4, on 512 samples" in told
    (none,) = stage.tell_outputs(replace(context.work, teachers=()), context.host)
    assert "once the teacher is in the store" in none
    assert Distill().tell_outputs(context.work, context.host) == ()
    changed = GuidedLoss.model_validate({"kl": {"standardise": True}})
    plain = GuidedLoss.model_validate({"kl": {}})
    versions = [stage.model_copy(update={"loss": loss}).inputs(None, *context)["packed"] for loss in (plain, changed)]
    assert versions == [VERSION, [VERSION, "standardised"]]
