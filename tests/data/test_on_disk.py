"""Images that stay on disk are the same samples as in memory, and what changes or breaks under them is told."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import ahead, index, npy
from compress.data.ahead import make_ahead
from compress.data.arrays import ArrayPair, Numpy
from compress.data.roles import Split, assign
from compress.data.samples import Samples
from compress.data.source import Opening
from compress.data.sources import ImageFolder
from compress.data.stored import MappedRows, Stored
from compress.errors import DataError
from compress.export.feed import Feed
from compress.recipe.sections import DataConfig
from compress.stage import Optimization
from compress.tasks import Augment, View
from compress.training.loader import RoleLoader

SPLIT = Split(test=0.25, select=0.3)


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for position in range(70):
            pixels = np.random.default_rng(70 * number + position).integers(0, 256, (11, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{position:02}.png")
    return tmp_path / "photos"


def on_disk(folder: Path, **fields) -> ImageFolder:
    return ImageFolder(root=folder, size=8, memory_gb=0, **fields)


def by_content(samples: Samples) -> list[tuple[bytes, int]]:
    assert samples.labels is not None
    return sorted((samples.inputs[row].tobytes(), int(label)) for row, label in enumerate(samples.labels))


def test_an_indexed_folder_holds_the_samples_of_one_in_memory(folder):
    near = ImageFolder(root=folder, size=8).load(code=())
    far = on_disk(folder).load(code=())
    assert isinstance(far.roles["train"].inputs, Stored)
    assert isinstance(near.roles["train"].inputs, np.ndarray)
    assert by_content(far.roles["train"]) == by_content(near.roles["train"])
    assert far.notes == ("140 images stay on disk and are read through an index",)
    data = assign(far, split=SPLIT, overlap="refuse")
    assert {role: len(samples) for role, samples in data.roles.items()} == {
        role: len(samples) for role, samples in assign(near, split=SPLIT, overlap="refuse").roles.items()
    }
    taken = data.train.take(np.arange(5))
    np.testing.assert_array_equal(taken.inputs[:], data.train.inputs[np.arange(5)])


def test_equal_files_are_one_sample(folder):
    (folder / "cat" / "again.png").write_bytes((folder / "cat" / "00.png").read_bytes())
    data = assign(on_disk(folder).load(code=()), split=SPLIT, overlap="refuse")
    assert data.dropped_duplicates == 1
    (folder / "dog" / "other.png").write_bytes((folder / "cat" / "00.png").read_bytes())
    data = assign(on_disk(folder).load(code=()), split=SPLIT, overlap="refuse")
    assert "1 inputs of train have several labels" in data.notes[-1]


def test_the_order_of_the_files_decides_nothing(folder, tmp_path):
    first = assign(on_disk(folder).load(code=()), split=SPLIT, overlap="refuse")
    for path in sorted(folder.glob("*/*.png")):
        path.rename(path.with_name(f"n{99 - int(path.stem)}.png"))
    assert assign(on_disk(folder).load(code=()), split=SPLIT, overlap="refuse").digest == first.digest
    other = DataConfig(source=ImageFolder(root=folder, size=7, memory_gb=0), split=SPLIT).load()
    assert other.digest != first.digest


def test_an_index_is_kept_and_only_what_changed_is_read_again(folder, tmp_path, monkeypatch):
    looked, look = list[str](), index._look
    monkeypatch.setattr(index, "_look", lambda path: looked.append(path.name) or look(path))
    opening = Opening(store=tmp_path / "store")
    first = on_disk(folder).open(opening, code=())
    assert len(looked) == 140
    looked.clear()
    assert on_disk(folder).open(opening, code=()).roles["train"].digest == first.roles["train"].digest
    assert looked == []
    Image.new("RGB", (5, 5)).save(folder / "cat" / "00.png")
    (folder / "dog" / "01.png").unlink()
    again = on_disk(folder).open(opening, code=())
    assert looked == ["00.png"]
    assert again.notes[0] == "since photos was indexed, 1 files are new or changed, and 2 gone or changed: indexed anew"
    next((tmp_path / "store" / "indexes").glob("*.npz")).write_bytes(b"PK nothing")
    looked.clear()
    assert on_disk(folder).open(opening, code=()).roles["train"].digest == again.roles["train"].digest
    assert len(looked) == 139


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_a_folder_that_changes_under_its_index_is_refused_by_file(folder, change):
    samples = on_disk(folder).load(code=()).roles["train"]
    change(folder / "cat" / "03.png")
    with pytest.raises(DataError, match=r"(?s)changed while it was read.*cat/03.png"):
        samples.inputs[:]


@pytest.mark.parametrize("memory_gb", [0, 1])
def test_an_unreadable_image_is_refused_or_left_out_and_counted(folder, memory_gb):
    path = folder / "dog" / "05.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"(?s)cannot be read.*dog/05.png"):
        ImageFolder(root=folder, size=8, memory_gb=memory_gb).load(code=())
    raw = ImageFolder(root=folder, size=8, memory_gb=memory_gb, on_error="skip").load(code=())
    assert len(raw.roles["train"]) == 139
    assert len([*raw.roles["train"].parts()]) >= 1
    assert "1 of 140 images cannot be read and are left out: dog/05.png" in raw.notes


def test_mean_and_deviation_are_those_of_the_images_and_kept(folder, tmp_path, monkeypatch):
    config = DataConfig(source=on_disk(folder), split=SPLIT)
    data = config.load(store=tmp_path / "store")
    task = config.task_of(data, tokenizer=None)
    pixels = data.train.inputs[:] / 255
    assert task.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=2e-6)
    assert task.std == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=2e-6)
    monkeypatch.setattr(Stored, "measure", None)
    assert config.task_of(config.load(store=tmp_path / "store"), tokenizer=None).mean == task.mean


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_large_array_stays_on_disk_and_is_the_same_data(tmp_path, monkeypatch, layout, dtype):
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 5, 4)).astype(dtype)
    images[7] = images[11]
    np.save(tmp_path / "x.npy", images if layout == "NCHW" else images.transpose(0, 2, 3, 1))
    np.save(tmp_path / "y.npy", np.arange(300) % 3)
    pair = ArrayPair(inputs=tmp_path / "x.npy", labels=tmp_path / "y.npy")
    config = DataConfig(source=Numpy(arrays={"train": pair}, layout=layout), split=SPLIT)
    near = config.load()
    monkeypatch.setattr(npy, "MAPPED_BYTES", 0)
    far = config.load()
    assert isinstance(far.train.inputs, MappedRows)
    assert (far.digest, far.dropped_duplicates) == (near.digest, near.dropped_duplicates)
    assert config.task_of(far, tokenizer=None).mean == pytest.approx(config.task_of(near, tokenizer=None).mean)


def test_arrays_that_are_no_images_of_one_class_are_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "MAPPED_BYTES", 0)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 6), np.float32))
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    pair = ArrayPair(inputs=tmp_path / "x.npy", labels=tmp_path / "y.npy")
    samples = Numpy(arrays={"train": pair}).load(code=()).roles["train"]
    assert not samples.on_disk
    assert not isinstance(samples.inputs, np.memmap)


def test_batches_do_not_depend_on_workers_nor_on_where_samples_lie(folder, monkeypatch):
    config = DataConfig(source=on_disk(folder), split=SPLIT, augment=Augment(crop_padding=2, flip=True))
    data = config.load()
    task = config.task_of(data, tokenizer=None)
    near = Samples(data.train.inputs[:], data.train.labels)
    optimization = Optimization(epochs=1, batch_size=8, accumulate=2)

    def epoch(samples: Samples, skip: int = 0) -> list[torch.Tensor]:
        loader = RoleLoader(task, samples, optimization, seed=3, views=lambda number, _: View(number))
        return [batch.inputs[0] for update in loader.epoch(2, skip=skip) for batch in update]

    expected = epoch(near)
    assert len(expected) > 4
    for workers in (1, 3, 8):
        monkeypatch.setattr(ahead, "count_workers", lambda count=workers: count)
        torch.testing.assert_close(epoch(data.train), expected, rtol=0, atol=0)
    torch.testing.assert_close(epoch(data.train, skip=1), expected[2:], rtol=0, atol=0)
    fed = [
        Feed(task, samples, threads=1).through(lambda pixels: [pixels.mean((2, 3))]) for samples in (near, data.train)
    ]
    np.testing.assert_array_equal(*fed)


def test_results_come_in_order_though_the_first_ends_last():
    second = threading.Event()

    def make(item: int) -> int:
        assert second.wait(30) if item == 0 else True
        if item == 1:
            second.set()
        return item

    assert list(make_ahead(make, range(20), workers=2)) == list(range(20))


def test_no_more_is_made_than_may_wait_and_the_rest_is_left_when_the_reader_stops():
    begun = list[int]()
    results = make_ahead(lambda item: begun.append(item) or item, range(1000), workers=2, waiting=1)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 4
    with pytest.raises(ZeroDivisionError):
        list(make_ahead(lambda item: 1 // item, [2, 1, 0, 1]))
