"""Texts to write, of which several may be right for one input."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.samples import Samples


def gather(samples: Samples) -> Samples:
    """Return one sample for each input, with all texts that are right to write, each once and in their order."""
    assert samples.labels is not None
    firsts: dict[bytes, int] = {}
    right: dict[bytes, dict[str, None]] = {}
    for position, (digest, texts) in enumerate(zip(samples.hashes, samples.labels, strict=True)):
        firsts.setdefault(digest, position)
        right.setdefault(digest, {}).update(dict.fromkeys(texts))
    return Samples(samples.inputs[[*firsts.values()]], objects(tuple(texts) for texts in right.values()))


def spread(samples: Samples) -> Samples:
    """Return a sample for each text that is right to write, those of one input next to each other."""
    assert samples.labels is not None
    counts = [len(texts) for texts in samples.labels]
    inputs = samples.inputs[np.repeat(np.arange(len(samples)), counts)]
    return Samples(inputs, objects((text,) for texts in samples.labels for text in texts))


def objects(values: Iterable[Any]) -> NDArray[Any]:
    """Return an array of Python objects, [N], which tuples of equal length are, too."""
    return np.fromiter(values, object)
