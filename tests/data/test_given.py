"""Arrays of users: axes in our order, several inputs by name, and labels of every kind."""

import numpy as np
import pytest

from compress.data.arrays import Numpy
from compress.data.checks import class_names
from compress.data.given import labels_of, read_given
from compress.data.samples import Samples
from compress.data.sources import File
from compress.errors import DataError

SERIES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
LABELS = np.array([0, 1])


def read(inputs, layout="NCHW", **roles):
    given = {"train": (inputs, LABELS), **roles}
    return read_given(given, layout=layout, classes=(), where="here")


def test_three_axes_are_grey_images_unless_the_layout_says_series():
    assert read(SERIES.astype(np.uint8)).roles["train"].inputs.shape == (2, 1, 3, 4)
    for layout in ("NCL", "NTF"):
        raw = read(SERIES, layout)
        assert raw.layouts == {"": layout}
        assert raw.roles["train"].inputs.shape == (2, 3, 4)
        assert raw.roles["train"].inputs.dtype == np.float32


def test_a_table_stays_a_table():
    assert read(np.zeros((2, 3))).roles["train"].inputs.shape == (2, 3)
    assert read(np.zeros((2, 3)), "NHWC").roles["train"].inputs.shape == (2, 3)


def test_inputs_by_name_keep_their_order_and_kinds():
    raw = read({"right": SERIES, "left": np.ones((2, 5)), "lengths": np.array([1, 3])}, {"right": "NTF"})
    inputs = raw.roles["train"].inputs
    assert inputs.dtype.names == ("right", "left", "lengths")
    assert [inputs[name].dtype for name in inputs.dtype.names] == [np.float32, np.float32, np.int64]
    assert raw.layouts == {"right": "NTF"}


@pytest.mark.parametrize(
    ("inputs", "layout", "roles", "message"),
    [
        ({"a": LABELS}, {"b": "NTF"}, {}, r"(?s)layout names no input.*a.*got:\s+b"),
        ({"a": LABELS, "b": np.ones(3)}, "NCHW", {}, "(?s)differ in length.*a: 2, b: 3"),
        ({"a": LABELS}, "NCHW", {"test": ({"b": LABELS}, LABELS)}, "(?s)different inputs.*here, test"),
        ({"a": np.array([[1j, 2j]] * 2)}, "NCHW", {}, "(?s)neither numbers nor a column.*complex"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, layout, roles, message):
    with pytest.raises(DataError, match=message):
        read(inputs, layout, **roles)


def test_labels_are_read_by_their_kind():
    targets, note = labels_of(np.array([0.5, 1.5]))
    assert targets.tolist() == [[0.5], [1.5]]
    assert "regression" in note
    several, note = labels_of(np.array([[1, 1], [0, 1]]))
    assert several.dtype == np.uint8
    assert not note
    classes, note = labels_of(np.array([[0, 1], [1, 0]], bool))
    assert classes.tolist() == [1, 0]
    assert "one-hot" in note


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.0, 1.0]), r"(?s)class numbers or targets.*astype\(int\)"),
        (np.array([[0, 2]]), "(?s)neither yes and no nor targets.*0 to 2"),
        (np.array(["a"]), "no class numbers"),
    ],
)
def test_labels_that_may_be_two_things_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        labels_of(labels)


def test_an_archive_holds_several_inputs_by_name(tmp_path):
    arrays = {"train_left": np.ones((2, 3)), "train_right": np.zeros((2, 3)), "train_labels": LABELS}
    np.savez(tmp_path / "pairs.npz", **arrays)
    raw = Numpy(archive=tmp_path / "pairs.npz").load(code=())
    assert raw.roles["train"].inputs.dtype.names == ("left", "right")
    np.savez(tmp_path / "pairs.npz", **arrays, train_inputs=LABELS)
    with pytest.raises(DataError, match=r"(?s)beside `inputs`.*train_left"):
        Numpy(archive=tmp_path / "pairs.npz").load(code=())


