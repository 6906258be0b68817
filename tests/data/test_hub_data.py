"""Data sets of the Hugging Face hub: a folder that the datasets library reads stands in for one that is downloaded."""

import datasets
import numpy as np
import pytest

from compress.data.table import HubData
from compress.errors import DataError


@pytest.fixture(autouse=True)
def no_shared_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def saved(folder, *, features=None, **splits):
    """A folder of one parquet file a split, whose features the file carries, as on the hub."""
    folder.mkdir()
    for name, columns in splits.items():
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(folder / f"{name}.parquet")
    return str(folder)


def test_numbered_labels_get_their_names_and_splits_their_roles(tmp_path):
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "bacon"])}
    )
    path = saved(
        tmp_path / "mails",
        features=features,
        train={"sentence": ["a", "b", "c"], "label": [1, 0, 1]},
        validation={"sentence": ["d"], "label": [0]},
    )
    raw = HubData(path=path, text="sentence", label="label", splits={"train": "train", "select": "validation"}).load(
        code=()
    )
    assert raw.classes == ("bacon", "ham")
    assert raw.roles["train"].inputs.tolist() == ["a", "b", "c"]
    assert [raw.classes[label] for label in raw.roles["train"].labels] == ["bacon", "ham", "bacon"]
    assert [raw.classes[label] for label in raw.roles["select"].labels] == ["ham"]


def test_numbered_tags_of_words_get_their_names(tmp_path):
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    path = saved(
        tmp_path / "words", features=features, train={"tokens": [["Ann", "ate"], ["ham"]], "ner_tags": [[1, 0], [0]]}
    )
    raw = HubData(path=path, words="tokens", tags="ner_tags").load(code=())
    assert raw.classes == ("B-PER", "O")
    assert raw.roles["train"].inputs.tolist() == [("Ann", "ate"), ("ham",)]
    assert [np.array(raw.classes)[tags].tolist() for tags in raw.roles["train"].labels] == [["B-PER", "O"], ["O"]]


def test_a_split_without_labels_is_refused_with_its_row(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham"])})
    path = saved(tmp_path / "mails", features=features, train={"text": ["a", "b"], "label": [0, -1]})
    with pytest.raises(DataError, match=r"(?s)label.*row 2"):
        HubData(path=path, text="text", label="label").load(code=())


def test_a_split_that_is_not_there_is_told(tmp_path):
    path = saved(tmp_path / "mails", train={"text": ["a"], "label": ["x"]})
    with pytest.raises(DataError, match=r"(?s)cannot be read.*dev"):
        HubData(path=path, text="text", label="label", splits={"train": "dev"}).load(code=())


def test_a_data_set_that_is_a_script_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "mails.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match=r"(?s)cannot be read.*scripts are no longer supported.*mails, train"):
        HubData(path=str(folder), text="text", label="label").load(code=())
    assert not (tmp_path / "ran").exists()
