"""What each cheap probe warns of, on digits: the fault is made, and its healthy twin is not warned of."""

from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch

from compress.advice import measures
from compress.advice.rules import judge
from compress.data import Samples
from compress.loss import GuidedLoss, Tap
from compress.loss.attention import DynamicLayers
from compress.loss.features import Hidden, LastFeature
from compress.loss.logits import Hard, Kl, kl
from compress.models import Cnn, load_model

STUDENT = Cnn(widths=(8, 16, 32), strides=(1, 2, 1))


class MeanOverAll(Kl):
    """The reduction of ``F.kl_div``'s default: divided by the number of classes too."""

    def value(self, student, targets):
        divergence = super().value(student, targets)
        return divergence / student.shape[1]


class SumOverBatch(Kl):
    """No division at all, and every sample gets the whole batch's sum."""

    def value(self, student, targets):
        divergence = super().value(student, targets)
        return divergence + 100 * divergence.sum()


class NoSquare(Kl):
    """Without temperature squared."""

    def value(self, student, targets):
        temperature = self.temperature
        return kl((student / temperature).log_softmax(dim=1), (targets.teacher() / temperature).log_softmax(dim=1))


@pytest.fixture
def context(make_context, trained_digits):
    made = make_context(teacher=trained_digits)
    return replace(made, data=measures.draw_probe(made.data))


@pytest.fixture
def teacher(trained_digits):
    return load_model(trained_digits.path)


def student(context, model=STUDENT):
    torch.manual_seed(0)
    return model.build(context.task.signature, code=())


def warned(found):
    return {(finding.probe, finding.subject) for finding in judge(found).warnings}


def with_train(context, inputs=None, labels=None, rows=None):
    train = context.data.train if rows is None else context.data.train.take(rows)
    train = Samples(train.inputs if inputs is None else inputs, train.labels if labels is None else labels)
    return replace(context, data=replace(context.data, roles={**context.data.roles, "train": train}))


def test_the_probe_set_holds_no_test_samples(make_context):
    data = measures.draw_probe(make_context().data)
    assert len(data.test) == len(data.calibration) == 0
    assert 0 < len(data.train) <= measures.PROBED


@pytest.mark.parametrize("term", [MeanOverAll(), SumOverBatch(), NoSquare()])
def test_a_term_with_a_wrong_reduction_is_caught(term):
    assert warned(measures.conformance(GuidedLoss(hard=Hard(weight=0.1), kl=term))) == {("conformance", "kl")}


def test_our_terms_conform():
    assert not warned(measures.conformance(GuidedLoss(preset="hinton", dkd={}, dist={}, bernoulli={}, mse={})))


def test_gradients_of_a_wrong_reduction_are_caught_and_of_the_preset_are_not(context, teacher):
    found = measures.audit(GuidedLoss(preset="hinton"), *context, student=student(context), teacher=teacher)
    assert {measure.probe for measure in found} == {"gradient-ratio", "gradient-cosine"}
    assert not warned(found)
    wrong = GuidedLoss(hard=Hard(weight=0.1), kl=SumOverBatch(weight=0.9))
    found = measures.audit(wrong, *context, student=student(context), teacher=teacher)
    assert ("gradient-ratio", "kl") in warned(found)
    weak = GuidedLoss(hard=Hard(), kl=Kl(weight=1e-4))
    assert ("gradient-ratio", "kl") in warned(measures.audit(weak, *context, student=student(context), teacher=teacher))


