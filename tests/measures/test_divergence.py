import tracemalloc

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from compress.measures import divergence
from compress.measures.divergence import kl_nats


def drawn(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    first, second = (generator.standard_normal(shape, np.float32) * 5 for _ in range(2))
    return first, second


@pytest.mark.parametrize("shape", [(1, 2), (50, 7), (6, 5, 4)])
def test_it_is_the_mean_relative_entropy_over_rows(shape):
    theirs, ours = drawn(*shape)
    entropies = rel_entr(softmax(theirs.astype(float), axis=-1), softmax(ours.astype(float), axis=-1)).sum(-1)
    assert kl_nats(theirs, ours) == pytest.approx(entropies.mean())
    assert kl_nats(theirs, theirs) == 0


@pytest.mark.parametrize("values", [1, 7 * 3, 7 * 17 + 2])
def test_blocks_of_rows_change_no_bit(monkeypatch, values):
    theirs, ours = drawn(50, 7)
    whole = kl_nats(theirs, ours)
    monkeypatch.setattr(divergence, "BLOCK_VALUES", values)
    assert kl_nats(theirs, ours) == whole


def test_large_logits_take_little_memory_besides():
    theirs, ours = drawn(20_000, 500)
    tracemalloc.start()
    kl_nats(theirs, ours)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < theirs.nbytes * 2


def test_rows_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="do not pair"):
        kl_nats(*(side[:, :size] for side, size in zip(drawn(4, 3), (3, 1), strict=True)))
