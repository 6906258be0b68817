"""What is cut of models that write: heads, widths, layers and symbols; and an encoder that stays as it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import writing_zoo
from seq2seq_zoo import make_model
from setting import Setting

from compress import Distill, EncoderDecoder, Greedy, Label, Optimization, Prune, PruneVocabulary, Seq2Seq, Shorten
from compress.data.samples import Samples
from compress.errors import ModelError, RecipeError, StageError
from compress.loss import GuidedLoss
from compress.models import load_model, load_structure
from compress.models.dropout import Dropout
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Execution
from compress.stages.create import Create
from compress.stages.shorten import Ends, Evenly
from compress.store.store import Store
from compress.surgery import verify
from compress.tasks import Judge, Symbols, TransductionTask
from compress.tasks.pieces import BytePairs, load_pieces
from compress.tasks.symbols import UNKNOWN
from compress.training.guided import fit_guided

TEACHER = EncoderDecoder(
    width=32, heads=4, feed_forward=64, encoder_layers=3, decoder_layers=3, dropout=0.3, max_length=16
)
UPDATES = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    """An untrained teacher and the data."""
    data = writing_zoo.data(200, test=0.2)
    setting = Setting(
        task=writing_zoo.task(data),
        data=data,
        loss=GuidedLoss(preset="word"),
        teacher=None,
        store=Store.open(tmp_path_factory.mktemp("cuts")),
        seed=0,
        execution=Execution(threads=1, precision="float32"),
        reporter=Reporter(quiet=True),
    )
    return replace(setting, teacher=Create(model=TEACHER).run(None, *setting))


def inputs(task, setting):
    return task.batch(setting.data.select, torch.arange(8)).inputs


def test_heads_widths_and_layers_are_pruned_by_the_loss(setting):
    stage = Prune(kept_macs_fraction=0.6, importance_batches=1, round_to=8, loss=GuidedLoss(preset="sequence"))
    (told,) = stage.foresee(load_model(setting.teacher.path), TEACHER, setting.work, setting.host)
    assert told.startswith("kept_macs_fraction can be anything from 0.")
    pruned = stage.run(setting.teacher, *setting)
    assert 0.5 < pruned.facts["kept_macs_fraction"] <= 0.6
    assert pruned.facts["masked_difference"] < 1e-9
    assert {group["kind"] for step in json.loads((pruned.path / "plan.json").read_text())["steps"]
            for group in step["groups"]} == {"heads", "feed_forward", "layers"}  # fmt: skip


def test_what_cannot_be_cut_is_refused_before_anything_trains(setting):
    module = load_model(setting.teacher.path)
    with pytest.raises(ModelError, match="hidden width of a model that writes"):
        Prune(kept_macs_fraction=0.5, units=("heads", "hidden")).check(module, setting.work)
    with pytest.raises(StageError, match="kept_macs_fraction cannot be reached"):
        Prune(kept_macs_fraction=0.01).foresee(module, TEACHER, setting.work, setting.host)


def test_layers_of_encoder_and_decoder_are_kept_apart(setting):
    stage = Shorten(encoder=Evenly(evenly=2), decoder=Ends(last=1))
    stage.check(load_model(setting.teacher.path), setting.work)
    shortened = stage.run(setting.teacher, *setting)
    assert shortened.facts == {
        "encoder": {"layers_before": 3, "kept": [0, 2]},
        "decoder": {"layers_before": 3, "kept": [2]},
    }
    before, after = (load_model(one.path).state_dict() for one in (setting.teacher, shortened))
    assert all(
        torch.equal(value, before[name.replace("encoder.1.", "encoder.2.").replace("decoder.0.", "decoder.2.")])
        for name, value in after.items()
    )
    assert verify.against_steps(load_model(shortened.path), inputs(setting.task, setting)) < 1e-9


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"layers": "every-other"}, r"(?s)no such layers.*encoder or decoder.*got:\s+layers"),
        ({"decoder": Evenly(evenly=3)}, r"(?s)cannot be kept.*positions 0 to 2"),
        ({"encoder": (0, 3)}, r"(?s)cannot be kept.*positions 0 to 2.*\[0, 3\]"),
    ],
)
def test_layers_that_are_not_there_are_refused(setting, fields, told):
    with pytest.raises((ModelError, StageError), match=told):
        Shorten(**fields).check(load_model(setting.teacher.path), setting.work)


def test_layers_of_nothing_and_of_both_kinds_are_refused():
    for fields in ({}, {"layers": "every-other", "decoder": (0,)}):
        with pytest.raises(ValueError, match="expected layers, of an encoder"):
            Shorten(**fields)


def test_a_frozen_encoder_stays_bit_by_bit_and_draws_no_dropout(setting):
    student = Shorten(decoder=Evenly(evenly=1)).run(setting.teacher, *setting)
    stage = Distill(epochs=1, freeze="encoder", loss=GuidedLoss(preset="shrink-and-fine-tune"), **UPDATES)
    stage.check(load_model(student.path), setting.work)
    taught = stage.run(student, *setting)
    before, after = (load_model(one.path).state_dict() for one in (student, taught))
    frozen = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert frozen == {name for name in after if name.startswith(("source.", "encoder"))}


def test_parts_that_are_frozen_are_in_evaluation_mode_while_the_others_train(setting, monkeypatch):
    seen: set[tuple[str, bool]] = set()
    whole = load_model(setting.teacher.path)
    forward = Dropout.forward
    names = {id(part): name.partition(".")[0] for name, part in whole.named_modules()}

    def record(self, values):
        seen.add((names.get(id(self), "?"), self.training))
        return forward(self, values)

    monkeypatch.setattr(Dropout, "forward", record)
    fit_guided(
        whole, setting.work, setting.host, loss=GuidedLoss(preset="sequence"),
        optimization=Optimization(epochs=1, **UPDATES), seed=0, checkpoints=setting.store.work("frozen"),
        name="frozen", frozen=whole.reader,
    )  # fmt: skip
    trained = {entry for entry in seen if entry[0] != "?"}
    assert {("source", False), ("encoder", False), ("target", True), ("decoder", True)} <= trained
    assert not {("source", True), ("encoder", True)} & trained
    assert all(value.requires_grad for value in whole.parameters())


def test_generations_and_models_that_decide_have_no_encoder_to_freeze(setting):
    with pytest.raises(ValueError, match="worth freezing"):
        Distill(generations=2, freeze="encoder")
    with pytest.raises(ModelError, match="no encoder that could be frozen"):
        Distill(freeze="encoder").check(torch.nn.Linear(2, 2), setting.work)


RECIPE = """
schema: 1
name: cut
data: {source: {table: {path: words.csv, text: word, target_text: sounds}}}
teacher: {model: {transducer: {width: 32}}, train: {epochs: 1}}
student: {transducer: {width: 16}}
loss: gkd
stages:
  - distill: {name: first, freeze: encoder, loss: word}
  - prune-vocabulary: {min_count: 2}
  - distill: {freeze: encoder}
  - export
