"""Tags of the steps of sequences: which steps are units, in what order, and how they are judged."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from compress.data.given import read_given
from compress.data.roles import Split, assign
from compress.data.samples import IGNORED, Data, Samples
from compress.errors import DataError
from compress.judge.race import sample_select
from compress.measures.judge import Judge
from compress.recipe import DataConfig
from compress.tasks import Encode, StepTask
from compress.tasks.naive import lead_over_naive
from compress.tasks.simplest import Simplest

DRAW = np.random.default_rng(0)
COUNT, STEPS = 160, 7
LENGTHS = DRAW.integers(3, STEPS + 1, COUNT)


def above(numbers):
    """Return whether each number and the one before it, 5 before the first, are above 5 on average."""
    return numbers + np.concatenate([[5], numbers[:-1]]) > 10


def drawn(*, ragged=True, names=False, ignored=False):
    """Return sequences and tags; see `above`."""
    sequences, tags = [], []
    for steps in LENGTHS if ragged else [STEPS] * COUNT:
        values = DRAW.normal(5, 2, (steps, 2))
        right = above(values[:, 0]).astype(int)
        right[1] = IGNORED if ignored else right[1]
        sequences.append(values)
        tags.append(np.array(["low", "high"])[right] if names else right)
    return sequences, tags


def read(inputs, labels, **options) -> Data:
    raw = read_given({"train": (inputs, labels)}, layout="NTF", classes=(), where="here", **options)
    return assign(raw, split=Split(test=0.2, select=32, calibration=8), overlap="refuse")


def task_of(data, **judge) -> StepTask:
    return StepTask.of(data, encode=Encode(), normalize=None, judge=Judge(**judge))


class Firsts(nn.Module):
    """Gives each step's first number as the logit of the second class."""

    def forward(self, sequence, lengths=None):
        return torch.stack([torch.zeros_like(sequence[..., 0]), sequence[..., 0]], dim=2)


def test_units_are_the_tagged_steps_of_each_sequence_in_their_order():
    data = read(*drawn(ignored=True))
    task, samples = task_of(data), data.select
    index = torch.tensor([5, 0, 9])
    batch = task.batch(samples, index)
    lengths = samples.inputs["lengths"][index]
    assert [*batch.mask.sum(1)] == [*lengths]
    assert [*batch.units.sum(1)] == [*(lengths - 1)] == [*task.units(samples)[index]]
    assert not batch.units[:, 1].any()
    kept = [tags[tags != IGNORED] for tags in samples.labels[index.numpy()]]
    np.testing.assert_array_equal(batch.labels, np.concatenate(kept))
    outputs = task.forward(Firsts(), batch)
    wanted = [batch.inputs[0][row, : lengths[row], 0][np.arange(lengths[row]) != 1] for row in range(3)]
    np.testing.assert_array_equal(outputs[:, 1], np.concatenate(wanted))
    np.testing.assert_array_equal(task.rows(Firsts()(*batch.inputs).numpy(), batch), outputs)


def test_without_labels_every_step_that_is_no_padding_is_a_unit():
    data = read(*drawn(ignored=True))
    bare = Samples(data.select.inputs, None)
    assert task_of(data).units(bare).tolist() == bare.inputs["lengths"].tolist()
    assert task_of(data).batch(bare, torch.arange(3)).labels is None


@pytest.mark.parametrize("ragged", [True, False])
def test_what_is_raced_is_as_long_as_the_file_takes_it(ragged):
    data = read(*drawn(ragged=ragged))
    task = task_of(data)
    found = sample_select(SimpleNamespace(data=data, task=task))
    assert [*found] == [tensor.name for tensor in task.signature.inputs]  # and no lengths, which batches are cut to
    assert found["sequence"].shape[1:] == task.signature.inputs[0].shape[1:]


def test_measures_are_of_steps_and_their_tallies_of_sequences():
    data = read(*drawn(ignored=True))
    task, samples = task_of(data), data.select
    outputs = DRAW.standard_normal((int(task.units(samples).sum()), 2)).astype(np.float32)
    right, labels = outputs.argmax(1) == task.labels(samples), task.labels(samples)
    tallies = task.tallies(outputs, samples)
    assert {tally.num_samples for tally in tallies.values()} == {len(samples)}
    assert tallies["accuracy"].value == pytest.approx(right.mean())
    f1 = [2 * (right & (labels == k)).sum() / ((outputs.argmax(1) == k).sum() + (labels == k).sum()) for k in (0, 1)]
    assert tallies["macro-f1"].value == pytest.approx(np.mean(f1))
    ends = np.cumsum(task.units(samples))
    first = task.tallies(outputs[: ends[0]], samples.take(np.arange(1)))["accuracy"]
    np.testing.assert_array_equal(first.counts[0], tallies["accuracy"].counts[0])
    assert set(lead_over_naive(outputs, task, samples)) == {
        "its own answers shuffled",
        "the most frequent class for all",
    }


