"""Shared fixtures: a tiny real task on scikit-learn's digits, and contexts to run stages in."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from compress.artifact import Artifact, Store
from compress.data import Data, Samples
from compress.loss import GuidedLoss
from compress.models import Cnn
from compress.progress import Reporter
from compress.stage import Context, Execution
from compress.stages.create import Create
from compress.stages.train import Train
from compress.tasks import Augment, ImageClassification

sys.path.insert(0, str(Path(__file__).parent))  # for text_zoo
torch.set_num_threads(1)


class Recorded:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.files: list[Path] = []

    def metrics(self, values, *, step):
        self.points.append((step, dict(values)))

    def artifact(self, path, folder=""):
        self.files.append(path)


@pytest.fixture(scope="session")
def digits() -> Data:
    """scikit-learn's digits, 8x8 uint8, in fixed roles."""
    raw = load_digits()
    samples = Samples((raw.images * 15).astype(np.uint8)[:, None], raw.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(samples))
    bounds = {"train": (0, 1000), "calibration": (1000, 1200), "select": (1200, 1500), "test": (1500, 1797)}
    roles = {role: samples.take(order[low:high]) for role, (low, high) in bounds.items()}
    return Data(roles=roles, classes=tuple("0123456789"))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def make_context(digits: Data, tmp_path: Path) -> Callable[..., Context]:
    """Return a function that makes a context; its arguments replace fields."""

    def make(*, data: Data = digits, augment: Augment | None = None, **fields) -> Context:
        context = Context(
            task=ImageClassification.of(data, augment=augment),
            data=data,
            loss=GuidedLoss(preset="hinton"),
            teacher=None,
            store=Store.open(tmp_path / "store"),
            seed=0,
            execution=Execution(threads=1, precision="float32"),
            recorder=Recorded(),
            reporter=Reporter(quiet=True),
        )
        return replace(context, **fields)

    return make


@pytest.fixture(scope="session")
def trained_digits(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small plain network trained on digits to well above 90%; read-only."""
    context = Context(
        task=ImageClassification.of(digits, augment=None),
        data=digits,
        loss=GuidedLoss(preset="hinton"),
        teacher=None,
        store=Store.open(tmp_path_factory.mktemp("trained")),
        seed=0,
        execution=Execution(threads=1, precision="float32"),
        recorder=Recorded(),
        reporter=Reporter(quiet=True),
    )
    created = Create(model=Cnn(widths=(16, 32, 32), strides=(1, 2, 1))).run(None, context)
    return Train(epochs=8, batch_size=64).run(created, context)