def test_a_users_function_gives_inputs_by_name(tmp_path):
    (tmp_path / "my_data.py").write_text(
        "import numpy as np\n"
        "def data():\n    return {'train': ({'sequence': np.ones((2, 4, 3)), 'lengths': [2, 4]}, np.array([0, 1]))}\n"
    )
    source = File(path=tmp_path / "my_data.py", layout={"sequence": "NTF"})
    raw = source.load(code=[tmp_path / "my_data.py"])
    assert raw.roles["train"].inputs["lengths"].tolist() == [2, 4]
    assert "layout" not in File(path=tmp_path / "my_data.py").model_dump()


def test_a_list_of_sequences_is_padded_to_the_longest_of_all_roles():
    walks = [np.full((steps, 2), steps) for steps in (1, 3)]
    raw = read(walks, "NTF", test=([np.ones((2, 2)), np.ones((2, 2))], LABELS))
    inputs, test = raw.roles["train"].inputs, raw.roles["test"].inputs
    assert inputs.dtype.names == ("sequence", "lengths")
    assert inputs["sequence"].shape == test["sequence"].shape == (2, 3, 2)
    assert inputs["sequence"][0].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert (inputs["lengths"].tolist(), test["lengths"].tolist()) == ([1, 3], [2, 2])
    assert raw.layouts == {"sequence": "NTF"}
    assert raw.notes == ("sequence: padded to 3 steps, with an input of their lengths",)
    named = read({"left": walks, "right": np.ones((2, 4))})
    assert named.roles["train"].inputs.dtype.names == ("left", "left_lengths", "right")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([np.ones((1, 2)), np.ones((3, 3))], r"(?s)more than their length.*\[T, 2\], \[T, 3\].*here, train"),
        ([np.ones(2), np.ones(3)], "(?s)no array.*inhomogeneous"),
    ],
)
def test_lists_that_are_no_sequences_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        read(values)


def test_a_column_of_text_is_as_wide_in_every_role():
    words = {role: np.array(values) for role, values in (("train", ["longer", "b"]), ("test", ["a", "bb"]))}
    roles = {role: ({"word": cells, "x": np.zeros(2)}, np.array([0, 1])) for role, cells in words.items()}
    raw = read_given(roles, layout="NCHW", classes=(), where="here")
    assert {str(samples.inputs.dtype["word"]) for samples in raw.roles.values()} == {"<U6"}


def test_bytes_by_name_are_numbers_that_a_model_looks_up():
    tokens = np.arange(6, dtype=np.uint8).reshape(2, 3)
    raw = read_given({"train": ({"tokens": tokens}, np.array([0, 1]))}, layout="NCHW", classes=(), where="here")
    assert raw.roles["train"].inputs.dtype["tokens"].base == np.int64


def test_roles_whose_labels_are_of_different_kinds_are_refused():
    roles = {
        "train": Samples(np.zeros((2, 3)), np.eye(2, dtype=np.uint8)),
        "test": Samples(np.zeros((2, 3)), np.arange(2)),
    }
    with pytest.raises(DataError, match=r"(?s)different kinds of labels.*test: one a sample"):
        class_names(roles, ())


def test_labels_that_are_names_are_classes_in_their_order_or_in_that_which_is_given():
    rows, names = np.zeros((4, 3), np.float32), np.array(["walk", "rest", "run", "rest"])
    raw = read_given({"train": (rows, names)}, layout="NCHW", classes=(), where="here")
    assert raw.classes == ("rest", "run", "walk")
    assert raw.roles["train"].labels.tolist() == [2, 0, 1, 0]
    given = read_given({"train": (rows, list(names))}, layout="NCHW", classes=("run", "walk", "rest"), where="here")
    assert given.roles["train"].labels.tolist() == [1, 2, 0, 2]
    with pytest.raises(DataError, match="(?s)no class.*expected: +run, walk.*got: +rest"):
        read_given({"train": (rows, names)}, layout="NCHW", classes=("run", "walk"), where="here")
    with pytest.raises(DataError, match="names in train, numbers in test"):
        read_given({"train": (rows, names), "test": (rows, np.arange(4))}, layout="NCHW", classes=(), where="here")
