import gzip
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from compress.data.arrays import ArrayPair, Numpy
from compress.data.idx import read_idx
from compress.data.roles import Split, assign
from compress.data.sources import Digits, File, Idx, ImageFolder
from compress.errors import DataError, InputError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx_directory(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images[:, 0])
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels.astype(np.uint8))
    return tmp_path


def test_digits_are_eight_by_eight_and_use_the_whole_byte():
    raw = Digits().load(code=())
    assert raw.roles["train"].inputs.shape == (1797, 1, 8, 8)
    assert raw.roles["train"].inputs.max() == 255
    assert len(raw.classes) == 10


def test_digits_are_those_that_scikit_learn_loads():
    levels, labels = load_digits(return_X_y=True)
    samples = Digits().load(code=()).roles["train"]
    np.testing.assert_array_equal(samples.inputs.reshape(-1, 64), np.round(levels / 16 * 255))
    np.testing.assert_array_equal(samples.labels, labels)
    assert samples.labels.dtype == np.int64


def test_idx_reads_plain_and_gzipped_files(idx_directory, images, labels):
    raw = Idx(directory=idx_directory).load(code=())
    assert list(raw.roles) == ["train"]
    np.testing.assert_array_equal(raw.roles["train"].inputs, images)
    np.testing.assert_array_equal(raw.roles["train"].labels, labels)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_keeps_its_own_test_role():
    data = assign(Idx(directory=FASHION_MNIST).load(code=()), split=Split(), overlap="refuse")
    assert len(data.test) == 10_000
    assert len(data.train) + len(data.select) + len(data.calibration) == 60_000
    assert data.dropped_duplicates == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content + b"\0", "too long"),
        (lambda content: b"PK" + content[2:], "no IDX file"),
        (lambda content: content[:2] + b"\x07" + content[3:], "no IDX file"),
        (lambda content: b"", "no IDX file"),
        (lambda content: content[:3] + b"\x64" + bytes(4 * 100), "no IDX file"),
        (lambda content: content[:4] + b"\xff" * 16, "truncated"),
        (lambda content: content[:4] + b"\x80\0\0\0" * 2 + b"\0\0\0\x04" + b"\0\0\0\x01", "truncated"),  # 2^64
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, images, damage, message):
    path = tmp_path / "images"
    write_idx(path, images)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_cut_gzip_file_is_named(idx_directory):
    path = idx_directory / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        Idx(directory=idx_directory).load(code=())


def test_no_more_of_a_gzip_file_is_unpacked_than_its_header_says(tmp_path):
    path = tmp_path / "images.gz"
    for content in (bytes(2**26), struct.pack(">BBBBI", 0, 0, 8, 1, 8) + bytes(2**26)):
        path.write_bytes(gzip.compress(content, 1))
        del content
        tracemalloc.start()
        with pytest.raises(DataError, match="no IDX file|too long"):
            read_idx(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 2**22


def write_header(file, shape) -> None:
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "|u1"})


def test_a_header_that_promises_more_than_its_file_holds_is_refused(tmp_path):
    with (tmp_path / "x.npy").open("wb") as file:
        write_header(file, (2**42, 8, 8))
    with pytest.raises(DataError, match="promises more"):
        Numpy(arrays={"train": ArrayPair(inputs=tmp_path / "x.npy")}).load(code=())
    with zipfile.ZipFile(tmp_path / "all.npz", "w") as archive, archive.open("train_inputs.npy", "w") as file:
        write_header(file, (2**42, 8, 8))
        file.write(bytes(64))
    with pytest.raises(DataError, match=r"(?s)promises more.*281,474,976,710,656 bytes.*64 bytes.*train_inputs"):
        Numpy(archive=tmp_path / "all.npz").load(code=())


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        Idx(directory=tmp_path).load(code=())


def write_images(folder: Path, *, count: int, level: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (6, 4), (level + number, 0, 0)).save(folder / f"{number}.png")


