"""Tar files of images: read as files in a folder are; one that ends early is refused, wherever it was cut."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from compress.data.source import Opening
from compress.data.sources import ImageFolder
from compress.data.stored import MappedRows
from compress.data.tar_shards import TarImages
from compress.errors import DataError


def encoded(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12 + number, 20, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


FILES = [encoded(number) for number in range(8)]
NAMES = ["cat"] * 4 + ["dog"] * 4


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            told = tarfile.TarInfo(name)
            told.size = len(content)
            archive.addfile(told, io.BytesIO(content))
    return path


def members(rows, labels):
    return [
        member
        for row, label in zip(rows, labels, strict=True)
        for member in ((f"part/{row:04}.png", FILES[row]), (f"part/{row:04}.cls", str(label).encode()))
    ]


@pytest.fixture
def shards(tmp_path):
    write(tmp_path / "shards" / "000.tar", members(range(5), NAMES[:5]))
    write(tmp_path / "shards" / "001.tar", members(range(5, 8), NAMES[5:]))
    return tmp_path / "shards"


def test_shards_give_the_pixels_and_classes_of_files_in_a_folder(tmp_path, shards):
    for row, (content, name) in enumerate(zip(FILES, NAMES, strict=True)):
        place = tmp_path / "folder" / name / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    folder = ImageFolder(root=tmp_path / "folder", size=8).load(code=())
    found = TarImages(path=shards, size=8).load(code=())
    assert found.classes == folder.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.roles["train"].array, folder.roles["train"].array)
    np.testing.assert_array_equal(found.roles["train"].labels, folder.roles["train"].labels)
    large = TarImages(path=shards, size=8, memory_gb=0).open(Opening(store=tmp_path / "store"), code=())
    assert isinstance(large.roles["train"].inputs, MappedRows)
    assert large.roles["train"].digest == found.roles["train"].digest


def test_numbers_get_names_and_classes_may_be_left_out(tmp_path):
    path = write(tmp_path / "a.tar", members(range(4), [1, 0, 1, 2]))
    found = TarImages(files={"train": path}, size=8, classes=("a", "b", "c")).load(code=())
    assert found.classes == ("a", "b", "c")
    assert found.roles["train"].labels.tolist() == [1, 0, 1, 2]
    assert TarImages(path=path, size=8, label=None).load(code=()).roles["train"].labels is None
    named = write(tmp_path / "b.tar", members(range(2), ["c", "a"]))
    assert TarImages(path=named, size=8, classes=("a", "b", "c")).load(code=()).roles["train"].labels.tolist() == [2, 0]
    with pytest.raises(DataError, match=r"class of a sample is not known[\s\S]*cow"):
        TarImages(path=write(tmp_path / "c.tar", members([0], ["cow"])), size=8, classes=("a", "b")).load(code=())


def test_a_file_that_ends_early_is_refused_wherever_it_was_cut(shards, tmp_path):
    whole = (shards / "000.tar").read_bytes()
    with tarfile.open(shards / "000.tar") as archive:
        starts = [member.offset for member in archive]
        end = archive.offset
    cut = tmp_path / "cut.tar"
    # Between two members, in a header, in an image, at its padding, and before the blocks of zeros at the end.
    for size in (starts[2], starts[2] + 100, starts[2] + 512 + 60, starts[3] - 1, end, starts[-1] + 512 + 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"tar file (ends early|cannot be read)[\s\S]*cut.tar[\s\S]*next:"):
            TarImages(path=cut, size=8).load(code=())
    damaged = bytearray(whole)
    damaged[starts[4] : starts[4] + 8] = b"\xff" * 8  # tarfile alone takes this for the end
    cut.write_bytes(damaged)
    with pytest.raises(DataError, match=r"ends early[\s\S]*copy or download"):
        TarImages(path=cut, size=8).load(code=())


def test_what_is_no_tar_of_samples_is_refused_by_name(tmp_path):
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w:gz") as archive:
        archive.add(__file__, "a.png")
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*gunzip"):
        TarImages(path=bad, size=8).load(code=())
    with pytest.raises(DataError, match=r"no class[\s\S]*bad.tar, part/0000"):
        TarImages(path=write(bad, members(range(1), [0])[:1]), size=8).load(code=())
    with pytest.raises(DataError, match="has not one image"):
        TarImages(path=write(bad, [*members(range(1), [0]), ("part/0000.jpg", FILES[1])]), size=8).load(code=())
    with pytest.raises(DataError, match="there twice"):
        TarImages(path=write(bad, members([0, 0], [0, 0])), size=8).load(code=())
    with pytest.raises(DataError, match="no .tar file"):
        TarImages(path=tmp_path / "nowhere", size=8).load(code=())
    torn = [("a.png", FILES[0]), ("a.cls", b"0"), ("b.png", b"no image"), ("b.cls", b"1")]
    with pytest.raises(DataError, match=r"image cannot be read[\s\S]*bad.tar, b"):
        TarImages(path=write(bad, torn), size=8).load(code=())
    found = TarImages(path=bad, size=8, on_error="skip").load(code=())
    assert "1 of 2 images cannot be read" in found.notes[0]


def test_classes_in_another_order_are_other_labels_also_where_images_lie_in_a_file(tmp_path, shards):
    def read(*classes):
        source = TarImages(path=shards, size=8, classes=classes, memory_gb=1e-9)
        return source.open(Opening(store=tmp_path / "store"), code=()).roles["train"].labels.tolist()

    assert read("cat", "dog") == [0] * 4 + [1] * 4
    assert read("dog", "cat") == [1] * 4 + [0] * 4


def test_a_member_of_negative_size_is_refused_at_once(tmp_path):
    """As in CVE-2025-8194, where the next member is the same one again."""
    path = write(tmp_path / "bad.tar", members(range(2), NAMES[:2]))
    header = bytearray(path.read_bytes())
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    path.write_bytes(header)
    with pytest.raises(DataError, match="the tar file cannot be read"):
        TarImages(path=path, size=8).load(code=())