"""


def test_an_encoder_that_was_drawn_and_symbols_of_its_own_are_refused_together_by_the_recipe(tmp_path):
    with pytest.raises(RecipeError) as refused:
        Recipe.parse(RECIPE, origin="recipe.yaml", directory=tmp_path)
    told = str(refused.value)
    assert "the recipe has 2 fault(s)" in told
    assert "recipe.yaml:9" in told
    assert "freeze: encoder keeps weights that were drawn and never trained" in told
    assert "after prune-vocabulary has symbols of its own" in told
    taught = RECIPE.replace("name: first, freeze: encoder,", "name: first,").replace("loss: gkd", "loss: word")
    assert not Recipe.parse(taught, origin="recipe.yaml", directory=tmp_path).misfits()
    for begins in ("teacher", "{seq2seq: {path: my-marian, decoder_layers: 1}}"):
        other = RECIPE.replace("{transducer: {width: 16}}", begins).replace("loss: gkd", "loss: word")
        assert not Recipe.parse(other, origin="recipe.yaml", directory=tmp_path).misfits()


def rare(setting: Setting) -> Setting:
    """With letters and sounds that occur once in train."""
    train = setting.data.train
    texts, labels = train.array.copy(), train.labels.copy()
    texts[0], labels[0] = "qak", ("K AH Q",)
    data = replace(setting.data, roles={**setting.data.roles, "train": Samples(texts, labels)})
    return replace(setting, data=data, task=writing_zoo.task(data), teacher=None)


@pytest.fixture(scope="module")
def pruned(setting):
    """A setting with rare symbols, its teacher, and that one without them."""
    own = rare(setting)
    own = replace(own, teacher=Create(model=TEACHER).run(None, *own))
    stage = PruneVocabulary(min_count=2)
    (told,) = stage.foresee(load_model(own.teacher.path), TEACHER, own.work, own.host)
    assert "keeps 11 of 12 source symbols and 10 of 11 target symbols" in told
    return own, stage.run(own.teacher, *own)


def test_rare_symbols_leave_vocabulary_embeddings_and_output_layer(pruned):
    setting, fewer = pruned
    assert fewer.facts["symbols"] == {"source": {"before": 12, "after": 11}, "target": {"before": 11, "after": 10}}
    share = 1 / len(setting.data.train)
    assert fewer.facts["unread_fraction"]["train"] == [0, pytest.approx(share)]
    assert fewer.facts["unwritable_fraction"]["train"] == [0, pytest.approx(share)]
    assert fewer.facts["unwritable_fraction"]["select"] == [0, 0]
    model, structure = load_model(fewer.path), load_structure(fewer.path)
    assert model.head.weight is model.target.symbols.weight
    assert (model.source.symbols.num_embeddings, model.head.out_features) == (11, 10)
    assert len(structure.signature.classes) == 10
    here = setting.reading(fewer)
    assert here.task.vocabularies.source.encode("qa")[0] == UNKNOWN
    assert "Q" not in here.task.classes
    kept, whole = (
        task.forward(load_model(one.path).double(), task.batch(setting.data.select, torch.arange(20)))
        for task, one in ((here.task, fewer), (setting.task, setting.teacher))
    )
    columns = torch.from_numpy(here.task.columns_of(setting.task))
    assert (kept - whole[:, columns]).abs().max() < 1e-12


@pytest.mark.parametrize("how", ["word", "distil-whisper"])
def test_a_student_with_fewer_symbols_learns_from_a_teacher_with_all(pruned, how):
    setting, fewer = pruned
    label = None if how == "word" else Label(decoding=Greedy(), keep_given=True)
    taught = Distill(epochs=1, loss=GuidedLoss(preset=how), label=label, **UPDATES).run(fewer, *setting.reading(fewer))
    assert np.isfinite(taught.facts["final_loss"])


def test_all_symbols_may_be_needed(setting):
    with pytest.raises(StageError, match="all symbols are needed"):
        PruneVocabulary().check(load_model(setting.teacher.path), setting.work)


def test_pieces_that_train_does_not_write_leave_the_tokenizer_too(setting, tmp_path):
    folder = make_model("marian", tmp_path / "marian")
    pieces = load_pieces(str(folder))
    few = setting.data.train.take(np.arange(12))
    data = replace(setting.data, roles={**setting.data.roles, "train": few})
    task = TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
    own = replace(setting, data=data, task=task, teacher=None)
    source = Create(model=Seq2Seq(path=str(folder))).run(None, *own)
    fewer = PruneVocabulary().run(source, *own)
    sizes = fewer.facts["symbols"]
    assert sizes["source"] == sizes["target"]
    assert sizes["source"]["after"] < sizes["source"]["before"]
    here = own.reading(fewer)
    assert here.task.vocabularies.source == here.task.vocabularies.target
    assert here.task.targets(few).numbers.max() < sizes["target"]["after"]
    texts = [text for row in few.labels for text in row]
    target = here.task.vocabularies.target
    assert [target.decode(row) for row in target.encode_all(texts)] == texts
    kept, whole = (
        reading.forward(load_model(one.path).double(), reading.batch(few, torch.arange(12)))
        for reading, one in ((here.task, fewer), (task, source))
    )
    assert (kept - whole[:, torch.from_numpy(here.task.columns_of(task))]).abs().max() < 1e-9
    both = Distill(loss=GuidedLoss(preset="distil-whisper"), label=Label(decoding=Greedy()))
    asked = (load_model(source.path), Seq2Seq(path=str(folder)), own.work, own.host)
    with pytest.raises(StageError, match=r"(?s)may split what the teacher writes otherwise.*after prune-vocabulary"):
        both.foresee(*asked, after=[PruneVocabulary()])
    assert both.foresee(*asked) == ()
    alone = both.model_copy(update={"loss": GuidedLoss(preset="sequence")})
    assert alone.foresee(*asked, after=[PruneVocabulary()]) == ()


def test_one_table_for_two_numberings_is_refused(setting, tmp_path):
    folder = make_model("t5", tmp_path / "t5")
    model = Seq2Seq(path=str(folder), pretrained=False).build(setting.task.signature, code=())
    with pytest.raises(ModelError, match="one table of embeddings"):
        PruneVocabulary(min_count=2).check(model, setting.work)


def test_byte_pairs_of_either_side_are_kept_as_they_split_train(setting):
    task = writing_zoo.task(setting.data, text=BytePairs(bpe=300), target_text=BytePairs(bpe=300))
    target = task.vocabularies.target
    used = {int(number) for number in task.targets(setting.data.train).numbers}
    smaller, old = target.keep(used)
    texts = [text for row in setting.data.train.labels for text in row]
    ours, theirs = smaller.encode_all(texts), target.encode_all(texts)
    assert [old[row].tolist() for row in ours] == theirs
    assert len(old) <= len(target.names)
