"""Text tasks: batches, orders and units, losses against closed forms, and nothing that padding changes."""

from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch
from setting import Setting
from torch import nn

from compress.data import Samples
from compress.errors import DataError
from compress.loss import GuidedLoss, bind
from compress.loss.logits import Hard
from compress.models import HuggingFace
from compress.stage import Optimization
from compress.stages.create import Create
from compress.tasks import Judge, TextTask
from compress.tasks.batch import unit_rows
from compress.training.inference import BATCH, forward_all, predict
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.teacher import teacher_outputs
from compress.training.teaching import per_sample_loss

KINDS = ("label", "labels", "targets", "words", "pairs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return text_zoo.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def made(folder, make_context):
    """Return a function from a kind of data to a context and a tiny BERT for it."""

    def make(kind: str, **fields) -> tuple[Setting, nn.Module]:
        data = text_zoo.review_data(kind=kind)
        context = make_context(data=data, task=text_zoo.text_task(folder, data, **fields))
        torch.manual_seed(1)
        return context, HuggingFace(path=str(folder)).build(context.task.signature, code=()).eval()

    return make


@pytest.fixture
def make_context(make_context):
    """As in tests/conftest.py, without a task of images for data of text."""

    def make(*, task, data, **fields) -> Setting:
        return replace(make_context(**fields), task=task, data=data)

    return make


def row_of(task: TextTask, samples: Samples, row: int) -> list[int]:
    return task.encode(samples).split()[row].tolist()


def test_a_batch_is_padded_to_its_longest_sample(made):
    context, _ = made("label")
    samples = context.data.train
    batch = context.task.batch(samples, torch.tensor([3, 0, 7]))
    ids, mask = batch.inputs
    rows = [row_of(context.task, samples, row) for row in (3, 0, 7)]
    assert ids.shape[1] == max(map(len, rows))
    for row, given, seen in zip(ids.tolist(), rows, mask.tolist(), strict=True):
        assert row == given + [0] * (ids.shape[1] - len(given))
        assert seen == [1] * len(given) + [0] * (ids.shape[1] - len(given))
    assert batch.mask.tolist() == mask.bool().tolist()
    assert batch.labels.tolist() == samples.labels[[3, 0, 7]].tolist()
    assert (batch.units, batch.num_units) == (None, 3)
    words = ["[CLS]", *samples.inputs[3].split(), "[SEP]"]
    assert context.task.tokenizer._tokenizer.convert_ids_to_tokens(rows[0]) == words


def test_two_texts_are_told_apart_by_their_types(made):
    context, module = made("pairs")
    ids, mask, types = context.task.batch(context.data.train, torch.arange(2)).inputs
    first, second = (len(text.split()) for text in context.data.train.inputs[0])
    assert types[0].tolist() == [0] * (first + 2) + [1] * (second + 1) + [0] * (len(ids[0]) - first - second - 3)
    assert [value.name for value in context.task.signature.inputs][2] == "token_type_ids"
    with torch.no_grad():
        assert not torch.equal(module(ids, mask, types), module(ids, mask, torch.zeros_like(types)))


def words_of(*sentences: str, tags=None) -> Samples:
    inputs = text_zoo.objects([tuple(text.split(" ")) for text in sentences])
    labels = tags or [np.arange(len(words)) % 3 for words in inputs]
    return Samples(inputs, text_zoo.objects(labels))


def test_each_word_has_the_output_of_its_first_token(made):
    context, _ = made("words")
    samples = words_of("the goodies day", "a")
    batch = context.task.batch(samples, torch.tensor([0, 1]))
    pieces = context.task.tokenizer._tokenizer.convert_ids_to_tokens(batch.inputs[0][0].tolist())
    assert pieces == ["[CLS]", "the", "good", "##i", "##e", "##s", "day", "[SEP]"]
    assert batch.units.tolist() == [[False, True, True, False, False, False, True, False], [False, True] + [False] * 6]
    assert batch.labels.tolist() == [0, 1, 2, 0]
    assert batch.num_units == 4
    assert context.task.units(samples).tolist() == [3, 1]


def test_words_that_are_cut_or_have_no_token_have_no_output_and_count_as_o(made):
    context, _ = made("words", max_length=6)
    # A control character is removed by the normalizer: a word without a token.
    samples = words_of("a \u0007 the good film it was", "a", tags=[np.array([0, 1, 0, 1, 0, 0, 1]), np.array([0])])
    task = context.task
    assert task.encode(samples).truncated == 1
    assert task.units(samples).tolist() == [4, 1]
    assert task.batch(samples, torch.tensor([0])).labels.tolist() == [0, 0, 1, 0]
    assert task.labels(samples).tolist() == [0, 0, 1, 0, 0]
    perfect = np.eye(3)[[0, 0, 1, 0, 0]]
    found = task.tallies(perfect, samples)
    assert found["accuracy"].counts.tolist() == [[5, 7], [1, 1]]
    assert found["entity-f1"].counts.tolist() == [[1, 0, 2], [0, 0, 0]]


def test_words_are_spelt_with_their_tags_also_those_that_are_cut(made):
    context, _ = made("words", max_length=6)
    samples = words_of("a good film it was", "a", tags=[np.array([0, 1, 2, 0, 1]), np.array([0])])
    found = context.task.spell(np.eye(3)[[0, 1, 1, 0, 0]], samples)
    assert found.sources == [("a", "good", "film", "it", "was"), ("a",)]
    assert found.right == [(("O", "B-GOOD", "I-GOOD", "O", "B-GOOD"),), (("O",),)]
    assert found.answers == [("O", "B-GOOD", "B-GOOD", "O", "O"), ("O",)]


def test_texts_are_spelt_with_the_names_of_what_is_decided(made):
    samples = Samples(text_zoo.objects(["one", "two"]), np.array([0, 1]))
    classes = made("label")[0].task
    found = classes.spell(np.array([[0.0, 1.0], [0.0, 1.0]]), samples)
    assert found.sources == [("one",), ("two",)]
    assert (found.right, found.answers) == ([(("negative",),), (("positive",),)], [("positive",), ("positive",)])
    merged = replace(classes, judge=Judge(merge={"any": ("negative", "positive")}))
    assert merged.spell(np.array([[0.0, 1.0], [0.0, 1.0]]), samples).right == [(("any",),), (("any",),)]
    several = Samples(samples.inputs, np.array([[1, 1], [0, 0]], np.uint8))
    found = made("labels")[0].task.spell(np.array([[1.0, -1.0], [2.0, 2.0]]), several)
    assert (found.right, found.answers) == ([(("good, bad",),), (("none",),)], [("good",), ("good, bad",)])
    numbers = made("targets")[0]
    assert numbers.task.spell(np.zeros((50, 1)), numbers.data.select) is None


def test_samples_that_are_cut_are_counted(made):
    context, _ = made("label", max_length=8)
    lengths = [len(text.split()) + 2 for text in context.data.train.inputs]
    assert context.task.encode(context.data.train).truncated == sum(length > 8 for length in lengths) > 0
    assert context.task.encode(context.data.train).lengths.tolist() == [min(length, 8) for length in lengths]


@pytest.mark.parametrize("size", [7, 100, 1])
def test_an_epoch_takes_every_sample_once_and_updates_of_one_length(made, size):
    context, _ = made("label")
    task, samples = context.task, context.data.train

    def order(seed):
        return task.order(samples, torch.Generator().manual_seed(seed), size=size)

    assert sorted(order(0).tolist()) == list(range(len(samples)))
    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))
    if size == 7:
        lengths = torch.from_numpy(task.encode(samples).lengths)
        whole = lengths[order(0)][:98].view(-1, 7)
        spread = (whole.max(1).values - whole.min(1).values).float().mean()
        plain = lengths[torch.randperm(100)][:98].view(-1, 7)
        assert spread < 0.4 * (plain.max(1).values - plain.min(1).values).float().mean()
        assert whole[:, 0].diff().min() < 0  # the updates themselves are in no order


