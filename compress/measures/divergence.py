"""How far the distribution that a model gives is from another's."""

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 2**20  # at a time: in float64, all rows at once would take ten times the memory of the logits


def kl_nats(reference: NDArray[np.floating], logits: NDArray[np.floating]) -> float:
    """Return the mean KL(softmax(reference) || softmax(logits)) over the rows, in nats, from float64.

    Sum over the last axis, mean over the others. Rounding can leave it a hair below 0 where both are the same.

    Args:
        reference: finite [..., C].
        logits: finite, of the same shape.

    Raises:
        ValueError: when the shapes differ.
    """
    if reference.shape != logits.shape:
        raise ValueError(f"rows do not pair: {list(reference.shape)} against {list(logits.shape)}")
    classes = reference.shape[-1]
    sides, rows = [side.reshape(-1, classes) for side in (reference, logits)], max(1, BLOCK_VALUES // classes)
    parts = []
    for start in range(0, len(sides[0]), rows):
        log_p, log_q = (_log_softmax(side[start : start + rows]) for side in sides)
        parts.append((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))
    return float(np.concatenate(parts).mean())


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
