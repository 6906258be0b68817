"""What a teacher must be better than: a constant answer, and chance, by every task's own measure."""

import numpy as np
import pytest
import text_zoo

from compress.data import Data, Samples
from compress.errors import ModelError
from compress.tasks import ImageClassification, Judge
from compress.tasks.naive import CONSTANT, SHUFFLED, lead_over_naive, nearest, refuse_naive

N = 400


def images(labels: np.ndarray, *, classes: int, **judge) -> tuple[ImageClassification, Samples]:
    samples = Samples(np.zeros((len(labels), 1, 2, 2), np.uint8), labels.astype(np.int64))
    roles = {role: samples for role in ("train", "calibration", "select", "test")}
    data = Data(roles=roles, classes=tuple(map(str, range(classes))))  # pyright: ignore[reportArgumentType]
    return ImageClassification.of(data, augment=None, judge=Judge(**judge)), samples


def logits(decided: np.ndarray, *, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[decided]


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_a_coin_is_refused_and_a_little_knowledge_is_not(generator):
    labels = generator.integers(0, 2, N)
    task, samples = images(labels, classes=2)
    coin = generator.integers(0, 2, N)
    with pytest.raises(ModelError, match="not better than an answer that needs no model") as caught:
        refuse_naive(logits(coin, classes=2), task, samples, name="teacher")
    for words in ("data.normalize", "another order", "softmax", "checkpoint", "--force-teacher", "accuracy on select"):
        assert words in str(caught.value)
    right = np.where(generator.random(N) < 0.75, labels, 1 - labels)
    refuse_naive(logits(right, classes=2), task, samples, name="teacher")


def test_the_lead_over_the_majority_is_the_difference_of_accuracies(generator):
    labels = (generator.random(N) < 0.2).astype(np.int64)
    task, samples = images(labels, classes=2)
    decided = np.where(generator.random(N) < 0.9, labels, 1 - labels)
    leads = lead_over_naive(logits(decided, classes=2), task, samples)
    constant = leads[CONSTANT["single-label"]]
    assert constant.value == pytest.approx((decided == labels).mean() - (labels == 0).mean())
    assert constant.low < constant.value < constant.high
    assert nearest(leads) == CONSTANT["single-label"]


def test_chance_is_more_than_a_constant_answer_where_f1_is_judged(generator):
    labels = generator.integers(0, 2, N)
    task, samples = images(labels, classes=2, measure="macro-f1")
    leads = lead_over_naive(logits(generator.integers(0, 2, N), classes=2), task, samples)
    assert leads[CONSTANT["single-label"]].low > 0
    assert nearest(leads) == SHUFFLED
    assert leads[SHUFFLED].low < 0


def test_classes_in_another_order_are_refused(generator):
    labels = generator.integers(0, 4, N)
    task, samples = images(labels, classes=4)
    with pytest.raises(ModelError):
        refuse_naive(logits((labels + 1) % 4, classes=4), task, samples, name="teacher")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_zoo.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("kind", ["label", "labels", "targets", "words"])
def test_every_kind_of_text_has_its_naive_answers(folder, kind, generator):
    data = text_zoo.review_data(kind=kind)
    task, samples = text_zoo.text_task(folder, data), data.select
    labels = task.labels(samples)
    outputs = len(task.classes)
    right = logits(labels, classes=outputs) if task.problem == "single-label" else labels.astype(np.float32) - 0.5
    refuse_naive(right, task, samples, name="teacher")
    leads = lead_over_naive(right, task, samples)
    assert set(leads) == {CONSTANT[task.problem], SHUFFLED}
    for nothing in (generator.standard_normal(right.shape), np.zeros_like(right)):
        with pytest.raises(ModelError):
            refuse_naive(nothing.astype(np.float32), task, samples, name="teacher")
