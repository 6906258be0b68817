"""A measure of the user's own: a function of outputs and labels whose sums over samples have paired intervals."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compress import DataConfig, Digits, Judge, OwnMeasure, Tally, shares
from compress.errors import CompressError, DataError
from compress.measures.intervals import measure, measure_changes
from compress.measures.own import take
from compress.tasks import ImageClassification


def top2(outputs, labels):
    return shares((np.argsort(outputs, axis=1)[:, -2:] == labels[:, None]).any(axis=1))


def cost(outputs, labels):
    """Minus the mean distance between the decided and the right class: no share."""
    distance = np.abs(outputs.argmax(axis=1) - labels)
    return Tally(np.stack([-distance, np.ones(len(labels))], axis=1), lambda total: total[..., 0] / total[..., 1])


def accuracy(outputs, labels):
    return shares(outputs.argmax(axis=1) == labels)


def draw(count=40, classes=5):
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, classes)), generator.integers(classes, size=count)


def test_its_value_and_its_intervals_are_those_of_its_sums():
    outputs, labels = draw()
    ranks = (outputs > outputs[np.arange(40), labels][:, None]).sum(axis=1)
    tally = take(top2, outputs, labels)
    assert tally.value == pytest.approx(np.mean(ranks < 2))
    assert tally.binary is not None
    other = take(top2, outputs[::-1].copy(), labels)
    change = measure_changes({"top2": other}, {"top2": tally}, seed=0)["top2"]
    assert change.low <= other.value - tally.value <= change.high
    found = measure({"cost": take(cost, outputs, labels)}, seed=0)["cost"]
    assert found.value == pytest.approx(-np.abs(outputs.argmax(axis=1) - labels).mean())
    assert found.low < found.value < found.high < 0


def test_it_gets_float32_and_may_change_what_it_gets():
    outputs, labels = draw()
    kept = outputs.copy(), labels.copy()

    def spoil(given, right):
        assert given.dtype == np.float32
        given[:], right[:] = 0, 0
        return shares(np.ones(len(given), bool))

    assert take(spoil, outputs, labels).value == 1
    np.testing.assert_array_equal(outputs, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


def test_it_judges_beside_the_usual_measures_and_is_named_after_the_function(digits):
    task = ImageClassification.of(digits, augment=None, judge=Judge(measure=top2))
    outputs = np.random.default_rng(0).standard_normal((len(digits.select), 10))
    tallies = task.tallies(outputs, digits.select)
    assert task.measure == "top2"
    assert {"accuracy", "macro-f1", "top2"} <= set(tallies)
    assert task.tally(outputs, digits.select).value == take(top2, outputs, digits.select.labels).value


def test_the_content_of_its_file_counts_and_its_path_does_not(digits, tmp_path):
    content = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert Judge(measure=top2).model_dump(mode="json")["measure"] == f"top2 {content}"
    path = tmp_path / "my_measure.py"
    path.write_bytes(Path(__file__).read_bytes())
    unread = Judge(measure=OwnMeasure(file=path, function="top2"))
    assert unread.model_dump_json() == Judge(measure=top2).model_dump_json()
    tasks = [ImageClassification.of(digits, augment=None, judge=Judge(measure=own)) for own in (None, top2, cost)]
    assert len({task.digest for task in tasks}) == 3
    with pytest.raises(CompressError, match=r"(?s)was not run.*top2 of my_measure\.py"):
        ImageClassification.of(digits, augment=None, judge=unread)


def test_judges_of_ours_are_dumped_as_ever():
    assert Judge().model_dump_json() == '{"measure":null,"merge":{}}'
    assert Judge(measure="macro-f1").model_dump_json() == '{"measure":"macro-f1","merge":{}}'


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda outputs, labels: outputs.argmax(axis=1) == labels, r"a Tally, such as shares.*ndarray"),
        (lambda outputs, labels: shares(labels[:-1] > 0), r"numbers \[40, K\].*counts \[39, 2\]"),
        (lambda outputs, labels: Tally(labels * 1.0, np.sum), r"numbers \[40, K\].*counts \[40\]"),
        (lambda outputs, labels: Tally(outputs / 0 * 0, lambda total: total[..., 0]), r"finite numbers"),
        (lambda outputs, labels: shares(labels > 0, 0 * labels), r"finite numbers.*measure inf"),
        (lambda outputs, labels: Tally(outputs, lambda total: total.sum()), r"\[2, K\] became \[\]"),
        (lambda outputs, labels: shares(labels[99] > 0), r"fails.*IndexError.*test_own\.py:\d+"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_is_no_measure_is_refused(measure, words):
    with pytest.raises(DataError, match=f"(?s)<lambda> of test_own.py.*{words}"):
        take(measure, *draw())


def test_a_name_of_ours_is_refused():
    with pytest.raises(ValidationError, match="is one of our measures"):
        Judge(measure=accuracy)


def test_it_is_tried_before_anything_trains():
    wrong = DataConfig(source=Digits(), judge=Judge(measure=lambda outputs, labels: labels))
    with pytest.raises(DataError, match="is no measure"):
        wrong.task_of(wrong.load(), tokenizer=None)
