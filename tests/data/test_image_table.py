"""Images in Parquet columns: as files in a folder are read, in memory or not; what cannot be one is refused by name."""

import errno
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compress.data.image_table import ImageTable
from compress.data.source import Opening
from compress.data.sources import ImageFolder
from compress.data.stored import MappedRows
from compress.errors import DataError, EnvironmentFault
from compress.store.store import Store, draft_name


def encoded(number: int) -> bytes:
    drawn = np.random.default_rng(number)
    pixels = drawn.integers(0, 256, (12 + number, 20, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


FILES = [encoded(number) for number in range(10)]
CLASSES = ["cat", "dog"] * 5


def write(path, images, labels, *, structs=False, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": image, "path": None} for image in images] if structs else images
    table = pa.table({"image": cells, "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """The same images as files, in the order of the table sorted by class."""
    for number, (image, name) in enumerate(zip(FILES, CLASSES, strict=True)):
        place = tmp_path / "folder" / name / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image)
    return ImageFolder(root=tmp_path / "folder", size=8).load(code=())


@pytest.mark.parametrize("structs", [False, True])
def test_a_column_gives_the_pixels_and_classes_of_files_in_a_folder(tmp_path, folder, structs):
    order = sorted(range(10), key=lambda number: CLASSES[number])
    images, labels = [FILES[row] for row in order], [CLASSES[row] for row in order]
    write(tmp_path / "shards" / "a.parquet", images[:4], labels[:4], structs=structs)
    write(tmp_path / "shards" / "b.parquet", images[4:], labels[4:], structs=structs)
    found = ImageTable(path=tmp_path / "shards", size=8).load(code=())
    assert found.classes == folder.classes == ("cat", "dog")
    assert np.array_equal(found.roles["train"].array, folder.roles["train"].array)
    assert np.array_equal(found.roles["train"].labels, folder.roles["train"].labels)
    assert "2 files" in found.notes[0]


def test_roles_have_files_of_their_own_and_numbers_the_names_that_datasets_writes(tmp_path):
    named = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["four", "five"]}}}})}
    files = {
        "train": write(tmp_path / "train.parquet", FILES[:6], [0, 1] * 3, metadata=named),
        "test": write(tmp_path / "test.parquet", FILES[6:], [1, 1, 0, 0]),
    }
    found = ImageTable(files=files, size=8, mode="grayscale").load(code=())
    assert found.classes == ("four", "five")
    assert found.roles["test"].labels.tolist() == [1, 1, 0, 0]
    assert found.roles["train"].array.shape == (6, 1, 8, 8)


def test_files_with_other_classes_are_refused_by_both_names(tmp_path):
    def named(*names):
        return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}

    files = {
        "some": write(tmp_path / "some.parquet", FILES[:2], [0, 1], metadata=named("cat", "dog")),
        "none": write(tmp_path / "none.parquet", FILES[:2], [0, 1]),
        "turned": write(tmp_path / "turned.parquet", FILES[:2], [0, 1], metadata=named("dog", "cat")),
        "more": write(tmp_path / "more.parquet", FILES[:2], [0, 1], metadata=named("cat", "dog", "cow")),
        "texts": write(tmp_path / "texts.parquet", FILES[:2], ["cat", "dog"]),
    }

    def classes(train, test):
        return ImageTable(files={"train": files[train], "test": files[test]}, size=8).load(code=()).classes

    assert classes("some", "none") == classes("none", "some") == ("cat", "dog")
    with pytest.raises(
        DataError, match=r"other classes[\s\S]*class 0: cat, as in .*some[\s\S]*class 0: dog[\s\S]*turned"
    ):
        classes("some", "turned")
    with pytest.raises(DataError, match=r"class 2: none, as in .*some[\s\S]*class 2: cow[\s\S]*more"):
        classes("some", "more")
    with pytest.raises(DataError, match=r"numbers, as in .*none[\s\S]*texts[\s\S]*texts.parquet"):
        classes("none", "texts")
    with pytest.raises(DataError, match="other classes"):  # parts of one role
        ImageTable(path=tmp_path, size=8).load(code=())


def test_images_beyond_memory_are_decoded_once_into_a_mapped_file(tmp_path, monkeypatch):
    table = write(tmp_path / "all.parquet", [*FILES, b"no image"], [*CLASSES, "cat"])
    opening = Opening(store=tmp_path / "store")
    whole = ImageTable(path=table, size=8, on_error="skip").open(opening, code=())
    large = ImageTable(path=table, size=8, on_error="skip", memory_gb=0)
    first = large.open(opening, code=())
    monkeypatch.setattr("compress.data.image_shards.open_picture", None)  # nothing is decoded again
    again = large.open(opening, code=())
    for found in (first, again):
        train = found.roles["train"]
        assert isinstance(train.inputs, MappedRows)
        assert np.array_equal(train.inputs[:], whole.roles["train"].array)
        assert train.labels.tolist() == whole.roles["train"].labels.tolist()
        assert "1 of 11 images cannot be read" in " ".join(found.notes)
    assert first.roles["train"].digest == whole.roles["train"].digest
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*row 10"):  # whoever decoded them
        ImageTable(path=table, size=8, memory_gb=0).open(opening, code=())


def test_a_full_disk_is_told_and_leaves_no_draft_and_that_of_a_dead_process_is_removed(tmp_path, monkeypatch):
    large = ImageTable(path=write(tmp_path / "all.parquet", FILES, CLASSES), size=8, memory_gb=0)

    def full(_file, _start, size):
        assert size > 10 * 3 * 8 * 8
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.posix_fallocate", full, raising=False)
        with pytest.raises(EnvironmentFault, match="No space left"):
            large.open(Opening(store=tmp_path / "store"), code=())
    assert not list((tmp_path / "store" / "indexes").iterdir())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with monkeypatch.context() as patched:
        patched.setattr("os.getpid", lambda: ended.pid)
        dead = tmp_path / "store" / "indexes" / draft_name("0" * 32)
    own = dead.with_name(draft_name("0" * 32))
    for path in (dead, own):
        path.write_bytes(b"half")
    Store.open(tmp_path / "store")
    assert [*dead.parent.iterdir()] == [own]


def test_what_is_no_image_or_no_class_is_refused_by_name(tmp_path):
    table = write(tmp_path / "all.parquet", [FILES[0], b"no image"], ["cat", "dog"])
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*row 1"):
        ImageTable(path=table, size=8).load(code=())
    with pytest.raises(DataError, match="no such column"):
        ImageTable(path=table, size=8, image="picture").load(code=())
    with pytest.raises(DataError, match="holds no images"):
        ImageTable(path=table, size=8, image="label").load(code=())
    with pytest.raises(DataError, match="holds no classes"):
        ImageTable(path=table, size=8, label="image").load(code=())
    with pytest.raises(DataError, match="no image or no class"):
        ImageTable(path=write(tmp_path / "none.parquet", [FILES[0], None], ["cat", "dog"]), size=8).load(code=())
    with pytest.raises(DataError, match="nothing says what size"):
        ImageTable(path=table).load(code=())
    short = tmp_path / "short.parquet"
    short.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DataError, match="Parquet file cannot be read"):
        ImageTable(path=short, size=8).load(code=())
    with pytest.raises(DataError, match="no .parquet file"):
        ImageTable(path=tmp_path / "nowhere", size=8).load(code=())
