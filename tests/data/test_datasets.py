"""torch's data sets and loaders, as a user's function returns them."""

from pathlib import Path

import numpy as np
import pytest

from compress.data.sources import File
from compress.errors import DataError, InputError

BEGIN = """\
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset
from torch.utils.data import WeightedRandomSampler


class Numbers(Dataset):
    classes = ["even", "odd"]

    def __init__(self, item, count=12):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 4, 4), 0


def image(index):
    return torch.full((1, 4, 4), float(index)), index % 2


"""


def load(folder: Path, returned: str, **fields):
    (folder / "mine.py").write_text(f"{BEGIN}def data():\n    return {returned}\n")
    return File(path=folder / "mine.py", **fields).load(code=[folder / "mine.py"])


@pytest.mark.parametrize(
    ("returned", "shape"),
    [
        ("Numbers(image)", (12, 1, 4, 4)),
        ("{'train': Numbers(lambda index: {'images': torch.zeros(3, 4, 4), 'labels': index % 2})}", (12, 3, 4, 4)),
        ("TensorDataset(torch.rand(12, 5), torch.arange(12) % 2)", (12, 5)),
        ("Numbers(lambda index: (Image.new('RGB', (6, 4)), torch.tensor(index % 2)))", (12, 3, 4, 6)),
        ("Numbers(lambda index: (Image.new('L', (6, 4)), index % 2))", (12, 1, 4, 6)),
        ("Numbers(lambda index: (torch.ones(2, dtype=torch.bfloat16), np.int64(index % 2)))", (12, 2)),
    ],
)
def test_every_item_of_a_map_style_data_set_is_read(tmp_path, returned, shape):
    train = load(tmp_path, returned).roles["train"]
    assert train.inputs.shape == shape
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1] * 6


def test_the_names_of_classes_are_those_of_the_data_set_unless_others_are_given(tmp_path):
    returned = "{'train': Subset(Numbers(image), range(6)), 'test': Subset(Numbers(image), range(6, 12))}"
    raw = load(tmp_path, returned)
    assert raw.classes == ("even", "odd")
    assert raw.roles["test"].inputs[:, 0, 0, 0].tolist() == [6, 7, 8, 9, 10, 11]
    assert load(tmp_path, returned, classes=("a", "b")).classes == ("a", "b")


def test_a_loader_gives_its_data_set_in_order_or_the_subset_that_it_reads(tmp_path):
    raw = load(
        tmp_path,
        "{'train': DataLoader(Numbers(image), sampler=SubsetRandomSampler([8, 2, 5]), batch_size=2),"
        " 'test': DataLoader(Numbers(image, 4), batch_size=3, shuffle=True, drop_last=True)}",
    )
    assert [raw.roles[role].inputs[:, 0, 0, 0].tolist() for role in raw.roles] == [[2, 5, 8], [0, 1, 2, 3]]
    assert "train: the loader's data set is read; batch size, order and collate_fn are not used" in raw.notes


def test_several_inputs_and_sequences_of_different_lengths(tmp_path):
    pairs = load(tmp_path, "Numbers(lambda index: ((torch.ones(4), torch.zeros(2, 3)), index % 2))").roles["train"]
    assert pairs.inputs.dtype.names == ("input0", "input1")
    tuples = load(tmp_path, "{'train': ((np.ones((6, 4)), np.zeros((6, 2, 3))), np.arange(6) % 2)}").roles["train"]
    assert tuples.inputs.dtype.names == ("input0", "input1")
    walks = load(tmp_path, "Numbers(lambda index: (torch.ones(1 + index % 3, 2), index % 2))").roles["train"]
    assert walks.inputs["lengths"].tolist() == [1, 2, 3] * 4


def test_random_transforms_are_told_and_give_the_same_samples_each_time(tmp_path):
    drawn = "(torch.rand(3) + random.random() + np.random.rand(), index % 2)"
    first, second = (load(tmp_path, f"Numbers(lambda index: {drawn})") for _ in range(2))
    assert any("gives other samples each time" in note for note in first.notes)
    np.testing.assert_array_equal(first.roles["train"].inputs, second.roles["train"].inputs)
    assert not load(tmp_path, "Numbers(image)").notes


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("Stream()", r"(?s)sample by sample.*map-style.*IterableDataset.*list\(dataset\)"),
        ("DataLoader(Stream())", "(?s)sample by sample.*IterableDataset"),
        ("Numbers(image, 0)", "is empty"),
        ("Numbers(lambda index: (torch.zeros(2), index, index))", "(?s)is no pair.*a tuple of 3"),
        ("Numbers(lambda index: {'y': 0, 'target': 1, 'x': 1.0})", "(?s)which entry is its label.*y, target, x"),
        ("Numbers(lambda index: (torch.zeros(3, 4, 4 + index % 2), 0))", r"(?s)differ in shape.*4, 4\).*resize or pad"),
        ("Numbers(lambda index: (torch.zeros(2), None if index else 1))", "others none"),
        ("DataLoader(Numbers(image), sampler=WeightedRandomSampler([1.0] * 12, 20))", "(?s)which samples.*Subset"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_return(tmp_path, returned, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, returned)


def test_what_an_item_raises_is_told_with_the_users_line(tmp_path):
    with pytest.raises(InputError, match=r"(?s)your code fails: mine\.py.*ZeroDivisionError.*mine\.py:\d+"):
        load(tmp_path, "Numbers(lambda index: 1 / 0)")