def test_the_gradient_ratio_is_autograds_own(context, teacher):
    """One batch, by hand: gradients of the weighted terms over all parameters."""
    few = with_train(context, rows=np.arange(100))
    loss, ours = GuidedLoss(hard=Hard(weight=0.1), kl=Kl(weight=0.9, temperature=2)), student(context)
    (ratio, angle) = measures.audit(loss, *few, student=ours, teacher=teacher)
    ours.train()
    batch = few.task.batch(few.data.train, torch.arange(100))
    logits = few.task.forward(ours, batch)
    with torch.no_grad():
        theirs = few.task.forward(teacher.eval(), batch)
    soft = torch.nn.functional.kl_div(
        (logits / 2).log_softmax(1), (theirs / 2).log_softmax(1), log_target=True, reduction="batchmean"
    )
    parts = [0.9 * 4 * soft, 0.1 * torch.nn.functional.cross_entropy(logits, batch.labels)]
    flat = [
        torch.cat([value.flatten() for value in torch.autograd.grad(part, list(ours.parameters()), retain_graph=True)])
        for part in parts
    ]
    assert ratio.value.value == pytest.approx(float(flat[0].norm() / flat[1].norm()), rel=1e-3)
    assert angle.value.value == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)), rel=1e-3)


def test_a_student_with_dropout_gives_the_same_gradients_twice(context, teacher):
    ours = torch.nn.Sequential(student(context), torch.nn.Dropout(0.5))
    found = [measures.audit(context.loss, *context, student=ours, teacher=teacher) for _ in range(2)]
    assert found[0] == found[1]


def test_classes_in_another_order_pull_against_the_labels(context, teacher):
    shuffled = with_train(context, labels=(context.data.train.labels + 3) % 10)
    (_, right), (_, wrong) = (
        measures.audit(context.loss, *here, student=student(context), teacher=teacher) for here in (context, shuffled)
    )
    assert right.probe == wrong.probe == "gradient-cosine"
    assert right.value.value > 0.5 > wrong.value.value


@pytest.mark.parametrize(
    "change",
    [
        lambda images: 240 - images,
        lambda images: np.ascontiguousarray(np.rot90(images, axes=(2, 3))),
        lambda images: np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype(np.uint8),
    ],
)
def test_shifted_data_are_caught(context, teacher, change):
    assert not warned(measures.shift(context.data, None))
    shifted = with_train(context, inputs=change(context.data.train.inputs))
    assert ("shift", "") in warned(measures.shift(shifted.data, None))
    train = measures.train_logits(*shifted, shifted.loss, student(context), teacher)
    assert {("accuracy-drop", "")} <= warned(measures.of_teacher(*shifted, train, reference=None))


def test_a_reference_sample_is_what_the_data_are_compared_with(context):
    shifted = Samples(240 - context.data.train.inputs, None)
    assert ("shift", "") in warned(measures.shift(context.data, shifted))


def test_a_healthy_teacher_is_not_warned_of(context, teacher):
    train = measures.train_logits(*context, context.loss, student(context), teacher)
    assert not warned([*measures.of_teacher(*context, train, reference=None), *measures.softness(train, context.loss)])


def test_a_one_hot_teacher_is_caught_at_temperature_one_alone(context, teacher):
    logits = 6 * measures.train_logits(*context, context.loss, student(context), teacher)
    for temperature, expected in ((1.0, {("non-target-mass", "kl")}), (20.0, set())):
        assert warned(measures.softness(logits, GuidedLoss(kl=Kl(temperature=temperature)))) == expected


def sides(*, train_errors, select_errors, surer, count=2000, classes=5):
    """Return logits and labels of train and select with given shares of errors."""
    random, found = np.random.default_rng(0), []
    for errors, scale in ((train_errors, 4.0 * surer), (select_errors, 4.0)):
        labels = random.integers(0, classes, count)
        decided = np.where(random.uniform(size=count) < errors, (labels + 1) % classes, labels)
        found += [scale * np.eye(classes, dtype=np.float32)[decided], labels]
    return found[0], found[2], (found[1], found[3])


def test_data_filtered_to_what_the_teacher_gets_right_are_caught():
    train, select, labels = sides(train_errors=0.0, select_errors=0.08, surer=1.0)
    assert ("filtered", "") in warned(measures.memorisation(train, select, select, labels))
    train, select, labels = sides(train_errors=0.05, select_errors=0.08, surer=1.0)
    assert not warned(measures.memorisation(train, select, select, labels))