def test_an_image_folder_without_roles_is_all_train(tmp_path):
    write_images(tmp_path / "cat", count=3, level=10)
    write_images(tmp_path / "dog", count=2, level=100)
    raw = ImageFolder(root=tmp_path, size=(4, 6)).load(code=())
    assert raw.classes == ("cat", "dog")
    assert raw.roles["train"].inputs.shape == (5, 3, 4, 6)
    assert raw.roles["train"].inputs[:, 0, 0, 0].tolist() == [10, 11, 12, 100, 101]
    assert raw.roles["train"].labels is not None
    assert raw.roles["train"].labels.tolist() == [0, 0, 0, 1, 1]


def test_an_image_folder_tells_roles_apart_and_train_may_be_unlabelled(tmp_path):
    write_images(tmp_path / "train", count=3, level=0)
    for role in ("select", "test"):
        write_images(tmp_path / role / "cat", count=2, level=10)
        write_images(tmp_path / role / "dog", count=2, level=100)
    raw = ImageFolder(root=tmp_path, size=2, mode="grayscale").load(code=())
    assert set(raw.roles) == {"train", "select", "test"}
    assert raw.roles["train"].labels is None
    assert raw.roles["test"].inputs.shape == (4, 1, 2, 2)


def test_a_corrupt_image_is_named(tmp_path):
    write_images(tmp_path / "cat", count=2, level=10)
    path = tmp_path / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(DataError, match="cannot be read") as caught:
        ImageFolder(root=tmp_path, size=4).load(code=())
    assert str(path) in str(caught.value)


def test_a_validation_folder_beside_roles_is_refused(tmp_path):
    write_images(tmp_path / "train" / "cat", count=1, level=0)
    write_images(tmp_path / "val" / "cat", count=1, level=0)
    with pytest.raises(DataError, match="rename a validation folder to select"):
        ImageFolder(root=tmp_path, size=4).load(code=())


def test_what_is_no_image_of_a_class_is_skipped_and_counted(tmp_path):
    root = tmp_path / "photos"
    for role, level in (("train", 0), ("test", 50)):
        for name in ("cat", "dog"):
            write_images(root / role / name, count=2, level=level)
    plain = ImageFolder(root=root, size=4).load(code=())
    assert plain.notes == ()
    write_images(root / "__MACOSX" / "train" / "cat", count=2, level=9)
    write_images(root / "train" / "cat" / "more" / "still", count=3, level=90)
    (root / "train" / "cat" / "._0.png").write_bytes(b"a resource fork")
    (root / "train" / "cat" / "scan").write_bytes(b"no suffix")
    (root / "test" / "Thumbs.db").write_bytes(b"")
    for empty in (root / "train" / "bird", root / "test" / "fish", root / "notes"):
        empty.mkdir()
    raw = ImageFolder(root=root, size=4).load(code=())
    assert raw.classes == plain.classes == ("cat", "dog")
    assert {role: samples.digest for role, samples in raw.roles.items()} == {
        role: samples.digest for role, samples in plain.roles.items()
    }
    assert raw.notes == (
        "skipped in photos: folder without images 3, in a folder inside a class's 3, hidden 2, without a suffix 1, "
        ".db 1",
    )


def test_a_jfif_file_is_read(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / name, count=1, level=10)
    Image.new("RGB", (6, 4), (200, 0, 0)).save(tmp_path / "cat" / "1.jfif", format="JPEG")
    assert len(ImageFolder(root=tmp_path, size=4).load(code=()).roles["train"]) == 3


def test_a_class_that_train_has_no_image_of_is_refused(tmp_path):
    write_images(tmp_path / "train" / "cat", count=2, level=0)
    write_images(tmp_path / "test" / "dog", count=3, level=0)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"(?s)no image of a class of test.*among cat.*got: +dog 3"):
        ImageFolder(root=tmp_path, size=4).load(code=())


def test_a_folder_of_which_nothing_is_read_says_what_was_skipped(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)no images of a class.*\.heic 1"):
        ImageFolder(root=tmp_path, size=4).load(code=())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize(("mode", "channels"), [("grayscale", 1), ("rgb", 3)])
