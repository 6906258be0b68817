"""The simplest model of every task: it learns what there is, the same each time, and is arrays alone."""

import numpy as np
import pytest
import text_zoo

from compress.data import Samples
from compress.tasks import ImageClassification
from compress.tasks.linear import NEVER, LinearPixels, LinearTags, LinearText


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_zoo.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("kind", ["label", "labels", "targets", "words", "pairs"])
def test_text_of_every_kind_is_learnt_from_raw_texts_the_same_each_time(folder, kind):
    data = text_zoo.review_data(kind=kind)
    task = text_zoo.text_task(folder, data)
    simplest = task.simplest()
    assert isinstance(simplest, LinearTags if kind == "words" else LinearText)
    parameters, again = simplest.fit(data.train), simplest.fit(data.train)
    assert {name: values.tobytes() for name, values in parameters.items()} == {
        name: values.tobytes() for name, values in again.items()
    }
    outputs = simplest.outputs(parameters, data.select)
    assert outputs.dtype == np.float32
    assert outputs.shape == (int(task.units(data.select).sum()), len(task.classes))
    assert task.tally(outputs, data.select).value > 0.9


def test_words_that_a_tokenizer_cuts_have_no_row(folder):
    data = text_zoo.review_data(kind="words")
    task = text_zoo.text_task(folder, data, max_length=8)
    units = int(task.units(data.select).sum())
    assert units < sum(map(len, data.select.inputs))
    simplest = task.simplest()
    assert simplest.outputs(simplest.fit(data.train), data.select).shape == (units, 3)


def test_digits_are_told_apart_by_their_pixels_and_large_images_by_their_means(digits):
    task = ImageClassification.of(digits, augment=None)
    simplest = task.simplest()
    parameters = simplest.fit(digits.train)
    reached = task.tally(simplest.outputs(parameters, digits.select), digits.select).value
    assert reached > 0.9
    assert parameters["weights"].shape == (64, 10)
    train = digits.train.take(np.arange(200))
    large = Samples(np.repeat(np.repeat(train.inputs, 8, axis=2), 8, axis=3), train.labels)
    assert simplest.fit(large)["weights"].shape == (32 * 32, 10)


@pytest.mark.parametrize("seen", [(1,), (1, 3), (0, 1, 3)])
def test_classes_that_train_does_not_hold_are_never_decided(seen):
    labels = np.array(seen * 8, np.int64)
    images = np.random.default_rng(0).integers(0, 100, (len(labels), 1, 4, 4)) + 40 * labels[:, None, None, None]
    samples = Samples(images.astype(np.uint8), labels)
    simplest = LinearPixels(5)
    outputs = simplest.outputs(simplest.fit(samples), samples)
    assert set(outputs.argmax(axis=1)) == set(seen)
    assert {*np.flatnonzero((outputs <= NEVER / 2).all(axis=0))} == set(range(5)) - set(seen)


def test_scripts_without_spaces_are_read_by_characters():
    texts = text_zoo.objects(["今天天气很好", "明天天气很坏", "他今天很好", "他明天很坏"] * 5)
    samples = Samples(texts, np.array([0, 1] * 10, np.int64))
    simplest = LinearText("single-label", 2)
    unseen = Samples(text_zoo.objects(["我很好", "我很坏"]), None)
    assert simplest.outputs(simplest.fit(samples), unseen).argmax(axis=1).tolist() == [0, 1]