def test_data_known_by_heart_are_told_from_filtered_ones():
    train, select, labels = sides(train_errors=0.0, select_errors=0.08, surer=3.0)
    assert warned(measures.memorisation(train, select, select, labels)) == {("confidence-gap", "")}


def test_capacity_is_a_ratio_of_parameters_and_logits_alone_are_told(context, teacher):
    example = context.task.batch(context.data.select, torch.arange(2)).inputs
    tiny = student(context, Cnn(widths=(1, 1), strides=(2, 2)))
    (found,) = measures.capacity(tiny, teacher, example)
    counts = [sum(value.numel() for value in module.parameters()) for module in (tiny, teacher)]
    assert found.value.value == counts[0] / counts[1]
    assert {("capacity", ""), ("logits-only", "")} == warned(
        [found, *measures.logits_only(context.loss, tiny, teacher, example)]
    )
    features = GuidedLoss(preset="hinton", hidden=Hidden())
    assert measures.logits_only(features, tiny, teacher, example) == []


def test_pairs_are_those_of_the_term_and_a_twin_is_alike(context, teacher):
    twin = load_model(context.teacher.path)
    found = measures.pairing(GuidedLoss(preset="hinton", hidden=Hidden()), twin, teacher, *context)
    assert len(found) > 1
    assert all(measure.value.value == pytest.approx(1) for measure in found)
    (best,) = measures.pairing(GuidedLoss(preset="hinton"), twin, teacher, *context)
    assert best.probe == "best-pairs"
    assert "layers" in best.detail


class Changed(torch.nn.Module):
    """A network that changes the end of its only stage in place, as torchvision's DenseNet does."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(8, 10)

    def forward(self, images):
        features = torch.nn.functional.relu(self.conv(images), inplace=True)
        return self.head(features.mean(dim=(2, 3)))


def test_stages_that_are_changed_in_place_are_left_out_and_no_error(context, teacher):
    assert measures.pairing(context.loss, Changed(), teacher, *context) == []
    loss = GuidedLoss(last_feature=LastFeature())
    (found,) = measures.pairing(loss, Changed(), teacher, *context)
    assert found.subject == "last_feature, head:input : head:input"


class Tokens(torch.nn.Module):
    """Two layers that mix tokens, on word numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(300, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(2))
        self.head = torch.nn.Linear(8, 2)

    def forward(self, ids, mask):
        states = self.words(ids)
        for layer in self.layers:
            states = torch.tanh(layer(states))
        return self.head(states[:, 0])


@pytest.fixture
def texts(make_context, tmp_path):
    data = text_zoo.review_data()
    return replace(make_context(), data=data, task=text_zoo.text_task(text_zoo.make_tokenizer(tmp_path), data))


def test_padding_is_no_part_of_what_layers_have_in_common(texts):
    """A long text in the batch pads all others; their features stay what they are."""
    train = texts.data.train
    longer = Samples(np.append(train.inputs[:30], " ".join(["film"] * 40)), np.arange(31) % 2)
    padded = replace(texts, data=replace(texts.data, roles={**texts.data.roles, "train": longer}))
    taps = [Tap("layers.0"), Tap("layers.1")]
    plain, wide = (measures._features(Tokens(), *here, taps) for here in (texts, padded))
    for tap in taps:
        np.testing.assert_allclose(wide[tap][:30], plain[tap][:30], atol=1e-6)


def test_the_pairs_that_dynamic_layers_choose_from_are_not_judged_one_by_one(texts):
    loss = GuidedLoss(dynamic_layers=DynamicLayers(teacher_layers=2))
    (found,) = measures.pairing(loss, Tokens(), Tokens(), *texts)
    assert found.probe == "best-pairs"
