"""The simplest model of every task: it learns what there is, the same each time, and is arrays alone."""

import numpy as np
import pytest
import text_zoo

from compress.data import Data, Samples
from compress.data.named import name_arrays
from compress.measures.judge import Judge
from compress.tasks import ArrayTask, Encode, ImageClassification
from compress.tasks.boosted import BoostedTrees
from compress.tasks.linear import NEVER, LinearPixels, LinearTags, LinearText
from compress.tasks.summaries import LinearSummaries, summarise


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


def drawn(kind, count=300):
    """Inputs, what decides their labels (an interaction, a rate, a drift), and their layout."""
    draw = np.random.default_rng(0)
    if kind == "columns":
        brands, numbers = draw.choice(["a", "b", "c"], count), draw.normal(5, 2, (count, 2))
        score = np.where(brands == "b", numbers[:, 0] - 5, 5 - numbers[:, 0])
        return name_arrays({"x": numbers[:, 0], "y": numbers[:, 1], "brand": brands}, where="here"), score, {}
    if kind == "signal":
        score = draw.uniform(-1, 1, count)
        turns = (4 + 2 * score)[:, None, None] * np.arange(48) / 48 + draw.random((count, 2, 1))
        waves = np.sin(2 * np.pi * turns) + draw.normal(0, 0.1, (count, 2, 48))
        return waves.astype(np.float32), score, {"layouts": {"": "NCL"}}
    score, lengths = draw.normal(0, 1, count), draw.integers(3, 9, count)
    sequence = draw.normal(0, 0.5, (count, 8, 2)) + score[:, None, None]
    sequence[np.arange(8) >= lengths[:, None]] = 99  # padding decides nothing
    named = name_arrays({"sequence": sequence, "lengths": lengths}, where="here")
    return named, score, {"layouts": {"sequence": "NTF"}}


@pytest.mark.parametrize("encode", [Encode(), Encode(categories="index")], ids=["one-hot", "index"])
@pytest.mark.parametrize("problem", ["single-label", "multi-label", "regression"])
@pytest.mark.parametrize("kind", ["columns", "signal", "sequence"])
def test_arrays_of_every_kind_and_problem_have_a_simplest_model(kind, problem, encode):
    inputs, score, settings = drawn(kind)
    labels = {
        "single-label": (score > 0).astype(np.int64),
        "multi-label": np.stack([score > 0, score < 0.5], axis=1).astype(np.uint8),
        "regression": np.stack([1000 + 50 * score, -score], axis=1).astype(np.float32),
    }[problem]
    samples = Samples(inputs, labels)
    train, rest = samples.take(np.arange(200)), samples.take(np.arange(200, 300))
    data = Data({"train": train, "calibration": rest, "select": rest, "test": rest}, ("one", "other"), **settings)
    task = ArrayTask.of(data, encode=encode, normalize=None, judge=Judge())
    simplest = task.simplest()
    assert isinstance(simplest, BoostedTrees if kind == "columns" else LinearSummaries)
    parameters, again = simplest.fit(train), simplest.fit(train)
    assert {name: values.tobytes() for name, values in parameters.items()} == {
        name: values.tobytes() for name, values in again.items()
    }
    outputs = simplest.outputs(parameters, rest)
    assert (outputs.dtype, outputs.shape) == (np.float32, (100, 2))
    assert task.tally(outputs, rest).value > 0.8


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_that_are_walked_here_say_what_scikit_learn_says(classes):
    from sklearn.ensemble import HistGradientBoostingClassifier

    draw = np.random.default_rng(0)
    columns = draw.normal(size=(200, 4)).astype(np.float32)
    columns[::7, 1] = np.nan
    labels = (np.nan_to_num(columns[:, :classes]).argmax(axis=1)).astype(np.int64)
    simplest = BoostedTrees("single-label", classes, "", lambda samples: samples.inputs, lambda samples: samples.labels)
    samples = Samples(columns, labels)
    outputs = simplest.outputs(simplest.fit(samples), samples)
    theirs = HistGradientBoostingClassifier(early_stopping=False, random_state=0, min_samples_leaf=10)
    wanted = theirs.fit(columns, labels).decision_function(columns)
    np.testing.assert_allclose(outputs if classes > 2 else outputs[:, 1] - outputs[:, 0], wanted, rtol=1e-4, atol=1e-4)


def test_padding_decides_no_statistic():
    values = np.random.default_rng(0).normal(size=(3, 2, 8))
    shorter = summarise(values[:, :, :5], None)
    padded = summarise(values, np.array([5, 5, 5]))
    np.testing.assert_allclose(padded[:, :14], shorter[:, :14], rtol=1e-6)  # all but the bands, which have other widths
