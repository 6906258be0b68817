"""Tables of text: every kind of file gives the same samples, and what is wrong with one is told with its place."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from compress.data import Samples
from compress.data.roles import Split, assign
from compress.data.table import Table
from compress.data.table_file import read_table
from compress.errors import DataError

ROWS = [
    {"text": "a, b", "other": "x", "label": "yes", "spam": 1, "urgent": 0, "score": 0.5},
    {"text": 'say "hi"', "other": "y", "label": "no", "spam": 0, "urgent": 1, "score": -2.0},
    {"text": "NA", "other": "z", "label": "yes", "spam": 1, "urgent": 1, "score": 3.25},
]
WORDS = [
    {"words": ["a", "b"], "tags": ["O", "B-X"]},
    {"words": ["c"], "tags": ["O"]},
]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix in (".csv", ".tsv"):
        pd.DataFrame(rows).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=[".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def rows_path(request, tmp_path) -> Path:
    return write(tmp_path / f"rows{request.param}", ROWS)


def loaded(path: Path, **columns):
    return Table(path=path, **columns).load(code=())


def test_every_kind_of_file_gives_the_same_samples(rows_path):
    raw = loaded(rows_path, text="text", label="label")
    assert raw.classes == ("no", "yes")
    assert raw.roles["train"].inputs.tolist() == ["a, b", 'say "hi"', "NA"]
    assert raw.roles["train"].labels.dtype == np.int64
    assert raw.roles["train"].labels.tolist() == [1, 0, 1]


def test_pairs_are_tuples(rows_path):
    inputs = loaded(rows_path, text="text", pair="other", label="label").roles["train"].inputs
    assert inputs.tolist() == [("a, b", "x"), ('say "hi"', "y"), ("NA", "z")]


def test_several_labels_and_targets_are_columns(rows_path):
    labels = loaded(rows_path, text="text", labels=("spam", "urgent"))
    assert labels.classes == ("spam", "urgent")
    assert labels.roles["train"].labels.dtype == np.uint8
    assert labels.roles["train"].labels.tolist() == [[1, 0], [0, 1], [1, 1]]
    targets = loaded(rows_path, text="text", targets=("score",)).roles["train"].labels
    assert targets.dtype == np.float32
    assert targets.tolist() == [[0.5], [-2.0], [3.25]]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_words_and_their_tags_are_lists(suffix, tmp_path):
    raw = loaded(write(tmp_path / f"words{suffix}", WORDS), words="words", tags="tags")
    assert raw.classes == ("B-X", "O")
    assert raw.roles["train"].inputs.tolist() == [("a", "b"), ("c",)]
    assert [tags.tolist() for tags in raw.roles["train"].labels] == [[1, 0], [1]]


def test_files_by_role_share_the_classes_of_train(tmp_path):
    files = {role: write(tmp_path / f"{role}.csv", ROWS[::step]) for role, step in (("train", 1), ("test", -1))}
    raw = Table(files=files, text="text", label="label").load(code=())
    assert raw.roles["test"].labels.tolist() == raw.roles["train"].labels.tolist()[::-1]


def test_a_label_of_test_that_train_does_not_have_is_refused_with_its_row(tmp_path):
    train = write(tmp_path / "train.csv", ROWS)
    test = write(tmp_path / "test.csv", [ROWS[0], {**ROWS[0], "label": "maybe"}])
    with pytest.raises(DataError, match=r"(?s)label is not among.*no, yes.*'maybe'.*test\.csv, column label, row 2"):
        Table(files={"train": train, "test": test}, text="text", label="label").load(code=())


def test_files_without_train_are_refused(tmp_path):
    with pytest.raises(DataError, match="train role is missing"):
        Table(files={"test": write(tmp_path / "t.csv", ROWS)}, text="text", label="label").load(code=())


def test_numbered_classes_are_in_numerical_order_and_spellings_have_a_fixed_one(tmp_path):
    path = write(tmp_path / "a.csv", [{"t": "x", "y": value} for value in ("10", "9", "-1", "09")])
    assert loaded(path, text="t", label="y").classes == ("-1", "09", "9", "10")
    path = write(tmp_path / "b.csv", [{"t": "x", "y": value} for value in ("²", "--1", "3")])
    assert loaded(path, text="t", label="y").classes == ("--1", "3", "²")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "txt", "label": "label"}, r"(?s)no such column.*text, other.*got:\s+txt.*did you mean text"),
        ({"text": "text", "labels": ("score",)}, r"(?s)neither 0 nor 1.*0\.5.*column score, row 1"),
        ({"text": "text", "targets": ("label",)}, r"(?s)a number is missing.*'yes'.*column label, row 1"),
        ({"words": "text", "tags": "label"}, r"(?s)a cell holds no list.*column label, row 1"),
    ],
)
def test_columns_that_are_not_what_they_should_be(columns, message, tmp_path):
    with pytest.raises(DataError, match=message):
        loaded(write(tmp_path / "rows.csv", ROWS), **columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "label": ""}], r"(?s)a label is missing.*''.*row 1"),
        ([{"text": "x", "label": "a"}, {"text": "y"}], r"(?s)a label is missing.*nan.*row 2"),
        ([{"text": "x", "label": None}], r"(?s)a label is missing.*None.*row 1"),
        ([{"text": "x", "label": ["a"]}], r"(?s)a label is missing.*\['a'\].*row 1"),
        ([{"label": "a", "text": "x"}, {"label": "a"}], r"(?s)a text is missing.*column text, row 2"),
        ([{"label": "a", "text": 3}], r"(?s)a text is missing.*column text, row 1"),
    ],
)
def test_what_is_missing_in_a_row_is_told(rows, message, tmp_path):
    with pytest.raises(DataError, match=message):
        loaded(write(tmp_path / "rows.jsonl", rows), text="text", label="label")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_byte_that_is_not_utf8_is_told_where_it_stands_in_the_file(suffix, tmp_path):
    path = write(tmp_path / f"rows{suffix}", [{"text": "ordinary", "label": "a"}] * 40_000)
    content = bytearray(path.read_bytes())
    content[300_000] = 0xE9
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)not UTF-8.*byte 0xe9 at offset 300000.*iconv"):
        read_table(path)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for path in (write(tmp_path / "rows.csv", ROWS), write(tmp_path / "rows.jsonl", ROWS)):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read_table(path).frame.columns[0] == "text"


def test_half_a_character_is_refused_and_a_whole_one_is_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"t": "\\ud83d\\ude00 \\u00e9", "y": "a"}\n{"t": "cut \\ud83d", "y": "a"}\n')
    with pytest.raises(DataError, match=r"(?s)half a character.*\\ud83d alone.*line 2"):
        read_table(path)
    path.write_text(path.read_text().splitlines()[0])
    assert read_table(path).frame["t"][0] == "\U0001f600 é"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "text", r"(?s)unknown kind of table.*\.csv, \.tsv.*rows\.txt"),
        ("rows.csv", "", "cannot be read"),
        (
            "rows.csv",
            "text,label\nhello, you,a\nbye, you,b\n",
            r"(?s)more fields than the header.*2 fields.*3 in row 1",
        ),
        ("rows.csv", "text,label\nhello,a\nbye, you,b\n", r"(?s)cannot be read.*line 3"),
        ("rows.tsv", 'text\tlabel\n"open\ta\nshut"\tb\nmore\ta\n', r"(?s)a quote joins lines.*3 rows.*got:\s+2"),
        ("rows.jsonl", '{"text": "a"}\n{"text": \n', r"(?s)no JSON.*line 2"),
        ("rows.jsonl", "[1, 2]\n", r"(?s)no JSON object.*line 1"),
        ("rows.parquet", "PAR1 no", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "absent.csv")


def test_quotes_inside_a_line_of_tsv_and_line_breaks_inside_a_csv_field_are_read(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\na "word" here\u2028still\ta\n\nlast\tb\n', encoding="utf-8")
    assert read_table(path).frame["text"].tolist() == ['a "word" here\u2028still', "last"]
    path = write(tmp_path / "rows.csv", [{"text": "two\nlines", "label": "a"}])
    assert read_table(path).frame["text"].tolist() == ["two\nlines"]


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "a"},
        {"label": "y"},
        {"text": "a", "words": "b", "tags": "c"},
        {"text": "a", "label": "y", "targets": ("z",)},
        {"words": "a", "label": "y"},
        {"text": "a", "tags": "y"},
    ],
)
def test_columns_that_say_nothing_or_two_things_are_refused(fields):
    with pytest.raises(ValueError, match="expected|go together"):
        Table(path=Path("rows.csv"), **fields)


def many(count: int = 200) -> list[dict]:
    return [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(count)]


def assigned(path: Path, **columns):
    columns = columns or {"text": "text", "label": "label"}
    return assign(loaded(path, **columns), split=Split(select=40), overlap="refuse")


def test_duplicates_are_dropped_and_no_text_is_in_two_roles(tmp_path):
    data = assigned(write(tmp_path / "rows.csv", many() + many()[:30]))
    assert data.dropped_duplicates == 30
    texts = [text for samples in data.roles.values() for text in samples.inputs]
    assert sorted(texts) == sorted(row["text"] for row in many())
    again = assigned(write(tmp_path / "other.jsonl", [*reversed(many())]))
    assert again.digest == data.digest


def test_empty_texts_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"(?s)2 of the train role's 202 texts are empty.*train, sample 200"):
        assigned(write(tmp_path / "rows.csv", [*many(), *({"text": "  ", "label": "a"} for _ in range(2))]))


def test_words_and_tags_of_different_length_are_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*WORDS, {"words": ["a", "b"], "tags": ["O"]}])
    with pytest.raises(DataError, match=r"(?s)words and tags do not pair.*2 tags.*got:\s+1.*train, sample 2"):
        assigned(path, words="words", tags="tags")


def test_a_target_that_is_no_number_is_refused(tmp_path):
    path = write(tmp_path / "rows.csv", [{"text": "a", "y": "1"}, {"text": "b", "y": "nan"}])
    with pytest.raises(DataError, match=r"(?s)a target is not finite.*sample 1"):
        assigned(path, text="text", targets=("y",))


def test_the_digest_of_texts_tells_where_one_ends():
    def digest(*texts):
        inputs = np.empty(len(texts), object)
        inputs[:] = texts
        return Samples(inputs, None).digest

    assert digest("ab", "c") != digest("a", "bc")
    assert digest(("a", "b"), ("c", "d")) != digest(("a b", ""), ("c", "d"))
    assert digest("a", "b") == digest("a", "b")


def plain_rows(count: int, *, separator: str = ",") -> list[str]:
    return [f"text{separator}label", *(f"text {number}{separator}{'ab'[number % 2]}" for number in range(count))]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ('"open,a', '5" pipe,b', r"goes on after its closing quote.*pipe.*in line 51.*line 11, where the quote opens"),
        ('"open,a', 'shut",b', r"lines that read as rows.*39 lines of 2 fields.*line 11, where the quote opens"),
        ('"open,a', '"shut, too",b', r"goes on after its closing quote.*in line 51.*line 11"),
        ('"open,a', "shut,b", r"never closed.*open,a.*line 11"),
    ],
)
def test_stray_quotes_of_a_csv_are_refused_with_the_line_where_they_open(first, last, message, tmp_path):
    lines = plain_rows(100)
    lines[10], lines[50] = first, last
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_table(write_lines(tmp_path / "rows.csv", lines))


def test_what_may_be_a_stray_quote_is_told_and_read(tmp_path):
    letter = "\n".join(["Dear reader"] * 400)
    path = write_lines(tmp_path / "rows.csv", [*plain_rows(100), f'"{letter} ""x""",a', 'said "hi",b'])
    rows = read_table(path)
    assert len(rows.frame) == 102
    assert rows.frame["text"][100] == f'{letter} "x"'
    assert rows.frame["text"][101] == 'said "hi"'
    assert rows.notes == (
        "rows.csv: 501 lines are 102 rows, because quoted fields hold line breaks; the most, 399, the one that begins "
        "in line 102",
    )
    path = write_lines(tmp_path / "long.csv", [*plain_rows(500), f'"{"x" * 20_000}",a'])
    assert read_table(path).notes == (
        "long.csv: the field that begins in line 502 has 20,000 characters, as much as many rows",
    )
    assert read_table(write_lines(tmp_path / "plain.csv", plain_rows(5))).notes == ()


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_of_semicolons_or_tabs_is_read_and_told(separator, name, tmp_path):
    path = write_lines(tmp_path / "rows.csv", [*plain_rows(3, separator=separator), f"well, yes{separator}a"])
    raw = loaded(path, text="text", label="label")
    assert raw.roles["train"].inputs.tolist() == ["text 0", "text 1", "text 2", "well, yes"]
    assert raw.notes == (f"rows.csv: its columns are separated by {name}",)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "the file is UTF-16.*iconv -f utf-16 "),
        ("utf-16le", "the file is UTF-16LE.*iconv -f utf-16le "),
        ("utf-32", "the file is UTF-32.*iconv -f utf-32 "),
        ("windows-1252", "'café’s' in windows-1252"),
        ("windows-1251", "'вкус' in windows-1251"),
        ("shift_jis", "'寿司' in shift_jis"),
    ],
)
def test_what_a_file_that_is_not_utf8_may_be_is_named(encoding, message, tmp_path):
    word = {"windows-1252": "café’s", "windows-1251": "вкус", "shift_jis": "寿司"}.get(encoding, "plain")
    path = tmp_path / "rows.csv"
    path.write_bytes(f"text,label\n{word} ok,a\n".encode(encoding))
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_table(path)


