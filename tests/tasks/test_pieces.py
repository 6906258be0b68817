"""Pieces of words: found on train, each text comes back as it was, and vocabularies hold all of it."""

import sys
from dataclasses import replace

import pytest
import torch
import writing_zoo

from compress.data.answers import objects
from compress.data.samples import Samples
from compress.errors import DataError, EnvironmentFault
from compress.measures.judge import Judge
from compress.tasks import BytePairs, Symbols, TransductionTask
from compress.tasks.pieces import Pieces
from compress.tasks.special import BEGIN, END, SPECIAL, UNKNOWN
from compress.tasks.symbols import Vocabularies

TEXTS = ["Das ist ein Haus.", "Das Haus ist groß!", "Ein großes Haus  ist das, <end> nicht?"] * 4


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces.train(TEXTS, size=320)


def test_training_gives_the_same_pieces_each_time(pieces):
    assert Pieces.train(TEXTS, size=320) == pieces
    assert len(pieces.names) == len(pieces.ids) <= 320
    assert pieces.names[: len(SPECIAL)] == SPECIAL


@pytest.mark.parametrize("text", [*TEXTS[:3], "Öl, naïve 猫", "<pad> <unknown>", "x"])
def test_any_text_comes_back(pieces, text):
    numbers = pieces.encode(text)
    assert pieces.decode(numbers) == text
    assert min(numbers) > UNKNOWN, "bytes spell what train has not, and no text is a special symbol"
    assert pieces.spell(numbers) == pieces.split(text)
    assert pieces.decode([BEGIN, *numbers, UNKNOWN, END]) == text


def test_frequent_words_are_few_pieces_wherever_they_stand(pieces):
    assert pieces.encode("Haus") == pieces.encode("ein Haus")[-1:]


def test_vocabularies_of_pieces_are_read_as_they_were_written(pieces):
    both = Vocabularies(pieces, writing_zoo.task(writing_zoo.data()).vocabularies.target, 12)
    again = Vocabularies.read(both.text)
    assert again == both
    assert again.source.encode(TEXTS[0]) == pieces.encode(TEXTS[0])


def test_a_task_in_pieces_forces_and_judges_words(pieces):
    data = writing_zoo.data()
    swapped = {role: Samples(objects(texts[0] for texts in found.labels), objects((word,) for word in found.array))
               for role, found in data.roles.items()}  # fmt: skip
    task = writing_zoo.task(replace(data, roles=swapped), text=BytePairs(bpe=300), target_text=BytePairs(bpe=300))
    given = Samples(objects(["K AH", "T EH S " * 20]), objects([("ak",), ("ste",)]))
    batch = task.batch(given, torch.tensor([0, 1]))
    assert batch.inputs[0].shape[1] == task.max_length
    assert task.count_truncated(given) == 1
    assert batch.labels.tolist().count(END) == 2
    right = [task.vocabularies.target.encode(text) for (text,) in given.labels]
    assert task.judge_written(right, given)["exact-match"].value == 1
    assert task.judge_written([right[0], []], given)["token-error-rate"].value == 0.5  # of words


def test_a_text_measure_can_be_what_gates_are_about():
    pytest.importorskip("sacrebleu", reason="an extra")
    data = writing_zoo.data()
    task = TransductionTask.of(data, symbols=Symbols(target_text="words"), judge=Judge(measure="chrf"))
    right = [task.vocabularies.target.encode(texts[0]) for texts in data.select.labels]
    found = task.judge_written(right, data.select)
    assert task.measure == "chrf"
    assert found["chrf"].value == found["bleu"].value == found["exact-match"].value == 1


def test_a_measure_without_its_library_is_refused_before_anything_trains(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(EnvironmentFault, match=r"compress-onnx\[sequence\]"):
        TransductionTask.of(writing_zoo.data(), symbols=Symbols(), judge=Judge(measure="bleu"))


def test_too_few_pieces_are_refused():
    with pytest.raises(ValueError, match="greater than or equal to 300"):
        BytePairs(bpe=200)
    with pytest.raises(DataError, match="does not fit"):
        TransductionTask.of(writing_zoo.data(), symbols=Symbols(), judge=Judge(measure="accuracy"))
