"""What the student gets wrong that the teacher got right, counted by hand."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from compress.data import Samples
from compress.judge.mistakes import mistakes, thumbnail
from compress.judge.scores import Scores
from compress.tasks import ImageClassification


def scores(decided: list[int], classes: int) -> Scores:
    return Scores(artifact=None, logits=np.eye(classes, dtype=np.float32)[decided], tally=None, measures={})


@pytest.fixture
def task(digits) -> ImageClassification:
    return replace(ImageClassification.of(digits, augment=None), classes=("a", "b", "c"))


def test_four_kinds_of_samples_and_the_confusions(task):
    samples = Samples(np.zeros((6, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1, 2, 2]))
    teacher, student = scores([0, 0, 1, 0, 2, 0], 3), scores([0, 1, 0, 1, 2, 0], 3)
    found = mistakes(teacher, student, task, samples)
    keys = ("units", "both_right", "teacher_alone_right", "student_alone_right", "neither_right")
    assert [found[key] for key in keys] == [6, 2, 2, 1, 1]
    assert found["confusions"] == [
        {"label": "a", "decided": "b", "count": 1},
        {"label": "b", "decided": "a", "count": 1},
    ]
    assert [(entry["sample"], entry["label"], entry["decided"]) for entry in found["examples"]] == [
        (1, "a", "b"),
        (2, "b", "a"),
    ]
    recalls = {entry["name"]: (entry["teacher"]["value"], entry["student"]["value"]) for entry in found["classes"]}
    assert recalls == {"a": (1.0, 0.5), "b": (0.5, 0.5), "c": (0.5, 0.5)}


def test_a_class_without_samples_has_no_recall(task):
    samples = Samples(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 0]))
    found = mistakes(scores([0, 0], 3), scores([0, 1], 3), task, samples)
    assert [entry["teacher"] is None for entry in found["classes"]] == [False, True, True]


def test_words_of_sentences_are_counted_and_never_shown(task):
    class Words(ImageClassification):
        def labels(self, samples):
            return np.array([0, 1, 2, 1])

    words = Words(**{name: getattr(task, name) for name in ("classes", "shape", "scale", "mean", "std")})
    sentences = Samples(np.array([("a", "b"), ("c", "d")], dtype=object), None)
    found = mistakes(scores([0, 1, 2, 1], 3), scores([0, 1, 0, 1], 3), words, sentences)
    assert found["units"] == 4
    assert found["confusions"] == [{"label": "c", "decided": "a", "count": 1}]
    assert found["examples"] == []


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
    assert thumbnail("a text") is None
    assert thumbnail(np.zeros((5, 8, 8), np.uint8)) is None
