"""Tables, signals, sequences and inputs by name: what a model gets, in what units, and how it is judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.data.named import name_arrays
from compress.data.samples import Data, Samples
from compress.errors import DataError, ModelError
from compress.measures.judge import Judge
from compress.measures.tally import shares
from compress.models import Mlp
from compress.recipe import DataConfig, Teacher
from compress.tasks import ArrayTask, Encode, Normalize
from compress.tasks.naive import lead_over_naive, nearest
from compress.tasks.tabular import number_values

GENERATOR = np.random.default_rng(0)
COUNT = 40
PLAIN = Encode()


def data_of(inputs, labels=None, classes=("a", "b"), **fields) -> Data:
    labels = np.arange(len(inputs)) % 2 if labels is None else labels
    samples = Samples(inputs, labels)
    train, rest = samples.take(np.arange(COUNT // 2)), samples.take(np.arange(COUNT // 2, COUNT))
    return Data({"train": train, "calibration": rest, "select": rest, "test": rest}, classes, **fields)


def task_of(data, *, encode=PLAIN, given=False) -> ArrayTask:
    return ArrayTask.of(data, encode=encode, normalize=None, judge=Judge(), given=given)


def inputs_of(task, data, role="select"):
    samples = data.roles[role]
    return [values.numpy() for values in task.batch(samples, torch.arange(len(samples))).inputs]


def table(**columns) -> np.ndarray:
    return name_arrays(columns, where="here")


def test_each_column_has_its_own_mean_and_deviation_of_train():
    rows = GENERATOR.normal([0, 1e9, 5], [1, 1e3, 1e-4], (COUNT, 3))
    data = data_of(table(a=rows[:, 0], b=rows[:, 1], c=rows[:, 2]))
    task = task_of(data)
    (found,) = inputs_of(task, data)
    train = rows[: COUNT // 2]
    np.testing.assert_allclose(
        found, (rows[COUNT // 2 :] - train.mean(axis=0)) / train.std(axis=0), rtol=1e-4, atol=1e-4
    )
    assert task.signature.inputs[0].shape == ("batch", 3)


def test_a_constant_column_is_0_and_stays_finite():
    data = data_of(table(a=np.full(COUNT, 1e9), b=GENERATOR.normal(size=COUNT)))
    assert (inputs_of(task_of(data), data)[0][:, 0] == 0).all()


def test_categories_are_one_hot_or_numbered_and_a_value_that_train_lacks_is_none_of_them():
    jobs = np.array(["nurse", "cook"] * (COUNT // 4) + ["cook", "pilot"] * (COUNT // 4))
    data = data_of(table(age=GENERATOR.normal(size=COUNT), job=jobs))
    (hot,) = inputs_of(task_of(data), data)
    np.testing.assert_array_equal(hot[:2, 1:], [[1, 0], [0, 0]])
    task = task_of(data, encode=Encode(categories="index"))
    numbers, looked_up = inputs_of(task, data)
    assert numbers.shape == (COUNT // 2, 1)
    np.testing.assert_array_equal(looked_up[:2], [[1], [0]])
    assert [tensor.name for tensor in task.signature.inputs] == ["numbers", "categories"]
    assert "job (2)" in task.input_formula


def test_numbers_of_values_are_those_of_a_dictionary():
    values = sorted(map(str, GENERATOR.integers(0, 50, 20)))
    cells = np.array([str(number) for number in GENERATOR.integers(0, 60, 200)])
    known = {value: number for number, value in reversed([*enumerate(dict.fromkeys(values), start=1)])}
    found = number_values(cells, tuple(dict.fromkeys(values)))
    assert found.tolist() == [known.get(cell, 0) for cell in cells]


def test_a_gap_is_refused_or_becomes_the_median_with_a_flag():
    ages = GENERATOR.normal(size=COUNT)
    ages[[3, 30]] = np.nan
    data = data_of(table(job=np.array(["x", "y"] * (COUNT // 2)), age=ages))
    with pytest.raises(
        DataError, match=r"(?s)a number is missing.*1 of 20 rows.*job y.*train, column age.*missing: median"
    ):
        task_of(data)
    task = task_of(data, encode=Encode(missing="median"))
    train, select = inputs_of(task, data, "train")[0], inputs_of(task, data)[0]
    present = ages[: COUNT // 2][~np.isnan(ages[: COUNT // 2])]
    assert train[3, 0] == pytest.approx((np.median(present) - present.mean()) / present.std(), abs=1e-4)
    np.testing.assert_array_equal(train[:, 1], np.isnan(ages[: COUNT // 2]))
    assert select[10, 1] == 1


@pytest.mark.parametrize(("layout", "axis"), [("NCL", 1), ("NTF", 2)])
def test_signals_are_standardised_by_channel_and_sequences_by_feature(layout, axis):
    values = (GENERATOR.normal(size=(COUNT, 3, 4)) * np.arange(1, 13).reshape(3, 4)).astype(np.float32)
    data = data_of(values, layouts={"": layout})
    (found,) = inputs_of(task_of(data), data, "train")
    others = tuple({0, 1, 2} - {axis})
    np.testing.assert_allclose(found.mean(axis=others), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=others), 1, atol=1e-4)


def test_padding_of_a_sequence_decides_no_statistics_and_becomes_0():
    lengths = GENERATOR.integers(1, 6, COUNT)
    valid = np.arange(5) < lengths[:, None]
    values = np.where(valid[:, :, None], GENERATOR.normal(50, 2, (COUNT, 5, 2)), -999.0)
    data = data_of(table(sequence=values, lengths=lengths), layouts={"sequence": "NTF"})
    task = task_of(data)
    found, told = inputs_of(task, data, "train")
    seen = valid[: COUNT // 2]
    assert abs(found[seen].mean()) < 1e-5
    assert (found[~seen] == 0).all()
    assert told.tolist() == lengths[: COUNT // 2].tolist()
    data.select.inputs["lengths"][4] = 6
    with pytest.raises(DataError, match=r"(?s)1 to 5.*6.*lengths, sample 4"):
        task_of(data)


def test_targets_are_learnt_in_units_of_train_and_judged_in_those_of_the_data():
    targets = GENERATOR.normal(1e4, 500, (COUNT, 1)).astype(np.float32)
    data = data_of(GENERATOR.normal(size=(COUNT, 3)).astype(np.float32), targets, ("cost",))
    task, rows = task_of(data), torch.arange(COUNT // 2)
    learnt = task.batch(data.train, rows).labels
    assert learnt is not None
    assert learnt.mean().abs() < 1e-3
    outputs = task.labels(data.select) + 0.1
    tallies = task.tallies(outputs, data.select)
    expected = 0.1 * targets[: COUNT // 2].std()
    assert tallies["mean absolute error of cost"].value == pytest.approx(expected, rel=1e-3)
    units = task.preprocessing["targets"]
    np.testing.assert_allclose(task.labels(data.select) * units["std"] + units["mean"], data.select.labels, rtol=1e-5)
    assert "cost = output * " in task.input_formula

    def within_a_tenth(given, right):
        return shares((np.abs(given - right) < 0.11 * targets[: COUNT // 2].std()).all(axis=1))

    own = replace(task, judge=Judge(measure=within_a_tenth))
    assert own.tally(outputs, data.select).value == 1
    assert own.tally(outputs + 0.1, data.select).value == 0
    raw = task_of(data, given=True)
    np.testing.assert_array_equal(raw.labels(data.select), data.select.labels)


@pytest.mark.parametrize(
    ("labels", "outputs_of"),
    [
        (None, lambda labels: np.eye(2)[labels]),
        ((GENERATOR.random((COUNT, 2)) < 0.4).astype(np.uint8), lambda labels: labels - 0.5),
        (GENERATOR.normal(size=(COUNT, 2)).astype(np.float32), lambda labels: labels),
    ],
    ids=["classes", "labels", "numbers"],
)
def test_what_is_right_is_ahead_of_naive_answers_and_noise_is_not(labels, outputs_of):
    data = data_of(GENERATOR.normal(size=(COUNT, 3)).astype(np.float32), labels)
    task = task_of(data)
    noise = np.random.default_rng(1).normal(size=(COUNT // 2, 2)).astype(np.float32)
    leads = lead_over_naive(noise, task, data.select)
    assert leads[nearest(leads)].low <= 0
    right = outputs_of(task.labels(data.select)).astype(np.float32)
    assert task.tally(right, data.select).value == pytest.approx(1)
    assert min(lead.low for lead in lead_over_naive(right, task, data.select).values()) > 0


def test_images_with_targets_are_an_input_of_raw_bytes():
    images = GENERATOR.integers(0, 256, (COUNT, 1, 4, 4), dtype=np.uint8)
    config = DataConfig(source={"source": "digits"})
    task = config.task_of(data_of(images, GENERATOR.normal(size=(COUNT, 1)).astype(np.float32), ("y",)), tokenizer=None)
    assert isinstance(task, ArrayTask)
    assert task.input_formula.startswith("pixel_values: (x / 255 - ")


@pytest.mark.parametrize(
    ("normalize", "words"),
    [
        (None, r"(?s)given weights were trained on are not stated.*train's own would be \{mean: \["),
        ({"mean": [0, 0], "std": [1, 1]}, "(?s)another number of columns.*3 means.*got: +2"),
        ({"left": "identity"}, "(?s)names no input of numbers.*numbers.*left"),
    ],
)
def test_given_weights_must_state_the_numbers_they_were_trained_on(tmp_path, normalize, words):
    data = data_of(GENERATOR.normal(size=(COUNT, 3)).astype(np.float32))
    config = DataConfig(source={"source": "digits"}, normalize=normalize)
    given = Teacher(model=Mlp(), weights=tmp_path / "weights.safetensors")
    with pytest.raises((DataError, ModelError), match=words):
        config.task_of(data, tokenizer=None, teachers=[given])


def test_given_weights_whose_categories_or_targets_nothing_states_are_refused(tmp_path):
    table = name_arrays({"colour": np.array(["red", "blue"] * (COUNT // 2)), "size": np.ones(COUNT)}, where="here")
    given = Teacher(model=Mlp(), weights=tmp_path / "weights.safetensors")
    config = DataConfig(source={"source": "digits"}, normalize="identity")
    with pytest.raises(ModelError, match=r"(?s)number categories.*categories in colour.*`train`"):
        config.task_of(data_of(table), tokenizer=None, teachers=[given])
    targets = data_of(np.ones((COUNT, 3), np.float32), GENERATOR.normal(size=(COUNT, 1)).astype(np.float32), ("y",))
    config = DataConfig(source={"source": "digits"}, normalize="identity", encode={"targets": "standardised"})
    with pytest.raises(ModelError, match="scale targets"):
        config.task_of(targets, tokenizer=None, teachers=[given])


def test_each_of_several_inputs_has_the_normalisation_that_is_said_of_it():
    arrays = {"left": GENERATOR.normal(3, 1, (COUNT, 2)), "right": GENERATOR.normal(size=(COUNT, 2))}
    data = data_of(table(**arrays))
    config = DataConfig(source={"source": "digits"}, normalize={"left": {"mean": [3], "std": [2]}, "right": "identity"})
    task = config.task_of(data, tokenizer=None)
    left, right = inputs_of(task, data)
    np.testing.assert_allclose(left, (arrays["left"][COUNT // 2 :] - 3) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(right, arrays["right"][COUNT // 2 :], rtol=1e-5)
    one = DataConfig(source={"source": "digits"}, normalize=Normalize(mean=(0,), std=(1,)))
    with pytest.raises(DataError, match="(?s)which input.*left, right"):
        one.task_of(data, tokenizer=None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"augment": {}}, "augmented"),
        ({"tokenize": {"max_length": 8}}, "tokenized"),
        ({"judge": {"measure": "r2"}}, "fit"),
    ],
)
def test_what_a_table_has_not_is_refused(fields, words):
    config = DataConfig(source={"source": "digits"}, **fields)
    with pytest.raises(DataError, match=words):
        config.task_of(data_of(GENERATOR.normal(size=(COUNT, 3)).astype(np.float32)), tokenizer=None)


def test_encoding_is_for_tables(digits):
    with pytest.raises(DataError, match="encoded"):
        DataConfig(source={"source": "digits"}, encode=Encode()).task_of(digits, tokenizer=None)
    assert "encode" not in DataConfig(source={"source": "digits"}).model_dump()


def test_made_up_inputs_fit_the_signature_and_hold_the_largest_ids():
    values = table(age=np.ones(COUNT), job=np.array(["a", "b"] * 20), ids=np.arange(COUNT), x=np.ones((COUNT, 2, 3)))
    task = task_of(data_of(values), encode=Encode(categories="index"))
    found = task.noise(3, seed=0)
    for tensor, array in zip(task.signature.inputs, found, strict=True):
        assert (tensor.dtype, list(tensor.shape[1:])) == (array.dtype, list(array.shape[1:])), tensor.name
    assert found[1][0].tolist() == [2]
    assert found[2][0] == COUNT - 1


def test_one_sample_is_read_whatever_lies_beside_its_numbers():
    """NumPy calls one row contiguous whatever its strides, which torch does not take."""
    data = data_of(table(job=np.array(["a", "b"] * 20), steps=np.ones((COUNT, 2, 3)), ids=np.arange(COUNT)))
    task = task_of(data, encode=Encode(categories="index"))
    alone, all_of_them = (task.batch(data.select, torch.arange(rows)).inputs for rows in (1, COUNT // 2))
    for one, several in zip(alone, all_of_them, strict=True):
        torch.testing.assert_close(one, several[:1])


def test_inputs_that_share_a_name_are_refused():
    for arrays in ({"numbers": np.ones((COUNT, 2)), "age": np.ones(COUNT)}, {"logits": np.ones((COUNT, 2))}):
        with pytest.raises(DataError, match="(?s)name of another.*rename"):
            task_of(data_of(table(**arrays)))


def test_mlp_takes_one_array_of_any_shape_and_says_what_to_do_with_two():
    rows = GENERATOR.normal(size=(COUNT, 3, 4)).astype(np.float32)
    data = data_of(rows)
    module = Mlp(widths=(5,)).build(task_of(data).signature, code=())
    assert module(torch.zeros(2, 3, 4)).shape == (2, 2)
    several = data_of(table(age=np.ones(COUNT), job=np.array(["a", "b"] * 20)))
    with pytest.raises(ModelError, match="(?s)numbers.*categories.*one-hot"):
        Mlp().build(task_of(several, encode=Encode(categories="index")).signature, code=())