@pytest.mark.parametrize("size", [1, 5, 512])
def test_the_parts_of_a_role_have_each_position_once_and_bounded_cells(made, size):
    context, _ = made("label")
    index = torch.tensor([5, 90, 7, 7, 30, 2])
    parts = list(context.task.parts(context.data.train, index, size=size))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(index)))
    lengths = torch.from_numpy(context.task.encode(context.data.train).lengths)[index]
    for part in parts:
        assert len(part) == 1 or len(part) * max(32, int(lengths[part].max())) <= 32 * size


def test_unit_rows_finds_the_units_of_any_samples():
    units = torch.tensor([2, 0, 3, 1])
    assert unit_rows(units, torch.tensor([2, 0, 1, 3, 0])).tolist() == [2, 3, 4, 0, 1, 5, 0, 1]
    assert unit_rows(units, torch.tensor([1])).tolist() == []


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_come_in_the_samples_order_and_padding_changes_none(made, kind):
    context, module = made(kind)
    module, samples = module.double(), context.data.train
    index = torch.tensor([9, 3, 50, 3, 71])
    with torch.no_grad():
        one_by_one = torch.cat(
            [context.task.forward(module, context.task.batch(samples, row)) for row in index.split(1)]
        )
        together = context.task.forward(module, context.task.batch(samples, index))
    assert torch.allclose(one_by_one, together, atol=1e-12)
    found, _ = forward_all(module, context.task, context.host, samples, index=index)
    assert torch.allclose(one_by_one.float(), found, atol=1e-6)
    everything = predict(module, context.task, context.host, samples)
    units = torch.from_numpy(context.task.units(samples))
    assert torch.allclose(everything[unit_rows(units, index)], found, atol=1e-6)


def test_tapped_tensors_come_in_the_samples_order_too(made):
    context, module = made("label")
    index = torch.tensor([9, 3, 50])
    from compress.loss import Tap

    tap = Tap("model.bert.pooler.activation")
    _, taps = forward_all(module, context.task, context.host, context.data.train, index=index, taps=[tap])
    for row, value in zip(index, taps[tap], strict=True):
        _, alone = forward_all(module, context.task, context.host, context.data.train, index=row.view(1), taps=[tap])
        assert torch.allclose(alone[tap][0], value, atol=1e-5)


