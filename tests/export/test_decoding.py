"""What is written, against a search of everything that could be written."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from compress.export.decoding import Decoder, Writing

PAD, BEGIN, END = range(3)
SYMBOLS = (3, 4)
HOW = Writing(max_length=5)


class Table:
    """Logits that depend on everything written so far, and on the source; the cache holds what was read."""

    def __init__(self, seed: int) -> None:
        self._logits: dict[tuple[int, ...], np.ndarray] = {}
        self._seed = seed

    def logits(self, prefix: tuple[int, ...]) -> np.ndarray:
        draw = np.random.default_rng([self._seed, *prefix])
        return self._logits.setdefault(prefix, 2 * draw.standard_normal(5).astype(np.float32))

    def encode(self, source_ids, source_mask):
        return [(source_ids * source_mask).astype(np.float32)[:, None, :, None]]

    def step(self, token, mask, cross, past):
        assert len(token) == len(mask) == len(cross) == len(past)
        present = np.concatenate([past, token.astype(np.float32)[:, None, :, None]], axis=2)
        read = np.concatenate([cross[:, 0, :1, 0], present[:, 0, :, 0]], axis=1).astype(int)
        return np.stack([self.logits(tuple(map(int, row))) for row in read]), present

    def decoder(self, writing: Writing) -> Decoder:
        return Decoder(self.encode, self.step, [(1, 1)], writing)


def log_probability(table: Table, source: int, written: tuple[int, ...]) -> float:
    total = 0.0
    for at, symbol in enumerate(written):
        logits = table.logits((source, BEGIN, *written[:at])).astype(np.float64)
        allowed = [END, *SYMBOLS]
        total += logits[symbol] - np.log(np.exp(logits[allowed]).sum())
    return total


def everything(length: int):
    """All that can be written in at most so many steps: with its end, or cut."""
    for count in range(length):
        yield from ((*symbols, END) for symbols in itertools.product(SYMBOLS, repeat=count))
    yield from itertools.product(SYMBOLS, repeat=length)


@pytest.fixture(params=range(4))
def table(request):
    return Table(request.param)


@pytest.fixture
def sources():
    ids = np.arange(10, 22).reshape(6, 2)
    return ids, np.ones_like(ids)


def test_a_beam_as_wide_as_everything_finds_what_is_most_probable(table, sources):
    found = table.decoder(replace(HOW, beams=40, length_penalty=0.0)).write(*sources)
    for row, source in enumerate(sources[0][:, 0]):
        probable = max(everything(HOW.max_length), key=lambda written: log_probability(table, source, written))
        symbols = [symbol for symbol in probable if symbol != END]
        assert found.tokens[row].tolist() == symbols + [PAD] * (HOW.max_length - len(symbols))
        assert found.log_probability[row] == pytest.approx(log_probability(table, source, probable), abs=1e-5)
        assert found.ended[row] == (probable[-1] == END)


def test_greedy_takes_the_most_probable_symbol_each_time(table, sources):
    found = table.decoder(HOW).write(*sources)
    for row, source in enumerate(sources[0][:, 0]):
        written: tuple[int, ...] = ()
        while len(written) < HOW.max_length and (not written or written[-1] != END):
            logits = table.logits((source, BEGIN, *written))
            written = (*written, max((END, *SYMBOLS), key=lambda symbol: logits[symbol]))
        symbols = [symbol for symbol in written if symbol != END]
        assert found.tokens[row].tolist() == symbols + [PAD] * (HOW.max_length - len(symbols))
        assert found.log_probability[row] == pytest.approx(log_probability(table, source, written), abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_writes_what_each_source_writes_alone(table, sources, beams):
    decoder = table.decoder(replace(HOW, beams=beams))
    together = decoder.write(*sources)
    alone = [decoder.write(sources[0][row : row + 1], sources[1][row : row + 1]) for row in range(6)]
    np.testing.assert_array_equal(together.tokens, np.concatenate([found.tokens for found in alone]))
    np.testing.assert_allclose(
        together.log_probability, np.concatenate([found.log_probability for found in alone]), rtol=1e-6
    )


def test_a_wider_beam_finds_nothing_less_probable_and_a_beam_of_one_is_greedy(table, sources):
    how = replace(HOW, length_penalty=0.0)
    greedy, wide = table.decoder(how).write(*sources), table.decoder(replace(how, beams=40)).write(*sources)
    assert (wide.log_probability >= greedy.log_probability - 1e-5).all()
    one = table.decoder(how)._beam(table.encode(*sources), sources[1])
    np.testing.assert_array_equal(one.tokens, greedy.tokens)
    np.testing.assert_array_equal(one.ended, greedy.ended)


def test_a_length_penalty_prefers_longer_texts(sources):
    lengths = {
        penalty: sum(
            int((Table(seed).decoder(replace(HOW, beams=8, length_penalty=penalty)).write(*sources).tokens > 0).sum())
            for seed in range(10)
        )
        for penalty in (0.0, 1.0, 2.0)
    }
    assert lengths[0.0] < lengths[1.0] < lengths[2.0]


@pytest.mark.parametrize("beams", [1, 2])
def test_repetition_for_ever_stops_and_is_counted(sources, beams):
    def step(token, mask, cross, past):
        logits = np.full((len(token), 5), -9.0, np.float32)
        logits[:, 3] = 9.0
        return logits, np.concatenate([past, token[:, None, :, None].astype(np.float32)], axis=2)

    found = Decoder(Table(0).encode, step, [(1, 1)], replace(HOW, beams=beams)).write(*sources)
    assert not found.ended.any()
    assert (found.tokens == 3).all()


@pytest.mark.parametrize("beams", [1, 2])
def test_a_limit_by_the_source_stops_what_repeats_itself(sources, beams):
    ids, mask = sources
    mask = mask.copy()
    mask[::2, 1] = 0

    def step(token, mask, cross, past):
        logits = np.full((len(token), 5), -9.0, np.float32)
        logits[:, 3] = 9.0
        return logits, np.concatenate([past, token[:, None, :, None].astype(np.float32)], axis=2)

    how = replace(HOW, beams=beams, limit=(1, 1.5))
    found = Decoder(Table(0).encode, step, [(1, 1)], how).write(ids, mask)
    assert not found.ended.any()
    assert (found.tokens > 0).sum(axis=1).tolist() == [2, 4] * 3
    assert how.steps(np.ones((1, 100), int)) == how.max_length


def test_what_ends_within_a_limit_is_as_without_one(table, sources):
    whole = table.decoder(HOW).write(*sources)
    found = table.decoder(replace(HOW, limit=(3, 0))).write(*sources)
    np.testing.assert_array_equal(found.tokens[:, :3], whole.tokens[:, :3])
    assert (found.tokens[:, 3:] == PAD).all()
    ends = (whole.tokens > 0).sum(axis=1) < 3
    assert found.ended.tolist() == (whole.ended & ends).tolist()


def test_an_empty_source_and_a_cache_of_another_shape_are_refused(table, sources):
    ids, mask = sources
    emptied = mask.copy()
    emptied[2] = 0
    with pytest.raises(ValueError, match="source 2 is empty"):
        table.decoder(HOW).write(ids, emptied)
    with pytest.raises(ValueError, match=r"expected ids and mask \[N, S\], got \[6, 2\] and \[6, 1\]"):
        table.decoder(HOW).write(ids, mask[:, :1])
    with pytest.raises(ValueError, match=r"expected a cache \[\(6, 2, 1, 1\)\], got \[\(6, 2, 0, 1\)\]"):
        Decoder(table.encode, lambda token, mask, cross, past: (None, past), [(2, 1)], HOW).write(ids, mask)
