"""chrF and BLEU of written texts: statistics by sacrebleu, scores as functions of their sums (see `tally`).

Both are scores of a whole corpus: of counts that are added up over texts, not means over them. With the counts of each
text at hand, one matrix product gives the scores of all resamples, and two models are compared on the same ones.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from compress.errors import EnvironmentFault
from compress.measures.tally import Numbers, Tally

NAMES = ("chrf", "bleu")
ORDERS = 6  # of chrF's character n-grams
BLEU_ORDERS = 4


def judge_texts(written: Sequence[str], references: Sequence[Sequence[str]]) -> Mapping[str, Tally]:
    """Return chrF and BLEU, 0 to 1, as sacrebleu computes them with its defaults, of which it says 0 to 100.

    ``chrf`` is chrF2 (Popović 2015): character n-grams up to 6 without white space, recall weighs twice. ``bleu`` is
    that of Papineni et al. 2002 on tokens of mteval-v13a, with exponential smoothing. Of several references chrF takes
    the best one, BLEU matches any and counts the length of the nearest.

    Args:
        written: of each sample.
        references: of each sample, at least one.

    Raises:
        EnvironmentFault: when sacrebleu is not installed.
    """
    metrics = find_sacrebleu()
    most = max(map(len, references))
    streams = [[right[place] if place < len(right) else None for right in references] for place in range(most)]

    def statistics(metric: Any) -> Numbers:
        return np.array(metric._extract_corpus_statistics([*written], streams), np.float64)

    return {
        "chrf": Tally(statistics(metrics.CHRF()), chrf),
        "bleu": Tally(statistics(metrics.BLEU(force=True)), bleu),
    }


def find_sacrebleu() -> ModuleType:
    """Return sacrebleu's metrics.

    Raises:
        EnvironmentFault: when it is not installed.
    """
    try:
        from sacrebleu import metrics  # pyright: ignore[reportMissingImports] # an extra
    except ImportError as error:
        raise EnvironmentFault(
            "sacrebleu does not import, which counts n-grams for chrF and BLEU",
            got=error,
            where="data.judge.measure",
            hint="pip install 'compress-onnx[sequence]'",
        ) from error
    return metrics


def chrf(total: Numbers) -> Numbers:
    """Return chrF2 from the sums of n-grams written, right, and both, for each order: [..., 18]."""
    written, right, both = np.moveaxis(total.reshape(*total.shape[:-1], ORDERS, 3), -1, 0)
    counted = (written > 0) & (right > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = (both * counted / np.maximum(written, 1)).sum(axis=-1) / orders
    recall = (both * counted / np.maximum(right, 1)).sum(axis=-1) / orders
    return 5 * precision * recall / np.maximum(4 * precision + recall, 1e-300)


def bleu(total: Numbers) -> Numbers:
    """Return BLEU from the sums of both lengths, of matching n-grams and of written ones, for each order: [..., 10].

    The k-th order without a match counts as 1 / 2^k matches; without any match, or any n-gram of an order, it is 0.
    """
    length, right = total[..., 0], total[..., 1]
    matches, written = total[..., 2 : 2 + BLEU_ORDERS], total[..., 2 + BLEU_ORDERS :]
    smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
    precision = np.exp(np.log(smoothed / np.maximum(written, 1)).mean(axis=-1))
    brevity = np.exp(np.minimum(0, 1 - right / np.maximum(length, 1)))
    return np.where((written > 0).all(axis=-1) & (matches > 0).any(axis=-1), brevity * precision, 0.0)