def test_the_hard_loss_is_the_closed_form_of_each_problem(made):
    rng = np.random.default_rng(0)
    for kind in ("label", "labels", "targets"):
        context, _ = made(kind)
        batch = context.task.batch(context.data.train, torch.arange(6))
        z = rng.standard_normal((6, len(context.task.classes)))
        y = batch.labels.numpy()
        if kind == "label":
            expected = np.log(np.exp(z).sum(1)) - z[np.arange(6), y]
        elif kind == "labels":
            p = 1 / (1 + np.exp(-z))
            expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1)
        else:
            expected = ((z - y) ** 2).sum(1)
        assert context.task.hard_loss(torch.from_numpy(z), batch).numpy() == pytest.approx(expected, rel=1e-5), kind


def test_an_unlabelled_role_has_no_hard_loss_and_no_measure(made):
    context, _ = made("label")
    samples = Samples(context.data.train.inputs, None)
    batch = context.task.batch(samples, torch.arange(3))
    with pytest.raises(DataError, match="needs labels"):
        context.task.hard_loss(torch.zeros(3, 2), batch)
    with pytest.raises(DataError, match="needs labels"):
        context.task.tallies(np.zeros((100, 2)), samples)


def test_parts_of_an_update_weigh_by_their_words_as_one_large_batch_does(made, tmp_path):
    """SGD from the same weights: four batches of unequal numbers of words, or one."""
    trained = []
    for accumulate in (1, 4):
        context, module = made("words")
        optimization = Optimization(
            epochs=1, batch_size=100 // accumulate, accumulate=accumulate, clip_norm=1e9, learning_rate=0.05
        )
        (tmp_path / str(accumulate)).mkdir()
        fit(
            module.double(),
            context.task,
            RoleLoader(context.task, context.data.train, optimization, seed=0, views=lambda _epoch, _generator: None),
            context.host,
            loss=bind(GuidedLoss(hard=Hard()), module, None, (), seed=0),
            teacher=None,
            optimization=optimization,
            seed=0,
            checkpoints=tmp_path / str(accumulate),
            name="test",
        )
        trained.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.allclose(*trained, atol=1e-7)
    assert not torch.allclose(trained[0], nn.utils.parameters_to_vector(made("words")[1].double().parameters()))


def test_per_unit_losses_are_those_of_the_words(made):
    context, module = made("words")
    batch = context.task.batch(context.data.train, torch.arange(5))
    loss = per_sample_loss(module, context.task, batch, loss=GuidedLoss(hard=Hard()), teacher=None)
    assert loss.shape == (batch.num_units,) == (context.task.units(context.data.train)[:5].sum(),)


def test_stored_outputs_of_words_are_those_of_now(made):
    context, _ = made("words")
    source = Create(model=HuggingFace(path=str(context.store.root), pretrained=False, config=CONFIG)).run(
        None, *context
    )
    context = replace(context, teacher=source, loss=GuidedLoss(preset="hinton"))
    outputs = teacher_outputs(*context, context.data.train, views=(None,))
    outputs.check(0)
    index = torch.tensor([40, 2, 2, 99])
    batch = context.task.batch(context.data.train, index)
    from compress.models import load_model

    with torch.no_grad():
        live = context.task.forward(load_model(source.path), batch)
    assert torch.allclose(outputs(batch).logits[0], live, atol=1e-5)
    assert len(live) == batch.num_units


CONFIG = {
    "model_type": "bert",
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}


def test_the_problem_follows_from_the_labels_and_the_measure_must_fit(folder):
    measures = {kind: text_zoo.text_task(folder, text_zoo.review_data(kind=kind)).measure for kind in KINDS}
    assert measures == {
        "label": "accuracy",
        "labels": "accuracy",
        "targets": "pearson",
        "words": "entity-f1",
        "pairs": "accuracy",
    }
    data = text_zoo.review_data()
    tokenizer = text_zoo.text_task(folder, data).tokenizer
    with pytest.raises(DataError, match=r"(?s)does not fit.*matthews.*entity-f1"):
        TextTask.of(data, tokenizer=tokenizer, judge=Judge(measure="entity-f1"))
    with pytest.raises(DataError, match="merge does not fit"):
        TextTask.of(data, tokenizer=tokenizer, judge=Judge(merge={"x": ("good",)}))


def test_the_digest_follows_tokenizer_limit_and_judge(folder):
    data = text_zoo.review_data()
    plain = text_zoo.text_task(folder, data)
    others = [text_zoo.text_task(folder, data, max_length=20), replace(plain, judge=Judge(measure="macro-f1"))]
    assert len({task.digest for task in (plain, *others)}) == 3
    assert text_zoo.text_task(folder, data).digest == plain.digest


def test_inference_takes_batches_of_bounded_size():
    assert BATCH == 512
