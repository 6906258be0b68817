"""Columns of numbers and categories: every kind of file gives the same samples; what is wrong is told by its row."""

import json

import numpy as np
import pandas as pd
import pytest

from compress.data.checks import check_inputs
from compress.data.named import name_arrays
from compress.data.samples import Samples
from compress.data.table import Table
from compress.errors import DataError

ROWS = [
    {"age": 30, "height": 1.5, "job": "nurse", "area": 1, "label": "yes", "cost": 2.5},
    {"age": 41, "height": -2e9, "job": "pilot, retired", "area": 2, "label": "no", "cost": 0.5},
    {"age": None, "height": 0.25, "job": "", "area": 1, "label": "yes", "cost": 1.0},
]


@pytest.fixture(params=[".csv", ".semicolons.csv", ".tsv", ".jsonl", ".parquet"])
def path(request, tmp_path):
    found, frame = tmp_path / f"rows{request.param}", pd.DataFrame(ROWS)
    if request.param == ".parquet":
        frame.to_parquet(found)
    elif request.param == ".jsonl":
        found.write_text("\n".join(json.dumps(row) for row in ROWS))
    else:
        frame.to_csv(found, index=False, sep={".csv": ",", ".tsv": "\t"}.get(request.param, ";"))
    return found


def load(path, **columns):
    return Table(path=path, **columns).load(code=())


def test_every_kind_of_file_gives_the_same_columns(path):
    raw = load(path, numbers=("height", "age"), categories=("job", "area"), label="label")
    inputs = raw.roles["train"].inputs
    assert inputs.dtype.names == ("height", "age", "job", "area")
    assert inputs["height"].tolist() == [1.5, -2e9, 0.25]
    np.testing.assert_array_equal(inputs["age"], [30, 41, np.nan])
    assert inputs["job"].tolist() == ["nurse", "pilot, retired", ""]
    assert inputs["area"].tolist() == ["1", "2", "1"]
    assert raw.roles["train"].labels.tolist() == [1, 0, 1]
    assert any("semicolons" in note for note in raw.notes) == path.name.endswith(".semicolons.csv")


def test_targets_of_a_table_are_numbers(path):
    targets = load(path, numbers=("height",), targets=("cost",)).roles["train"].labels
    assert targets.dtype == np.float32
    assert targets.tolist() == [[2.5], [0.5], [1.0]]


def test_equal_rows_of_two_files_are_the_same_sample(tmp_path):
    long = [*ROWS, ROWS[0] | {"job": "a much longer name of a job"}]
    for name, rows in (("train", long), ("test", ROWS)):
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {role: tmp_path / f"{role}.csv" for role in ("train", "test")}
    raw = Table(files=files, numbers=("age", "height"), categories=("job",), label="label").load(code=())
    assert raw.roles["train"].hashes[:3] == raw.roles["test"].hashes


@pytest.mark.parametrize(
    ("cell", "message"),
    [("1,5", r"(?s)no number.*'1,5'.*column age, row 2.*decimal comma"), ("n/a", "(?s)'n/a'.*empty the cell")],
)
def test_a_cell_that_holds_no_number_is_told_by_its_row(tmp_path, cell, message):
    (tmp_path / "rows.csv").write_text(f"age;label\n1;a\n{cell};b\n")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "rows.csv", numbers=("age",), label="label")


def test_a_text_is_no_category(tmp_path):
    (tmp_path / "rows.csv").write_text(f"job,label\na,x\n{'b' * 201},y\n")
    with pytest.raises(DataError, match=r"(?s)too long for a category.*201.*row 2.*text:"):
        load(tmp_path / "rows.csv", categories=("job",), label="label")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "job", "numbers": ("age",), "label": "label"}, "only one of them"),
        ({"numbers": ("age", "age"), "label": "label"}, "age twice"),
        ({"numbers": ("age", "cost"), "targets": ("cost",)}, "cost as what is learnt"),
        ({"numbers": ("age",), "pair": "job", "label": "label"}, "beside text"),
    ],
)
def test_columns_that_say_two_things_are_refused(columns, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Table(path=tmp_path / "rows.csv", **columns)


def test_a_table_of_texts_is_written_as_before():
    assert {"numbers", "categories"}.isdisjoint(Table(path="a.csv", text="text", label="label").model_dump())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"age": np.array([1.0, np.inf])}, "(?s)infinity.*train, age, sample 1"),
        ({"signal": np.array([[[1.0]], [[np.nan]]])}, "(?s)NaN or infinity.*signal, sample 1"),
    ],
)
def test_numbers_that_are_none_are_refused(arrays, message):
    with pytest.raises(DataError, match=message):
        check_inputs({"train": Samples(name_arrays(arrays, where="here"), np.array([0, 1]))})


def test_a_missing_number_is_left_to_the_task():
    check_inputs({"train": Samples(name_arrays({"age": np.array([1.0, np.nan])}, where="here"), np.array([0, 1]))})