def test_a_label_that_parquet_says_is_missing_is_refused(tmp_path):
    frame = pd.DataFrame({"text": ["x", "y"], "label": pd.array([1, None], "Int64")})
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"(?s)a label is missing.*<NA>.*column label, row 2"):
        loaded(tmp_path / "rows.parquet", text="text", label="label")


def test_classes_that_differ_by_white_space_or_case_are_told_unless_they_are_named(tmp_path):
    lines = [f"text,label\nx,{label}" for label in ("ham", "ham ", "Ham", "spam")]
    path = write_lines(tmp_path / "rows.csv", [lines[0], *(line.splitlines()[1] for line in lines[1:])])
    raw = loaded(path, text="text", label="label")
    assert raw.classes == ("Ham", "ham", "ham ", "spam")
    assert raw.notes == ("classes that differ by white space or case alone: 'Ham' and 'ham' and 'ham '",)
    assert loaded(path, text="text", label="label", classes=raw.classes).notes == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", ",".join(f"c{n}" for n in range(20_000)), "too many columns.*at most 10,000.*20,000"),
        ("rows.jsonl", json.dumps({f"c{n}": 0 for n in range(20_000)}), "too many columns"),
        ("rows.jsonl", "[" * 200_000, "nested too deep.*line 1"),
        ("rows.jsonl", '{"label": ' + "9" * 5000 + "}", "no JSON.*line 1"),
    ],
)
def test_what_would_take_gigabytes_or_end_in_a_traceback_is_refused(name, content, message, tmp_path):
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_table(write_lines(tmp_path / name, [content]))


def test_a_class_of_thousands_of_figures_is_a_name(tmp_path):
    path = write_lines(tmp_path / "rows.csv", ["text,label", "x,1", f"y,{'9' * 5000}"])
    assert loaded(path, text="text", label="label").classes == ("1", "9" * 5000)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_two_columns_of_one_name_are_refused(name, tmp_path):
    separator = "," if name.endswith("csv") else "\t"
    (tmp_path / name).write_text("\n".join(separator.join(row) for row in (["text", "label", "text"], ["a", "0", "b"])))
    with pytest.raises(DataError, match=r"(?s)two columns have one name.*got: +text"):
        read_table(tmp_path / name)
