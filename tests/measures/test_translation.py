"""chrF and BLEU against sacrebleu's own scores, of the whole and of resamples."""

import numpy as np
import pytest

from compress.measures.intervals import measure, measure_changes
from compress.measures.translation import judge_texts

sacrebleu = pytest.importorskip("sacrebleu", reason="an extra")

RIGHT = [
    ("The cat sits on the mat.", "A cat is sitting on the mat."),
    ("He gave no answer to the question.",),
    ("It rains!", "It is raining!", "Rain falls."),
    ("Nobody saw them come home that evening, did they?",),
]
WRITTEN = [
    "The cat sat on the mat.",
    "He gave to the question no answer.",
    "It's raining!",
    "Nobody had seen them coming home in the evening.",
]


def expected(rows):
    """Of these rows, by sacrebleu."""
    written = [WRITTEN[row] for row in rows]
    streams = [[RIGHT[row][place] if place < len(RIGHT[row]) else None for row in rows] for place in range(3)]
    return {"chrf": sacrebleu.CHRF(), "bleu": sacrebleu.BLEU()}, written, streams


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (0, 0, 3), (1,), (2, 2)])
def test_scores_are_those_of_sacrebleu_for_every_resample(rows):
    found = judge_texts(WRITTEN, RIGHT)
    times = np.bincount(rows, minlength=4).astype(np.float64)
    metrics, written, streams = expected(rows)
    for name, metric in metrics.items():
        tally = found[name]
        value = float(tally.of(tally.total(times)))
        assert 100 * value == pytest.approx(metric.corpus_score(written, streams).score, abs=1e-9), name


@pytest.mark.parametrize("written", [["", "", "", ""], ["xyz"] * 4, ["The cat"] * 4])
def test_what_matches_little_or_nothing_has_a_score_too(written):
    found = judge_texts(written, RIGHT)
    streams = [[texts[0] for texts in RIGHT]]
    alone = judge_texts(written, [texts[:1] for texts in RIGHT])
    for name, metric in {"chrf": sacrebleu.CHRF(), "bleu": sacrebleu.BLEU()}.items():
        assert 100 * alone[name].value == pytest.approx(metric.corpus_score(written, streams).score, abs=1e-9)
        assert 0 <= found[name].value < 0.4


def test_two_models_are_compared_on_the_same_resamples():
    ours = judge_texts(WRITTEN * 20, RIGHT * 20)
    theirs = judge_texts([texts[0] for texts in RIGHT] * 20, RIGHT * 20)
    for name in ("chrf", "bleu"):
        assert theirs[name].value == pytest.approx(1)
        level = measure(ours, seed=0)[name]
        change = measure_changes(ours, theirs, seed=0)[name]
        assert level.low < level.value < level.high
        assert change.value == pytest.approx(level.value - 1)
        assert change.low < change.value < change.high < 0
        assert [*measure_changes(ours, ours, seed=0)[name]] == [0, 0, 0]