def test_levels_of_16_bits_are_scaled_to_8(suffix, mode, channels, tmp_path):
    (tmp_path / "cat").mkdir()
    levels = np.array([[0, 128, 129, 257], [32767, 32768, 65534, 65535]], np.uint16)
    path = tmp_path / "cat" / f"0{suffix}"
    if suffix == ".pgm":  # which Pillow reads, but writes only from version 11 on
        path.write_bytes(b"P5 4 2 65535\n" + levels.astype(">u2").tobytes())
    else:
        Image.fromarray(levels).save(path)
    raw = ImageFolder(root=tmp_path, size=(2, 4), mode=mode).load(code=())
    expected = np.round(levels / 65535 * 255)
    np.testing.assert_array_equal(raw.roles["train"].inputs[0], np.broadcast_to(expected, (channels, 2, 4)))
    assert raw.notes == ("1 images of 16 bits are scaled to 8",)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.full((4, 4), 0.5, np.float32), "cannot be known.*got: +floats"),
        (np.full((4, 4), 70_000, np.int32), "cannot be known.*32-bit integers"),
        (np.full((4, 4), 4095, np.uint16), "nearly black.*at most 4,095 in 1 images"),
    ],
)
def test_levels_whose_range_cannot_be_known_are_refused_by_file(levels, message, tmp_path):
    (tmp_path / "cat").mkdir()
    Image.fromarray(levels).save(tmp_path / "cat" / "0.tif")
    with pytest.raises(DataError, match=f"(?s){message}.*0.tif"):
        ImageFolder(root=tmp_path, size=4, mode="grayscale").load(code=())


def test_an_archive_and_files_give_the_same_arrays(tmp_path, images, labels):
    np.savez(tmp_path / "all.npz", train_inputs=images.transpose(0, 2, 3, 1), train_labels=labels)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", labels)
    pair = ArrayPair(inputs=tmp_path / "x.npy", labels=tmp_path / "y.npy")
    first = Numpy(archive=tmp_path / "all.npz", layout="NHWC").load(code=()).roles["train"]
    second = Numpy(arrays={"train": pair}).load(code=()).roles["train"]
    assert first.digest == second.digest


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="without pickled objects"):
        Numpy(arrays={"train": ArrayPair(inputs=tmp_path / "x.npy")}).load(code=())


def test_an_array_of_no_role_is_refused(tmp_path, images):
    np.savez(tmp_path / "all.npz", x_train=images)
    with pytest.raises(DataError, match="x_train"):
        Numpy(archive=tmp_path / "all.npz").load(code=())


def test_channels_last_images_are_refused_by_default(tmp_path):
    np.savez(tmp_path / "all.npz", train_inputs=np.zeros((4, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match="layout: NHWC"):
        Numpy(archive=tmp_path / "all.npz").load(code=())


CODE = """
import numpy as np

def data(count):
    return {"train": (np.zeros((count, 4, 4), np.uint8), np.arange(count) % 2)}

def wrong():
    return np.zeros(3)

def fractions():
    return {"train": (np.zeros((2, 4, 4), np.uint8), np.array([0.0, 1.0]))}
"""


def test_a_users_file_runs_only_when_it_is_named(tmp_path):
    path = tmp_path / "my_data.py"
    path.write_text(CODE)
    source = File(path=path, arguments={"count": 6})
    assert source.load(code=[path]).roles["train"].inputs.shape == (6, 1, 4, 4)
    with pytest.raises(InputError, match="--code"):
        source.load(code=())


@pytest.mark.parametrize(
    ("factory", "message"), [("wrong", "ndarray"), ("fractions", r"(?s)integers for classes.*reshape\(-1, 1\)")]
)
def test_a_users_function_must_return_roles_to_pairs(tmp_path, factory, message):
    path = tmp_path / "my_data.py"
    path.write_text(CODE)
    with pytest.raises(DataError, match=message):
        File(path=path, factory=factory).load(code=[path])
