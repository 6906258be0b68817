"""Texts that are written: roles by source, symbols of train, batches for teacher forcing, what is judged."""

from dataclasses import replace
from pathlib import Path

import causal_zoo
import numpy as np
import pytest
import torch
import writing_zoo
from torch.nn import functional as F

from compress import DataConfig, Judge, Recipe, Sample, Symbols, Table, Targets, WrittenLimit
from compress.data.answers import objects
from compress.data.roles import Split, assign
from compress.data.samples import Data, Samples
from compress.data.source import Raw
from compress.errors import DataError, ModelError
from compress.export.decoding import Writing
from compress.loss import GuidedLoss
from compress.models import Mlp
from compress.stages.create import Adopt, Create
from compress.tasks import TransductionTask
from compress.tasks.symbols import BEGIN, END, PAD, UNKNOWN, Vocabularies

SPLIT = Split(test=0.1, select=40, calibration=40)


@pytest.fixture(scope="module")
def data() -> Data:
    return writing_zoo.data()


@pytest.fixture(scope="module")
def task(data: Data) -> TransductionTask:
    return writing_zoo.task(data)


def samples(*pairs: tuple[str, tuple[str, ...]]) -> Samples:
    return Samples(objects(source for source, _ in pairs), objects(texts for _, texts in pairs))


def test_answers_of_one_source_share_its_role_and_train_has_a_sample_for_each(data):
    sources = {role: set(found.inputs) for role, found in data.roles.items()}
    assert not sources["train"] & (sources["select"] | sources["test"] | sources["calibration"])
    assert all(len(texts) == 1 for texts in data.train.labels)
    assert len(data.train) > len(sources["train"])
    judged = [*data.select.labels, *data.test.labels, *data.calibration.labels]
    assert {len(texts) for texts in judged} == {1, 2}
    total = sum(map(len, judged)) + len(data.train)
    assert total == len(writing_zoo.rows())


def test_a_batch_forces_the_target_and_asks_for_the_symbol_after_each(task):
    found = samples(("ak", ("K AH",)), ("e", ("EH", "AH")), ("?a", ("AH Q",)))
    batch = task.batch(found, torch.tensor([0, 1, 2]))
    names, source = task.classes, task.vocabularies.source.names
    assert names[:4] == ("<pad>", "<begin>", "<end>", "<unknown>")
    ids, mask, given = batch.inputs
    assert [[source[number] for number in row] for row in ids] == [["a", "k"], ["e", "<pad>"], ["<unknown>", "a"]]
    assert mask.tolist() == [[1, 1], [1, 0], [1, 1]]
    k, ah, eh = (names.index(name) for name in ("K", "AH", "EH"))
    assert given.tolist() == [[BEGIN, k, ah], [BEGIN, eh, PAD], [BEGIN, ah, UNKNOWN]]
    assert batch.labels.tolist() == [k, ah, END, eh, END, ah, UNKNOWN, END]
    assert batch.num_units == task.units(found).sum() == 8
    assert np.array_equal(task.labels(found), batch.labels.numpy())


def test_what_is_too_long_is_cut_without_an_end_and_counted(data):
    task = writing_zoo.task(data, max_length=4)
    found = samples(("akakak", ("K",)), ("a", ("K K K K",)), ("a", ("K K K",)))
    assert task.count_truncated(found) == 2
    batch = task.batch(found, torch.arange(3))
    assert batch.inputs[0].shape == (3, 4)
    assert task.units(found).tolist() == [2, 4, 4]
    assert (batch.labels == END).sum() == 2


def test_the_loss_is_a_mean_over_symbols_whatever_the_batches(task, data):
    torch.manual_seed(0)
    module = writing_zoo.TINY.build(task.signature, code=()).double().eval()
    index = torch.arange(24)
    whole = task.batch(data.train, index)
    together = task.hard_loss(task.forward(module, whole), whole)
    parts = [task.batch(data.train, part) for part in index.split(5)]
    apart = torch.cat([task.hard_loss(task.forward(module, part), part) for part in parts])
    assert (together - apart).abs().max() < 1e-6
    by_hand = [F.cross_entropy(module(*part.inputs)[0], part.labels).detach() for part in
               (task.batch(data.train, index[[row]]) for row in range(24))]  # fmt: skip
    weights = torch.tensor(task.units(data.train)[:24], dtype=torch.float64)
    assert float((torch.stack(by_hand) * weights).sum() / weights.sum()) == pytest.approx(
        float(together.detach().mean())
    )


