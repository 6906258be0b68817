"""What was written against what is right: edits of symbols, and whole sequences."""

from collections.abc import Mapping, Sequence

import numpy as np

from compress.measures.tally import Numbers, Tally, mean, ratio, shares

Symbols = Sequence[object]


def edit_distance(written: Symbols, right: Symbols) -> int:
    """Return the fewest symbols to insert, delete or replace (Levenshtein 1966)."""
    if written == right:
        return 0
    before = [*range(len(right) + 1)]
    for row, symbol in enumerate(written, start=1):
        now = [row]
        for column, other in enumerate(right):
            now.append(min(before[column] + (symbol != other), before[column + 1] + 1, now[column] + 1))
        before = now
    return before[-1]


def nearest(written: Symbols, references: Sequence[Symbols]) -> tuple[int, int]:
    """Return the edits to, and the length of, the reference with the lowest error rate; the first of equal ones.

    Args:
        written: symbols.
        references: each right, none of them empty.
    """
    found = [(edit_distance(written, right), len(right)) for right in references]
    return min(found, key=lambda pair: pair[0] / pair[1])


def accuracy_of_symbols(total: Numbers) -> Numbers:
    """Return one minus the error rate, from the sums of edits and of the references' symbols; at most 1."""
    return 1 - ratio(total)


def judge_written(written: Sequence[Symbols], references: Sequence[Sequence[Symbols]]) -> Mapping[str, Tally]:
    """Return the measures of written sequences; of several right answers the nearest one counts.

    ``exact-match`` is the share of sequences that are right in whole, one minus what is called word error rate for
    pronunciations and sentence error rate for texts. ``token-accuracy`` is one minus ``token-error-rate``: edits over
    the references' symbols, which is called phone, character or word error rate by what the symbols are.

    Args:
        written: of each sample.
        references: of each sample, at least one.
    """
    pairs = [nearest(ours, right) for ours, right in zip(written, references, strict=True)]
    edits, lengths = np.array(pairs, np.float64).reshape(-1, 2).T
    counts = np.stack([edits, lengths], axis=1)
    ours = np.array([len(symbols) for symbols in written], np.float64)
    return {
        "exact-match": shares(edits == 0),
        "token-accuracy": Tally(counts, accuracy_of_symbols),
        "token-error-rate": Tally(counts, mean),
        "length-ratio": Tally(np.stack([ours, lengths], axis=1), mean),
    }
