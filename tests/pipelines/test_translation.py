import csv
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines/translation/prepare.py"
LINES = """# a comment
das Haus {n} (Gebäude); das Heim | Häuser :: the house [arch.]; home <homestead> | houses
Das Haus ist (sehr) groß. | Wer wohnt dort? :: The house is big. | Who lives there?
Das Haus ist groß. :: The house is large.
Es regnet heute. {prov} :: It is raining today .
(nur Klammern) :: nothing
ein ( Rest :: a rest
"""


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("pipelines_translation", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_forms_and_alternatives_are_paired_without_brackets(prepare):
    pairs, lines, empty = prepare.read(LINES)
    assert (lines, empty) == (6, 2)
    assert pairs == [
        ("das Haus", "the house"),
        ("das Heim", "home"),
        ("Häuser", "houses"),
        ("Das Haus ist groß.", "The house is big."),
        ("Wer wohnt dort?", "Who lives there?"),
        ("Das Haus ist groß.", "The house is large."),
        ("Es regnet heute.", "It is raining today."),
    ]


def test_sentences_are_judged_and_shared_with_no_other_role(prepare, tmp_path, capsys):
    (tmp_path / "de-en").write_text(LINES, encoding="utf-8")
    prepare.main(["--source", str(tmp_path / "de-en"), "--output", str(tmp_path), "--judged", "1", "1", "1"])
    roles = {}
    for role in ("train", "test", "select", "calibration"):
        with (tmp_path / f"{role}.csv").open(encoding="utf-8") as file:
            roles[role] = [*csv.DictReader(file)]
    assert [row["german"] for row in roles["train"]] == ["das Haus", "das Heim"]
    judged = [row["german"] for role in ("test", "select", "calibration") for row in roles[role]]
    assert sorted(judged) == ["Das Haus ist groß.", "Das Haus ist groß.", "Es regnet heute.", "Wer wohnt dort?"]
    told = capsys.readouterr().out
    assert "6 lines, 2 without a pair, 7 different pairs, 1 with fewer than 2 words, 4 of sentences" in told
