"""What advice reads off texts that a model wrote: lengths, runaways, errors by length, what a label would keep."""

import numpy as np
import pytest
import writing_zoo

from compress.advice.rules import judge
from compress.advice.written import measure_choice, measure_gap, measure_texts
from compress.data.answers import objects
from compress.data.samples import Samples
from compress.stage import Writing
from compress.tasks.pieces import BytePairs
from compress.tasks.symbols import PAD
from compress.training.label import Counts, Label, _choose
from compress.training.writing import Written


@pytest.fixture(scope="module")
def data():
    return writing_zoo.data()


@pytest.fixture(scope="module")
def task(data):
    return writing_zoo.task(data)


@pytest.fixture(scope="module")
def samples(data) -> Samples:
    return data.train.take(np.arange(200))


@pytest.fixture
def right(task, samples):
    """What is right, as a model would write it."""
    found = np.full((len(samples), task.max_length), PAD)
    for row, texts in zip(found, samples.labels, strict=True):
        numbers = task.vocabularies.target.encode(texts[0])
        row[: len(numbers)] = numbers
    return found


def probes(measures):
    return {measure.probe: measure for measure in measures}


def flagged(measures):
    return {finding.probe for finding in judge(measures).warnings}


def test_right_texts_warn_of_nothing(task, samples, right):
    found = measure_texts(task, right, samples, "teacher")
    assert [measure.probe for measure in found] == ["length-ratio", "runaway", "long-texts"]
    assert [measure.value.value for measure in found] == [pytest.approx(1), 0, 0]
    assert flagged([*found, measure_gap(task, right, right, samples, "teacher")]) == set()


def test_texts_without_an_end_are_counted_and_warned_of(task, samples, right):
    symbol = right[0, 0]
    right[:50] = symbol  # to the last place that there is, so that no end fits
    found = measure_texts(task, right, samples, "teacher")
    assert probes(found)["runaway"].value.value == 0.25
    assert probes(found)["runaway"].detail == "50 of 200 texts"
    assert {"runaway", "length-ratio"} <= flagged(found)


def test_errors_of_long_texts_are_told_apart(task, samples, right):
    lengths = (right != PAD).sum(axis=1)
    long = lengths > np.quantile(lengths, 0.75)
    right[long, 0] = np.where(right[long, 0] == 4, 5, 4)  # one symbol of each is wrong
    found = probes(measure_texts(task, right, samples, "teacher"))["long-texts"]
    assert found.value.value == pytest.approx(long.sum() / lengths[long].sum())
    assert found.detail.endswith(f"above {np.quantile(lengths, 0.75):g}: {found.value.value:.1%}")
    assert flagged([found]) == {"long-texts"}


def test_a_beam_that_is_right_more_often_is_a_gap(task, samples, right):
    greedy = right.copy()
    greedy[::4, 0] = np.where(greedy[::4, 0] == 4, 5, 4)
    gap = measure_gap(task, greedy, right, samples, "teacher")
    assert gap.value.value == pytest.approx(0.25)
    assert "75.0% exact-match greedy, 100.0% with a beam" in gap.detail
    assert flagged([gap]) == {"beam-gap"}


def test_a_label_that_keeps_what_is_right_alone_is_warned_of(task, samples, right):
    right[:100, 0] = np.where(right[:100, 0] == 4, 5, 4)

    def choice(**fields):
        writing = Writing(rows=1, texts=1, further=0, **{"given": False, "max_error_rate": 0.0, **fields})
        return measure_choice(task, right, samples, writing, "distill")

    (found,) = choice()
    assert found.value.value == 0.5
    assert flagged([found]) == {"correct-only"}
    assert flagged(choice(max_error_rate=1.0)) == set()
    assert choice(given=True) == choice(max_error_rate=None) == []


def test_a_label_counts_pieces_and_so_does_its_warning(data):
    task = writing_zoo.task(data, target_text=BytePairs(bpe=300))
    target = task.vocabularies.target
    texts = ["QWZVJ", "K"] * 20  # one word each, of many pieces and of few
    samples = Samples(objects("ka" for _ in texts), objects((text,) for text in texts))
    written = [[*target.encode(text)[:-1], target.encode("X")[-1]] for text in texts]  # the last piece is another
    limit, found = 0.4, np.full((len(texts), task.max_length), PAD)
    for row, numbers in zip(found, written, strict=True):
        row[: len(numbers)] = numbers
    writing = Writing(rows=1, texts=1, further=0, given=False, max_error_rate=limit)
    (measured,) = measure_choice(task, found, samples, writing, "distill")
    kept = [
        _choose([Written(tuple(row), -1.0, True)], [tuple(target.encode(text))], Label(max_error_rate=limit), Counts())
        for row, text in zip(written, texts, strict=True)
    ]
    assert measured.value.value == np.mean([bool(one) for one in kept]) == 0.5
    nothing = np.full_like(found, PAD)  # is never learnt
    assert measure_choice(task, nothing, samples, writing, "distill")[0].value.value == 0
