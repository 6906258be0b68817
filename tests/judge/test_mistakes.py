"""What the student gets wrong that the teacher got right, counted by hand."""

import base64
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from compress.data import Samples
from compress.judge.mistakes import MAX_CONFUSIONS, mistakes, thumbnail
from compress.judge.scores import Scores
from compress.measures.intervals import wilson_interval
from compress.report.document import MAX_CLASSES, Confusion, Mistakes, Recalls
from compress.tasks import ImageClassification


def scores(decided, classes: int) -> Scores:
    return Scores(artifact=None, logits=np.eye(classes, dtype=np.float32)[decided], tally=None, measures={}, task=None)


@pytest.fixture
def task(digits) -> ImageClassification:
    return replace(ImageClassification.of(digits, augment=None), classes=("a", "b", "c"))


def test_four_kinds_of_samples_and_the_confusions(task):
    samples = Samples(np.zeros((6, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1, 2, 2]))
    teacher, student = scores([0, 0, 1, 0, 2, 0], 3), scores([0, 1, 0, 1, 2, 0], 3)
    found = mistakes(teacher, student, task, samples)
    assert (found.units, found.both_right, found.neither_right) == (6, 2, 1)
    assert (found.teacher_alone_right, found.student_alone_right) == (2, 1)
    assert found.confusions == (Confusion("a", "b", 1), Confusion("b", "a", 1))
    assert [(entry.sample, entry.label, entry.decided) for entry in found.examples] == [(1, "a", "b"), (2, "b", "a")]
    assert all(entry.picture is not None for entry in found.examples)
    kept = mistakes(teacher, student, task, samples, quote=False)
    assert [entry.picture for entry in kept.examples] == [None, None]
    half, whole = wilson_interval(1, 2), wilson_interval(2, 2)
    assert found.classes == (Recalls("a", 2, whole, half), Recalls("b", 2, half, half), Recalls("c", 2, half, half))
    assert [entry.lost for entry in found.classes] == [1, 0, 0]
    assert found.listed == found.classes


def test_a_class_without_samples_has_no_recall(task):
    samples = Samples(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 0]))
    found = mistakes(scores([0, 0], 3), scores([0, 1], 3), task, samples)
    assert [entry.teacher is None for entry in found.classes] == [False, True, True]
    assert [entry.student is None for entry in found.classes] == [False, True, True]
    assert [entry.name for entry in found.listed] == ["a"]


def test_of_a_thousand_classes_those_that_lost_most_are_listed_and_all_are_kept(digits):
    names = tuple(f"class {number}" for number in range(1000))
    task = replace(ImageClassification.of(digits, augment=None), classes=names)
    units = np.where(np.arange(1000) == 999, 0, np.where(np.arange(1000) < 500, 6, 5))  # the last one is never there
    labels = np.repeat(np.arange(1000), units)
    first = np.cumsum(units) - units
    decided = labels.copy()
    for number, lost in {700: 3, 3: 2, 800: 2, **dict.fromkeys(range(900, 950), 1)}.items():
        decided[first[number] : first[number] + lost] = 0
    known = labels.copy()
    known[first[5]] = 0  # gained
    samples = Samples(np.zeros((len(labels), 1, 8, 8), np.uint8), labels)
    found = mistakes(scores(known, 1000), scores(decided, 1000), task, samples)
    assert [entry.name for entry in found.classes] == list(names)
    assert [entry.units for entry in found.classes] == units.tolist()
    assert [entry.lost for entry in found.classes if entry.lost] == [2, -1, 3, 2, *[1] * 50]
    # The smaller of two classes that lost as many comes first.
    assert [entry.name for entry in found.listed[:5]] == [f"class {n}" for n in (700, 800, 3, 900, 901)]
    assert len(found.listed) == MAX_CLASSES
    assert len(found.confusions) == MAX_CONFUSIONS
    assert found.confusions[0] == Confusion("class 700", "class 0", 3)


def test_it_is_read_back_from_json(task):
    samples = Samples(np.zeros((6, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1, 1, 1]))
    found = mistakes(scores([0, 0, 1, 0, 2, 0], 3), scores([0, 1, 0, 1, 2, 0], 3), task, samples)
    assert TypeAdapter(Mistakes).validate_json(json.dumps(asdict(found))) == found


def test_words_of_sentences_are_counted_and_never_shown(task):
    class Words(ImageClassification):
        def labels(self, samples):
            return np.array([0, 1, 2, 1])

    words = Words(**{name: getattr(task, name) for name in ("classes", "shape", "scale", "mean", "std")})
    sentences = Samples(np.array([("a", "b"), ("c", "d")], dtype=object), None)
    found = mistakes(scores([0, 1, 2, 1], 3), scores([0, 1, 0, 1], 3), words, sentences)
    assert found.units == 4
    assert found.confusions == (Confusion("c", "a", 1),)
    assert found.examples == ()


def test_several_labels_and_numbers_are_not_compared_so(task):
    class Regression(ImageClassification):
        problem = "regression"

    samples = Samples(np.zeros((1, 1, 8, 8), np.uint8), np.zeros((1, 3), np.float32))
    other = Regression(**{name: getattr(task, name) for name in ("classes", "shape", "scale", "mean", "std")})
    assert mistakes(scores([0], 3), scores([0], 3), other, samples) is None


def test_a_thumbnail_is_the_picture():
    grey = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    payload = thumbnail(grey).removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(payload)))), grey[0])
    large = thumbnail(np.zeros((3, 100, 200), np.float32)).removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(large))).size == (64, 32)
    line = thumbnail(np.zeros((1, 1, 8), np.uint8)).removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(line))).size == (8, 1)
    assert thumbnail("a text") is None
    assert thumbnail(np.zeros((5, 8, 8), np.uint8)) is None
