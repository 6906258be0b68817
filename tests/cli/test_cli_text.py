"""Text on the command line: what is cut is told, and what cannot be learnt from is refused before anything trains."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import text_zoo
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from compress.cli.main import main
from compress.recipe import Recipe

RECIPE = """\
schema: 1
name: reviews
data:
  source: {table: {path: reviews.csv, text: text, label: label}}
  split: {test: 40, select: 40, calibration: 4}
  tokenize: {max_length: 48}
teacher:
  model: {huggingface: {path: bert}}
  expected_accuracy: 0.02   # as a teacher that needs no training has; this one has learnt nothing
student: teacher
stages:
  - distill: {epochs: 1, batch_size: 20}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a recipe, an encoder and 200 reviews."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    text_zoo.make_bert(tmp_path / "bert", num_hidden_layers=1)
    text_zoo.write_reviews(tmp_path / "reviews.csv", count=200)
    return tmp_path


@pytest.fixture
def compressor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Return a function that runs the command line in this process: its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["compressor", *arguments])
        capsys.readouterr()  # what making the project said
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return call


def test_texts_that_are_cut_are_counted_for_each_role(compressor, project):
    path = project / "reviews.csv"
    path.write_text(path.read_text().replace(",", ";"))
    arguments = ("--until", "teacher", "--threads", "1", "--json", "--force-teacher")
    arguments += ("--set", "data.tokenize.max_length=18")
    code, out, err = compressor("run", "recipe.yaml", *arguments)
    assert code == 0, err
    data = Recipe.load(project / "recipe.yaml").data.load()
    # Every word of the reviews is one token, and two tokens are special.
    long = {role: sum(len(text.split()) > 16 for text in samples.inputs) for role, samples in data.roles.items()}
    assert 0 in long.values()
    report = json.loads(out)
    assert report["data"]["truncated"] == {role: count for role, count in long.items() if count} != {}
    told = "; cut at max_length: " + ", ".join(f"{role} {count}" for role, count in long.items() if count)
    assert err.startswith(f"data: train {len(data.train)}, ")
    assert err.splitlines()[0].endswith(f"duplicates dropped from train{told}")
    separated = "reviews.csv: its columns are separated by semicolons"
    assert err.splitlines()[1] == f"data: {separated}"
    assert report["data"]["notes"] == [separated]
    run_dir = Path(report["run_dir"])
    assert f"duplicates dropped from train{told}.\n" in (run_dir / "report.md").read_text()
    assert f"{told}; {separated}" in (run_dir / "report.html").read_text()
    code, out, err = compressor("plan", "recipe.yaml", "--threads", "1")
    assert out.splitlines()[0] == f"data: {separated}"


# Bad input: each with its message and exit code, and nothing trained.


def with_row(project: Path, row: bytes) -> None:
    path = project / "reviews.csv"
    path.write_bytes(path.read_bytes() + row + b"\r\n")


def with_unseen_label(project: Path) -> None:
    (project / "test.csv").write_text("text,label\nthe film was so so,neutral\n")


def with_small_model(project: Path) -> None:
    text_zoo.make_bert(project / "small", vocab_size=50)


def with_other_classes(project: Path) -> None:
    config = BertConfig.from_pretrained(
        project / "bert", id2label={0: "ham", 1: "spam"}, label2id={"ham": 0, "spam": 1}
    )
    BertForSequenceClassification(config).save_pretrained(project / "bert")


def with_pickle(project: Path) -> None:
    weights = project / "bert" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


ROLES = "data.source={table: {files: {train: reviews.csv, test: test.csv}, text: text, label: label}}"
SMALL = ("teacher.model.huggingface.path=small", "data.tokenize.tokenizer=bert")
BAD = {
    "a missing label": (
        partial(with_row, row=b"a lovely meal,"),
        (),
        ("a label is missing", "reviews.csv, column label, row 201"),
    ),
    "a label that train does not have": (
        with_unseen_label,
        (ROLES,),
        ("a label is not among the classes", "negative, positive", "'neutral'", "test.csv, column label, row 1"),
    ),
    "an empty text": (
        partial(with_row, row=b"  ,positive"),
        (),
        ("1 of the train role's 201 texts are empty", "leave those rows out"),
    ),
    "a file in Latin-1": (
        partial(with_row, row="a café,positive".encode("latin-1")),
        (),
        ("the file is not UTF-8", "byte 0xe9", "reviews.csv", "iconv -f windows-1252"),
    ),
    "a wrong column": (
        lambda _project: None,
        ("data.source.table.text=texts",),
        ("there is no such column", "one of text, label", "did you mean text?"),
    ),
    "a tokenizer of another model": (
        with_small_model,
        SMALL,
        ("the tokenizer has more tokens than the model has embeddings", "at most 50", str(len(text_zoo.VOCABULARY))),
    ),
    "a teacher of other classes": (
        with_other_classes,
        (),
        ("the model was trained on other classes", "negative, positive", "ham, spam", "fresh_head"),
    ),
    "weights that are a pickle": (
        with_pickle,
        (),
        ("the model's weights are a pickle", "model.safetensors", "--code", "pytorch_model.bin"),
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_cannot_be_learnt_from_is_refused_before_anything_is_trained(compressor, project, fault):
    spoil, overrides, words = BAD[fault]
    spoil(project)
    options = [word for override in overrides for word in ("--set", override)]
    code, out, err = compressor("run", "recipe.yaml", "--until", "distill", "--threads", "1", *options)
    assert (code, out) == (3, "")
    *before, message = err.split("error: ")
    assert len(before) == 1
    assert "warning" not in before[0]
    for word in words:
        assert word in message
    assert "Traceback" not in err
    assert not list(project.glob("compress-store/artifacts/*/model.safetensors"))