def test_stretches_that_begin_with_b_and_i_are_judged_whole():
    sequences = DRAW.normal(size=(COUNT, STEPS, 1))
    tags = np.tile(["O", "B-step", "I-step", "O", "B-step", "O", "O"], (COUNT, 1))
    data = read(sequences, tags)
    task = task_of(data)
    assert task.measure == "entity-f1"
    assert data.classes == ("B-step", "I-step", "O")
    perfect = np.eye(3)[task.labels(data.select)].astype(np.float32)
    assert task.tally(perfect, data.select).value == 1
    assert task_of(data, measure="macro-f1").measure == "macro-f1"
    perfect[2::STEPS] = [0, 0, 1]  # the first stretch of each is cut short, the second is right
    assert task.tally(perfect, data.select).value == 0.5


def test_a_linear_model_on_steps_and_their_neighbours_is_the_simplest():
    data = read(*drawn(ignored=True))
    task = task_of(data)
    simplest = task.simplest()
    assert isinstance(simplest, Simplest)
    outputs = simplest.outputs(simplest.fit(data.train), data.test)
    assert task.tally(outputs, data.test).value > 0.9
    alone = task.signature.inputs
    assert [tensor.name for tensor in alone] == ["sequence", "lengths"]
    assert task.signature.outputs[0].shape == ("batch", STEPS, 2)


@pytest.mark.parametrize("form", ["lists", "arrays", "names", "lists of names"])
def test_tags_are_read_in_every_form_that_people_have_them_in(form):
    ragged, names = form.startswith("lists"), form.endswith("names")
    sequences, tags = drawn(ragged=ragged, names=names)
    inputs = sequences if ragged else np.array(sequences)
    labels = tags if form == "lists" else [tag.tolist() for tag in tags] if ragged else np.array(tags)
    data = read(inputs, labels)
    assert data.classes == (("high", "low") if names else ("0", "1"))
    assert "labels are tags: one for each step" in data.notes
    assert isinstance(DataConfig(source="digits").task_of(data, tokenizer=None), StepTask)
    values = data.train.inputs["sequence"] if ragged else data.train.inputs
    first, right = values[0, : len(data.train.labels[0]), 0], data.train.labels[0]
    assert (above(first) == (np.array(data.classes)[right] == ("high" if names else "1"))).all()


def test_bools_and_other_widths_stay_labels_of_the_whole_sequence():
    sequences = DRAW.normal(size=(COUNT, STEPS, 2))
    assert read(sequences, DRAW.random((COUNT, STEPS)) > 0.5).select.labels.dtype == np.uint8
    assert read(sequences, (DRAW.random((COUNT, 3)) > 0.5).astype(int)).select.labels.dtype == np.uint8


def test_what_does_not_pair_is_refused_with_its_place():
    sequences, tags = drawn()
    with pytest.raises(DataError, match=r"(?s)tags and steps do not pair.*sample 3"):
        read(sequences, [*tags[:3], tags[3][:-1], *tags[4:]])
    with pytest.raises(DataError, match=r"(?s)have no tag.*leave those"):
        read(sequences, [np.full_like(row, IGNORED) if number == 4 else row for number, row in enumerate(tags)])
    raw = {"train": (sequences, [["high"] * len(row) for row in tags])}
    with pytest.raises(DataError, match="a tag is no class"):
        read_given(raw, layout="NTF", classes=("low",), where="here")
    data = read(sequences, tags)
    shorter = Samples(data.select.inputs, np.array([row[:-1] for row in data.select.labels], object))
    with pytest.raises(DataError, match="tags and steps do not pair"):
        task_of(Data({**data.roles, "select": shorter}, data.classes, layouts=data.layouts))


def test_tags_without_a_sequence_are_refused_by_the_names_of_the_inputs():
    raw = read_given({"train": drawn(ragged=False)}, layout="NTF", classes=(), where="here")
    plain = {role: Samples(np.stack([*samples.array]), samples.labels) for role, samples in raw.roles.items()}
    raw = replace(raw, roles=plain, layouts={})
    data = assign(raw, split=Split(test=0.2, select=32, calibration=8), overlap="refuse")
    with pytest.raises(DataError, match=r"(?s)there is no sequence.*layout: NTF"):
        task_of(data)