@pytest.mark.parametrize("preset", ["word", "sequence", "shrink-and-fine-tune", "distil-whisper", "gkd"])
@pytest.mark.parametrize("zoo", [writing_zoo, causal_zoo], ids=["transduction", "generation"])
def test_a_loss_and_its_gradient_depend_neither_on_padding_nor_on_the_parts_of_an_update(zoo, preset):
    data = zoo.data(200)
    task, loss, index = zoo.task(data), GuidedLoss(preset=preset), torch.arange(12)
    torch.manual_seed(0)
    student, teacher = (zoo.TINY.build(task.signature, code=()).eval() for _ in range(2))
    weights = [*student.parameters()]
    whole = task.batch(data.train, index)
    assert not whole.units.all(), "some are padded"

    def learn(size: int) -> tuple[float, list[torch.Tensor]]:
        total = torch.zeros(())
        for part in index.split(size):
            batch = task.batch(data.train, part)
            with torch.no_grad():
                theirs = task.forward(teacher, batch)
            ours = task.forward(student, batch)
            targets = Targets(teachers=(theirs,), labels=batch.labels, hard=task.hard_loss(ours, batch))
            terms = loss.on_logits(ours, targets)
            total = total + terms.objective(units=whole.num_units, samples=len(index))
        return float(total.detach()), [*torch.autograd.grad(total, weights, allow_unused=True)]

    expected, gradients = learn(len(index))
    assert expected > 0.01
    for size in (5, 1):  # of one sample nothing is padded
        found, others = learn(size)
        assert found == pytest.approx(expected, rel=1e-5)
        for ours, theirs in zip(others, gradients, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1e-2)


def test_prompts_and_completions_are_cut_counted_and_unknown_as_sources_are():
    data = causal_zoo.data(200)
    found = samples(("akakak", ("K",)), ("a", ("KKKK",)), ("a", ("K",)), ("%", ("K%",)))
    task = TransductionTask.of(data, symbols=Symbols(max_length=4), judge=Judge())
    assert task.count_truncated(found) == 2
    assert task.units(found).tolist()[:3] == [2, 4, 2]
    batch = task.batch(found, torch.tensor([3]))
    assert batch.inputs[0].tolist() == [[UNKNOWN]]
    assert batch.labels.tolist()[-2:] == [UNKNOWN, END]


def test_orders_and_parts_hold_every_sample_once(task, data):
    order = task.order(data.train, torch.Generator().manual_seed(0), size=16)
    assert sorted(order.tolist()) == [*range(len(data.train))]
    for side, padded in ((task.sources(data.train), 0.05), (task.targets(data.train), 0.15)):
        updates = [side.lengths[part] for part in order[:320].split(16)]
        given = sum(int(lengths.max()) * len(lengths) for lengths in updates)
        assert sum(int(lengths.sum()) for lengths in updates) > (1 - padded) * given
    parts = [*task.parts(data.train, torch.arange(len(data.train)), size=64)]
    assert sorted(torch.cat(parts).tolist()) == [*range(len(data.train))]


def test_written_sequences_are_judged_against_every_answer(task):
    found = samples(("ae", ("EH AH", "AH")), ("k", ("K",)), ("t", ("Q",)))
    number = task.classes.index
    written = [[number("AH")], [number("S"), number("K")], [UNKNOWN]]
    measures = task.judge_written(written, found)
    assert measures["exact-match"].value == pytest.approx(1 / 3)
    assert measures["token-error-rate"].value == pytest.approx(2 / 3)  # a symbol that train has not is never right
    assert task.measure == "exact-match"


def test_forced_outputs_are_judged_by_the_next_symbol(task, data):
    units = int(task.units(data.select).sum())
    right = np.eye(len(task.classes))[task.labels(data.select)] * 20
    assert task.tally(right, data.select).value == 1
    found = task.tallies(np.zeros((units, len(task.classes))), data.select)
    assert found["perplexity"].value == pytest.approx(len(task.classes))


def test_texts_are_split_and_joined_alike(task):
    target, source = task.vocabularies.target, task.vocabularies.source
    assert target.decode(target.encode("K AH  S")) == "K AH S"
    assert source.decode(source.encode("kat")) == "kat"
    assert target.decode([BEGIN, *target.encode("K"), END, PAD]) == "K"
    assert Vocabularies.read(task.vocabularies.text) == task.vocabularies


def test_a_limit_by_the_source_lies_in_the_vocabularies_and_is_that_of_the_program(task):
    assert "written_limit" not in task.vocabularies.text
    limited = replace(task.vocabularies, written_limit=WrittenLimit(symbols=3, per_source_symbol=0.7))
    assert Vocabularies.read(limited.text) == limited
    lengths = np.arange(1, 30)
    mask = np.arange(30) < lengths[:, None]
    how = Writing(max_length=task.max_length, limit=replace(task, vocabularies=limited).written_limit)
    assert limited.steps(lengths).tolist() == how.steps(mask).tolist()
    assert limited.steps(lengths)[[0, 9, 28]].tolist() == [3, 10, 16]


