"""Writes sequences with an encoder and a decoder that has a cache, symbol by symbol; needs numpy alone.

Scoring runs this file, a benchmark's worker is sent it, and a bundle of a model that writes ships it beside predict.py:
what is measured is what is deployed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Writing:
    """How sequences are written.

    Attributes:
        max_length: steps at most, the end included; what has not ended by then is cut.
        beams: hypotheses of each sequence that are followed; 1 is greedy.
        length_penalty: a hypothesis ranks by its log-probability over its length, end included, to this power: 0
            favours short ones, 1 ranks by the mean.
        begin: id that the decoder reads first.
        end: id that ends a sequence.
        pad: id after the end; it and ``begin`` are never written.
        limit: (a, b), so that a source of n symbols has a + b n steps at most; None has ``max_length`` for all.
        first: id that every text begins with, such as the sign of its language; None leaves it to the model.
    """

    max_length: int
    beams: int = 1
    length_penalty: float = 1.0
    begin: int = 1
    end: int = 2
    pad: int = 0
    limit: Sequence[float] | None = None
    first: int | None = None

    def bar(self, logits: np.ndarray, *, at: int) -> None:
        """Make impossible, in place, what is never written at a step from 0 on."""
        logits[:, [self.begin, self.pad]] = -np.inf
        if at == 0 and self.first is not None:
            logits[:, np.arange(logits.shape[1]) != self.first] = -np.inf

    def steps(self, source_mask: np.ndarray) -> np.ndarray:
        """Return how many steps each source has at most, int64 [N]."""
        if self.limit is None:
            return np.full(len(source_mask), self.max_length)
        first, each = self.limit
        return np.minimum(self.max_length, (first + each * source_mask.sum(axis=1)).astype(np.int64))


class Written(NamedTuple):
    """What was written.

    Attributes:
        tokens: int64 [N, max_length], without begin and end, padded.
        log_probability: float32 [N], of the symbols and the end, in nats.
        ended: bool [N], whether a sequence came to its end; a decoder that repeats itself for ever does not.
    """

    tokens: np.ndarray
    log_probability: np.ndarray
    ended: np.ndarray


@dataclass(frozen=True)
class Decoder:
    """Two functions that write together.

    Attributes:
        encode: from source ids and mask, int64 [N, S], to the cross keys and values, float32 [N, heads, S, size] each.
        step: from the last symbol, int64 [N, 1], the mask, those and the cache, float32 [N, heads, P, size] each, to
            logits [N, V] and the cache with one position more.
        cache: heads and size of each tensor of the cache, which begins empty.
        writing: how it writes.
    """

    encode: Callable[..., Arrays]
    step: Callable[..., Arrays]
    cache: Sequence[tuple[int, int]]
    writing: Writing

    @classmethod
    def of(cls, encoder: Any, decoder: Any, writing: Writing) -> "Decoder":
        """Return what two sessions of ONNX Runtime do together; ValueError where they do not fit each other."""
        given, taken = (
            [value.shape[1::2] for value in found] for found in (encoder.get_outputs(), decoder.get_inputs())
        )
        cross, past = taken[2 : 2 + len(given)], taken[2 + len(given) :]
        if cross != given:
            raise ValueError(f"the decoder takes cross keys and values {cross}, the encoder gives {given}")
        present = [value.shape[1::2] for value in decoder.get_outputs()[1:]]
        if not past or past != present:
            raise ValueError(f"the decoder takes a cache {past}, and gives {present}")
        return cls(_call(encoder), _call(decoder), [(heads, size) for heads, size in past], writing)

    def write(self, source_ids: np.ndarray, source_mask: np.ndarray) -> Written:
        """Write one sequence for each source, int64 [N, S] with a mask of 0 and 1; ValueError for an empty one."""
        if source_ids.ndim != 2 or source_ids.shape != source_mask.shape:
            raise ValueError(f"expected ids and mask [N, S], got {[*source_ids.shape]} and {[*source_mask.shape]}")
        empty = np.flatnonzero(~source_mask.astype(bool).any(axis=1))
        if len(empty):
            raise ValueError(f"source {empty[0]} is empty: there is nothing to write from")
        cross = [*self.encode(source_ids, source_mask)]
        return (self._greedy if self.writing.beams == 1 else self._beam)(cross, source_mask)

    def advance(self, token: np.ndarray, mask: np.ndarray, cross: Arrays, past: Arrays) -> tuple[np.ndarray, Arrays]:
        """Return logits [N, V] and the longer cache; ValueError where the cache did not become longer."""
        logits, *present = self.step(token, mask, *cross, *past)
        expected = [(*value.shape[:2], value.shape[2] + 1, value.shape[3]) for value in past]
        if [value.shape for value in present] != expected:
            raise ValueError(f"expected a cache {expected}, got {[value.shape for value in present]}")
        return logits, present

    def begin(self, rows: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the first symbols, int64 [rows, 1], and the empty cache."""
        token = np.full((rows, 1), self.writing.begin, np.int64)
        return token, [np.zeros((rows, heads, 0, size), np.float32) for heads, size in self.cache]

    def _greedy(self, cross: Arrays, mask: np.ndarray) -> Written:
        how, rows = self.writing, len(mask)
        live, found = np.arange(rows), _blank(rows, how)
        token, past = self.begin(rows)
        steps = how.steps(mask)
        for at in range(steps.max()):
            logits, past = self.advance(token, mask, cross, past)
            how.bar(logits, at=at)
            chosen = logits.argmax(axis=1)
            largest = logits[np.arange(len(live)), chosen]
            found.log_probability[live] -= np.log(np.exp(logits - largest[:, None]).sum(axis=1))
            going = chosen != how.end
            found.tokens[live, at] = np.where(going, chosen, how.pad)
            found.ended[live[~going]] = True
            going &= steps[live] > at + 1
            if not going.any():
                break
            if not going.all():
                live, chosen, mask = live[going], chosen[going], mask[going]
                cross, past = [value[going] for value in cross], [value[going] for value in past]
            token = chosen[:, None]
        return found

    def _beam(self, cross: Arrays, mask: np.ndarray) -> Written:
        """A complete hypothesis stays in the beam as it is; a sequence is done when its best one is complete."""
        how, rows, beams = self.writing, len(mask), self.writing.beams
        live, found, steps = np.arange(rows), _blank(rows, how), how.steps(mask)
        cross, mask = [np.repeat(value, beams, axis=0) for value in cross], np.repeat(mask, beams, axis=0)
        token, past = self.begin(rows * beams)
        tokens = np.full((rows, beams, how.max_length), how.pad)
        total = np.where(np.arange(beams) == 0, 0.0, -np.inf) * np.ones((rows, 1))
        complete, length = np.zeros((rows, beams), bool), np.zeros((rows, beams))
        for at in range(steps.max()):
            logits, past = self.advance(token, mask, cross, past)
            how.bar(logits, at=at)
            logits -= logits.max(axis=1, keepdims=True)
            gain = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            gain = gain.reshape(len(live), beams, -1).astype(np.float64)
            gain[complete], gain[complete, how.end] = -np.inf, 0.0
            size, first = gain.shape[2], np.arange(len(live))[:, None]
            length[~complete] = at + 1
            reached = (total[..., None] + gain).reshape(len(live), -1)
            rank = reached / np.repeat(length**how.length_penalty, size, axis=1)
            picked = np.sort(np.argpartition(-rank, beams - 1, axis=1)[:, :beams], axis=1)
            picked = np.take_along_axis(picked, np.argsort(-rank[first, picked], axis=1, kind="stable"), axis=1)
            parent, chosen = picked // size, picked % size
            total, length, complete = reached[first, picked], length[first, parent], complete[first, parent]
            tokens = tokens[first, parent]
            tokens[..., at] = np.where(chosen == how.end, how.pad, chosen)
            complete = complete | (chosen == how.end)
            done = complete[:, 0] | (steps[live] == at + 1)
            found.tokens[live[done]], found.ended[live[done]] = tokens[done, 0], complete[done, 0]
            found.log_probability[live[done]] = total[done, 0]
            if done.all():
                break
            kept = (first * beams + parent)[~done].ravel()
            past = [value[kept] for value in past]
            if done.any():  # else every hypothesis still has its own source
                cross, mask = [value[kept] for value in cross], mask[kept]
            live, tokens, token = live[~done], tokens[~done], chosen[~done].reshape(-1, 1)
            total, length, complete = total[~done], length[~done], complete[~done]
        return found


def _blank(rows: int, how: Writing) -> Written:
    return Written(np.full((rows, how.max_length), how.pad, np.int64), np.zeros(rows, np.float32), np.zeros(rows, bool))


def _call(session: Any) -> Callable[..., Arrays]:
    names = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))
