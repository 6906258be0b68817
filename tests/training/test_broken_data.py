"""Data that break in the middle of an epoch: a file is named, and once it is back the training goes on."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from compress.data.image_table import ImageTable
from compress.data.roles import Split
from compress.data.source import Source
from compress.data.sources import ImageFolder
from compress.data.tar_shards import TarImages
from compress.errors import DataError
from compress.models import Cnn, load_model
from compress.recipe.sections import DataConfig
from compress.stages.create import Create
from compress.stages.train import Train
from compress.store.artifact import Artifact
from compress.store.store import Store

NAMES = ("cat", "dog")
TRAIN = Train(epochs=3, batch_size=8, learning_rate=0.01)


def encoded(number: int) -> bytes:
    held = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (11, 9, 3), np.uint8)
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


IMAGES = [encoded(number) for number in range(140)]


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, content in enumerate(IMAGES):
        place = tmp_path / "photos" / NAMES[number % 2] / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return tmp_path / "photos"


@pytest.fixture
def setting(make_context: Callable, tmp_path) -> Callable:
    """A setting with what a source holds, and a store of its own."""

    def make(source: Source, store: str = "store", **fields):
        kept = Store.open(tmp_path / store)
        data = DataConfig(source=source, split=Split(test=0.25, select=0.3)).load(store=kept.root)  # pyright: ignore[reportArgumentType]
        return make_context(data=data, store=kept, checkpoint_every_s=0.0, **fields)

    return make


class Steps:
    """Counts the steps of a training, and does something after one of them."""

    def __init__(self, act: Callable[[], object] = lambda: None, *, at: int = -1) -> None:
        self.act, self.at, self.seen = act, at, 0

    def __call__(self) -> bool:
        self.seen += 1
        if self.seen == self.at:
            self.act()
        return False


def train(setting, steps: Steps) -> Artifact:
    source = Create(model=Cnn(widths=(4,), strides=(2,))).run(None, *setting)
    return TRAIN.run(source, *replace(setting, interrupted=steps))


def weights(artifact: Artifact) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in load_model(artifact.path).state_dict().values()])


def tear(path: Path) -> None:
    """Spoil a file's content, its size and time as they were: a bad disk."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("spoil", "said", "on_error"),
    [
        (Path.unlink, r"changed while it was read.*{name} is gone", "refuse"),
        (
            lambda path: path.write_bytes(IMAGES[1] + b"more"),
            r"changed while it was read.*{name} is another",
            "skip",
        ),
        (tear, r"cannot be read any more.*{name}", "refuse"),
        (tear, r"cannot be read any more.*{name}", "skip"),
    ],
    ids=["gone", "another", "torn", "torn where others are skipped"],
)
def test_a_file_that_breaks_in_an_epoch_is_named_and_once_it_is_back_the_training_goes_on(
    spoil, said, on_error, folder, setting, tmp_path
):
    source = ImageFolder(root=folder, size=8, memory_gb=0, on_error=on_error)
    steps, undisturbed = Steps(), setting(source, "whole")
    whole, files = train(undisturbed, steps), undisturbed.data.train.inputs
    total, name = steps.seen, files.index.paths[files.rows[0]]
    path = folder / name
    shutil.copy2(path, tmp_path / "kept.png")
    broken, told = setting(source), f"(?s){said.format(name=name)}.*put the file back and run the same command again"
    with pytest.raises(DataError, match=told):
        train(broken, Steps(lambda: spoil(path), at=total // 3))
    shutil.copy2(tmp_path / "kept.png", path)
    rest = Steps()
    again = train(setting(source), rest)
    assert 0 < rest.seen < total
    assert torch.equal(weights(again), weights(whole))


def write_tar(path: Path) -> Source:
    with tarfile.open(path, "w") as archive:
        for number, content in enumerate(IMAGES):
            for suffix, held in (("png", content), ("cls", NAMES[number % 2].encode())):
                told = tarfile.TarInfo(f"{number:03}.{suffix}")
                told.size = len(held)
                archive.addfile(told, io.BytesIO(held))
    return TarImages(path=path, size=8, memory_gb=0)


def write_table(path: Path) -> Source:
    pq.write_table(pa.table({"image": IMAGES, "label": [NAMES[n % 2] for n in range(len(IMAGES))]}), path)
    return ImageTable(path=path, size=8, memory_gb=0)


@pytest.mark.parametrize(("write", "name"), [(write_tar, "all.tar"), (write_table, "all.parquet")])
def test_a_tar_or_table_that_breaks_in_an_epoch_disturbs_nothing_and_is_refused_by_name_afterwards(
    write, name, setting, tmp_path
):
    path = tmp_path / name
    source = write(path)
    steps = Steps()
    whole = train(setting(source, "whole"), steps)

    def cut() -> None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)

    assert torch.equal(weights(train(setting(source), Steps(cut, at=steps.seen // 3))), weights(whole))
    with pytest.raises(DataError, match=f"(?s)(ends early|cannot be read).*{name}"):
        setting(source)