def test_vocabularies_lie_beside_every_model_and_decide_how_it_reads(task, data, make_context):
    context = replace(make_context(), data=data, task=task)
    made = Create(model=writing_zoo.TINY).run(None, *context)
    assert task.reading(made.path) is task
    assert [path.name for path in task.travelling(made.path)] == ["vocabulary.json"]
    adopted = Adopt(artifact=made.path).run(None, *context)
    assert adopted.read_json("vocabulary.json") == made.read_json("vocabulary.json")
    pairs = writing_zoo.rows()
    renamed = samples(*((word.replace("x", "y"), (text,)) for word, text in pairs))  # as many letters, one another
    other = writing_zoo.task(assign(Raw({"train": renamed}, ()), split=SPLIT, overlap="refuse"))
    assert other.signature == task.signature
    assert other.reading(made.path).vocabularies == task.vocabularies
    with pytest.raises(ModelError, match="of its own"):
        Adopt(artifact=made.path).run(None, *replace(context, task=other))


def test_the_order_of_training_is_in_the_digest(task, monkeypatch):
    before = replace(task).digest
    assert before == task.digest
    monkeypatch.setattr("compress.tasks.transduction.VERSION", 3)
    assert replace(task).digest != before


def test_a_model_with_fewer_positions_is_refused(task, data, make_context):
    short = writing_zoo.TINY.model_copy(update={"max_length": 8})
    with pytest.raises(ModelError, match="too few positions"):
        Create(model=short).run(None, *replace(make_context(), data=data, task=task))


def test_a_model_that_decides_is_no_model_that_writes(task):
    with pytest.raises(ModelError, match="choose a family that fits the task"):
        Mlp().build(task.signature, code=())


@pytest.mark.parametrize(
    ("row", "message"),
    [(" ,K", "texts are empty"), ("ka, ", "a text to write is empty"), ("ka,", "a text to write is empty")],
)
def test_empty_texts_are_refused(tmp_path, row, message):
    path = writing_zoo.write_table(tmp_path / "words.csv")
    path.write_text(path.read_text() + row + "\n")
    source = Table(path=path, text="word", target_text="sounds")
    with pytest.raises(DataError, match=message):
        DataConfig(source=source).load()


def test_a_recipe_names_the_columns(tmp_path):
    writing_zoo.write_table(tmp_path / "words.csv")
    text = """
        schema: 1
        name: tiny
        data:
          source: {table: {path: words.csv, text: word, target_text: sounds}}
          split: {test: 40, select: 40, calibration: 40}
          symbols: {target_text: words, max_length: 16}
          written_limit: {symbols: 4, per_source_symbol: 2}
        teacher: {model: {transducer: {width: 32}}, train: {label_smoothing: 0.1}}
        student: {transducer: {width: 16}}
        stages:
          - distill: {label: {decoding: {beam: {size: 4, best: 2}}, choose: nearest, sources: words.csv}}
          - distill: {name: again, label: rejection}
          - export
    """
    recipe = Recipe.parse(text, origin="recipe.yaml", directory=Path(tmp_path))
    data = recipe.data.load()
    task = recipe.task(data)
    assert isinstance(task, TransductionTask)
    assert task.max_length == 16
    assert task.written_limit == (4, 2)
    assert "AH" in task.classes
    assert recipe.stages[0].label.sources == tmp_path / "words.csv"
    assert recipe.stages[1].label.decoding == Sample(texts=4)
    assert Recipe.parse(recipe.to_yaml(), origin="again", directory=Path(tmp_path)) == recipe
    assert recipe.teacher.train.guided_loss(recipe.loss).terms.keys() == {"hard", "uniform"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"judge": Judge(measure="accuracy")}, "does not fit"),
        ({"encode": {}}, "made of symbols"),
        ({"source": "labelled", "written_limit": {"symbols": 4, "per_source_symbol": 1}}, "nothing is written"),
        ({"source": "labelled", "symbols": Symbols()}, "target_text"),
    ],
)
def test_sections_that_do_not_fit_are_refused(tmp_path, config, message):
    path = writing_zoo.write_table(tmp_path / "words.csv", count=60)
    source = {"table": {"path": path, "text": "word", "target_text": "sounds"}}
    if "source" in config:
        path.write_text("word,sounds\n" + "".join(f"a{number},{number % 2}\n" for number in range(200)))
        config = config | {"source": {"table": {"path": path, "text": "word", "label": "sounds"}}}
    found = DataConfig.model_validate({"source": source, "split": {"test": 8, "select": 32, "calibration": 4}} | config)
    with pytest.raises(DataError, match=message):
        found.task_of(found.load(), tokenizer=None)


def test_targets_without_a_text_to_read_are_refused():
    with pytest.raises(ValueError, match="target_text is written from"):
        Table(path=Path("words.csv"), words="word", target_text="sounds")


def test_what_is_written_is_spelt_as_it_is_compared(task):
    found = samples(("ak", ("K  AH", "AH")), ("e", ("EH",)))
    target = task.vocabularies.target
    rows = [target.encode("K AH"), target.encode("T")]
    outputs = np.array([row + [PAD] * (4 - len(row)) for row in rows])
    spelt = task.deployed.spell(outputs, found)
    assert spelt.sources == [("ak",), ("e",)]
    assert spelt.right == [[("K AH",), ("AH",)], [("EH",)]]
    assert spelt.answers == [("K AH",), ("T",)]
