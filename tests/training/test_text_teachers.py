"""Where a recipe for text takes its teacher and its student from: another run, a fine-tuned folder, a configuration."""

from pathlib import Path

import pytest
import text_zoo
import torch
from safetensors.torch import load_file

from compress.models import load_model
from compress.pipeline.run import Options, Outcome, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.store.artifact import read_artifact

RECIPE = """
schema: 1
name: reviews
data:
  source: {{table: {{path: reviews.csv, text: text, label: label}}}}
  split: {{test: 40, select: 40, calibration: 20}}
  tokenize: {{tokenizer: bert, max_length: 48}}
teacher: {teacher}
student: {student}
loss: {{hard: {{}}, kl: {{temperature: 2}}}}
stages:
  - distill: {{epochs: 1, batch_size: 20, optimizer: adamw, learning_rate: 0.001, weight_decay: 0}}
"""
TRAINED = (
    "{model: {huggingface: {path: bert}}, train: {epochs: 6, batch_size: 20, optimizer: adamw, learning_rate: 0.003}}"
)
ADOPTED = "{{artifact: {artifact}, expected_accuracy: {accuracy}, accuracy_tolerance: 0}}"
GIVEN = "{{model: {{huggingface: {{path: fine-tuned}}}}, expected_accuracy: {accuracy}, accuracy_tolerance: 0}}"


def finished(folder: Path, *, store: str, until: str, teacher: str, student: str) -> Outcome:
    text = RECIPE.format(teacher=teacher, student=student)
    recipe = Recipe.parse(text, origin="recipe.yaml", directory=folder)
    options = Options(store=folder / store, threads=1, until_stage=until, reporter=Reporter(quiet=True))
    return run(recipe, options)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, Outcome]:
    """A folder of reviews and checkpoints, and the run that fine-tuned the teacher there; read-only."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    text_zoo.write_reviews(folder / "reviews.csv", count=300)
    text_zoo.make_bert(folder / "bert", num_hidden_layers=1)
    text_zoo.make_bert(folder / "smaller", num_hidden_layers=1, hidden_size=16)
    outcome = finished(folder, store="first", until="teacher", teacher=TRAINED, student="teacher")
    load_model(outcome.shipped.path).model.save_pretrained(folder / "fine-tuned")
    return folder, outcome


@pytest.mark.parametrize(
    ("teacher", "student", "width", "inner"),
    [
        (ADOPTED, "{huggingface: {path: smaller}}", 16, 64),
        (GIVEN, "{huggingface: {path: bert, pretrained: false, change: {intermediate_size: 8}}}", 32, 8),
    ],
    ids=["artifact, another checkpoint", "fine-tuned folder, smaller from scratch"],
)
def test_a_teacher_that_is_trained_already_teaches_any_student(teacher, student, width, inner, first):
    folder, trained = first
    accuracy = trained.report.stages[0].scores.accuracy
    assert accuracy > 0.8
    outcome = finished(
        folder,
        store="second",
        until="distill",
        teacher=teacher.format(artifact=trained.shipped.path, accuracy=accuracy),
        student=student,
    )
    rows = outcome.report.stages
    assert [row.name for row in rows] == ["teacher", "distill"]
    assert rows[0].scores.accuracy == accuracy
    assert rows[0].facts.get("adopted") == (trained.shipped.digest if teacher == ADOPTED else None)
    paths = (folder / "second" / "artifacts").glob("*/manifest.json")
    assert "Train" not in [read_artifact(path.parent, verify=False).inputs.get("stage") for path in paths]
    model = load_model(outcome.shipped.path).model
    assert (model.config.hidden_size, model.config.intermediate_size) == (width, inner)
    # No text holds this word, so its embedding is still where the student began.
    word = text_zoo.VOCABULARY.index("umbrella")
    ours = model.bert.embeddings.word_embeddings.weight[word]
    theirs = load_file(folder / "smaller" / "model.safetensors")["embeddings.word_embeddings.weight"][word]
    assert torch.equal(ours, theirs) == ("smaller" in student)
