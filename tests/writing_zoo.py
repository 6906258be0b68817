"""A tiny real task of writing: words and how they are spelt out backwards, some in two ways."""

from pathlib import Path

import numpy as np

from compress.data.answers import objects
from compress.data.roles import Split, assign
from compress.data.samples import Data, Samples
from compress.data.source import Raw
from compress.measures.judge import Judge
from compress.models import EncoderDecoder
from compress.tasks import Symbols, TransductionTask

LETTERS = {"a": "AH", "e": "EH", "o": "OW", "k": "K", "s": "S", "t": "T", "x": "K S"}
TINY = EncoderDecoder(width=32, heads=2, feed_forward=64, encoder_layers=1, decoder_layers=1, dropout=0, max_length=16)
SMALLER = TINY.model_copy(update={"width": 16, "feed_forward": 32})


def rows(count: int = 600, *, seed: int = 0) -> list[tuple[str, str]]:
    """Words of 2 to 5 letters, each with its letters' sounds from the last to the first; ``e`` may also be silent."""
    generator = np.random.default_rng(seed)
    found = []
    for word in dict.fromkeys("".join(generator.choice([*LETTERS], generator.integers(2, 6))) for _ in range(count)):
        sounds = [LETTERS[letter] for letter in reversed(word)]
        found.append((word, " ".join(sounds)))
        if word.endswith("e"):
            found.append((word, " ".join(sounds[1:])))
    return found


def data(count: int = 600, *, test: float = 0.1) -> Data:
    """In roles by word."""
    words, sounds = zip(*rows(count), strict=True)
    samples = Samples(objects(words), objects((text,) for text in sounds))
    return assign(Raw({"train": samples}, ()), split=Split(test=test, select=40, calibration=40), overlap="refuse")


def task(found: Data, **fields) -> TransductionTask:
    symbols = Symbols(**{"text": "characters", "target_text": "words", "max_length": 16, **fields})
    return TransductionTask.of(found, symbols=symbols, judge=Judge())


def write_table(path: Path, count: int = 600, *, target: str = "sounds") -> Path:
    """The rows as CSV."""
    path.write_text(f"word,{target}\n" + "".join(f"{word},{sounds}\n" for word, sounds in rows(count)))
    return path
