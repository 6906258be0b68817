import numpy as np
import pytest


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (200, 1, 5, 4), np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat(np.arange(4), [100, 60, 30, 10]).astype(np.int64)
