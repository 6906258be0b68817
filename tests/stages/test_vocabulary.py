"""PruneVocabulary: the same bits on kept texts, a tokenizer that travels, and a teacher that reads as before."""

from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch

from compress.errors import DataError, ModelError, StageError
from compress.judge.scores import score
from compress.loss import GuidedLoss
from compress.models import HuggingFace, load_model, load_structure
from compress.models.huggingface import TEXT_FAMILIES
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, run
from compress.recipe import Recipe
from compress.stages.create import Adopt, Create
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.quantize import Quantize
from compress.stages.train import Train
from compress.stages.vocabulary import PruneVocabulary
from compress.store.artifact import read_artifact
from compress.tasks import Tokenizer

LAYERS = GuidedLoss.model_validate({"kl": {}, "layers": {}})


def context_of(make_context, folder, *, kind="label", **fields):
    data = text_zoo.review_data(kind=kind)
    return replace(make_context(), task=text_zoo.text_task(folder, data, **fields), data=data)


@pytest.fixture
def made(make_context, tmp_path):
    """A context whose teacher is a tiny BERT, and that teacher."""
    torch.manual_seed(0)
    folder = text_zoo.make_bert(tmp_path / "bert")
    context = context_of(make_context, folder)
    teacher = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    return replace(context, teacher=teacher), teacher


def tokens_of(artifact) -> int:
    return load_model(artifact.path).model.get_input_embeddings().num_embeddings


def test_outputs_are_the_same_bits_and_the_embedding_is_smaller(made):
    context, teacher = made
    pruned = PruneVocabulary().run(teacher, *context)
    assert tokens_of(pruned) == pruned.facts["tokens_after"] < pruned.facts["tokens_before"] == tokens_of(teacher)
    assert pruned.facts["split_otherwise_fraction"]["train"] == 0
    here = context.reading(pruned)
    assert here.teacher_task is context.task
    index = torch.arange(len(context.data.train))
    with torch.no_grad():
        before = context.task.forward(load_model(teacher.path), context.task.batch(context.data.train, index))
        after = here.task.forward(load_model(pruned.path), here.task.batch(context.data.train, index))
    assert torch.equal(before, after)
    config = load_structure(pruned.path).model.config
    assert all(config[name] is None for name in ("bos_token_id", "eos_token_id"))
    assert (config["vocab_size"], config["pad_token_id"]) == (tokens_of(pruned), here.task.tokenizer.pad_id)


# The padding token comes last, so that its number falls by as many tokens as go.
PADDING_LAST = [*text_zoo.VOCABULARY[len(text_zoo.SPECIAL) :], *reversed(text_zoo.SPECIAL)]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_family_gives_the_same_bits_when_it_is_read_back(family, make_context, tmp_path):
    torch.manual_seed(0)
    tokens = text_zoo.VOCABULARY if family == "mpnet" else PADDING_LAST  # MPNet counts from token 1 in any case
    folder = text_zoo.make_encoder(tmp_path / family, family, tokens=tokens, max_position_embeddings=200)
    context = context_of(make_context, folder)
    teacher = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    pruned = PruneVocabulary().run(teacher, *context)
    here, before, after = context.reading(pruned), load_model(teacher.path), load_model(pruned.path)
    fallen = len(tokens) - tokens_of(pruned)
    assert fallen >= len(text_zoo.UNUSED)
    assert context.task.tokenizer.pad_id - here.task.tokenizer.pad_id == (0 if family == "mpnet" else fallen)
    assert after.max_positions == before.max_positions
    index = torch.arange(len(context.data.train))
    with torch.no_grad():
        expected = context.task.forward(before, context.task.batch(context.data.train, index))
        assert torch.equal(here.task.forward(after, here.task.batch(context.data.train, index)), expected)


@pytest.mark.parametrize(
    ("family", "tokens", "pad", "told"),
    [
        ("mpnet", ["umbrella", "zeppelin"], None, r"token 1 to stay where it is.*got:\s+no such token"),
        ("mpnet", ["umbrella", "good"], None, r"token 1 to stay where it is.*got:\s+token 0"),
        ("roberta", ["umbrella", "good"], 0, r"token 0 to be the tokenizer's padding token.*got:\s+no such token"),
    ],
)
def test_a_token_that_positions_are_counted_from_and_that_cannot_move_is_told(
    family, tokens, pad, told, make_context, tmp_path
):
    tokens = list(dict.fromkeys([*tokens, *PADDING_LAST]))
    changes = {"max_position_embeddings": 200} | ({} if pad is None else {"pad_token_id": pad})
    folder = text_zoo.make_encoder(tmp_path / family, family, tokens=tokens, **changes)
    context = context_of(make_context, folder)
    model = Create(model=HuggingFace(path=str(folder))).build(*context)
    with pytest.raises(ModelError, match=rf"(?s)counts positions from a token.*{told}"):
        PruneVocabulary().check(model, context.work)


def test_further_texts_keep_their_tokens(made, tmp_path):
    context, teacher = made
    # Rare words go at a high count; a file keeps one of them.
    counted = PruneVocabulary(min_count=1000).run(teacher, *context)
    file = tmp_path / "words.txt"
    file.write_text("wonderful\n\n")
    stage = PruneVocabulary(min_count=1000, texts=file)
    kept = stage.run(teacher, *context)
    assert kept.facts["tokens_after"] == counted.facts["tokens_after"] + 1
    key = stage.key(teacher, *context)
    file.write_text("wonderful great")
    assert stage.key(teacher, *context) != key
    file.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"(?s)further texts cannot be read.*UTF-8.*0xe9"):
        stage.run(teacher, *context)


def test_nothing_to_remove_is_an_error(made, tmp_path):
    context, teacher = made
    file = tmp_path / "all.txt"
    file.write_text(" ".join(text_zoo.VOCABULARY[5:]))
    with pytest.raises(StageError, match=r"(?s)all tokens are needed.*min_count"):
        PruneVocabulary(texts=file).run(teacher, *context)


def test_images_have_no_vocabulary(make_context, trained_digits):
    with pytest.raises(ModelError, match="no vocabulary"):
        PruneVocabulary().run(trained_digits, *make_context())


def test_the_tokenizer_travels_and_the_teacher_reads_as_before(made):
    context, teacher = made
    pruned = PruneVocabulary(min_count=30).run(teacher, *context)
    assert 0 < pruned.facts["split_otherwise_fraction"]["train"] <= 1
    here = context.reading(pruned)
    trained = Train(epochs=1, batch_size=50, learning_rate=0.01).run(pruned, *here)
    distilled = Distill(epochs=1, batch_size=50).run(trained, *context.reading(trained))
    quantized = Quantize(mode="dynamic", min_agreement=0.5).run(distilled, *context.reading(distilled))
    bundle = Export(variants=("fp32", "int8-x86")).run(quantized, *context.reading(quantized))
    size = pruned.facts["tokens_after"]
    for artifact in (pruned, trained, distilled, quantized, bundle):
        read = context.task.reading(artifact.path).tokenizer
        assert read.size == size, artifact.path
        assert read.digest == here.task.tokenizer.digest
    shipped = Tokenizer.load(str(bundle.path), max_length=48)
    samples = context.data.select
    assert shipped.encode(samples, words=False).ids.tolist() == here.task.encode(samples).ids.tolist()
    reference = score(teacher, *context, role="select", teacher=None)
    scores = score(bundle, *context, role="select", teacher=reference, variant="fp32")
    expected = load_model(distilled.path)
    with torch.no_grad():
        batch = here.task.batch(samples, torch.arange(len(samples)))
        assert np.allclose(here.task.forward(expected, batch).numpy(), scores.logits, atol=1e-4)
    assert 0 <= scores.facts.teacher_agreement <= 1


def test_a_kept_split_is_distilled_token_by_token(made):
    context, teacher = made
    context = replace(context, loss=LAYERS)
    pruned = PruneVocabulary().run(teacher, *context)
    stage = Distill(epochs=1, batch_size=50, optimizer="adamw", learning_rate=1e-6, loss=LAYERS)
    same = GuidedLoss.model_validate({"hard": {}, "layers": {}})
    first = stage.model_copy(update={"loss": same}).run(pruned, *context.reading(pruned))
    # The student is the teacher on these texts, so that the features agree as long as tokens meet their own.
    curves = [values for _, values in context.recorder.points if "train/loss_layers" in values]
    assert curves[0]["train/loss_layers"] < 1e-4
    assert tokens_of(first) == tokens_of(pruned)


def test_another_split_is_refused_token_by_token_and_taken_on_logits(made):
    context, teacher = made
    pruned = PruneVocabulary(min_count=30).run(teacher, *context)
    here = context.reading(pruned)
    with pytest.raises(StageError, match=r"(?s)token by token.*got:\s+layers.*distill.*min_count 1"):
        Distill(epochs=1, batch_size=50, loss=LAYERS).run(pruned, *here)
    on_logits = GuidedLoss.model_validate({"hard": {}, "kl": {}})
    assert Distill(epochs=1, batch_size=50, loss=on_logits).run(pruned, *here)


def test_words_are_pruned_and_distilled_and_none_loses_its_output(make_context, tmp_path):
    folder = text_zoo.make_bert(tmp_path / "bert")
    context = context_of(make_context, folder, kind="words", max_length=64)
    teacher = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    context = replace(context, teacher=teacher)
    pruned = PruneVocabulary(min_count=20).run(teacher, *context)
    here = context.reading(pruned)
    assert (here.task.units(context.data.train) == context.task.units(context.data.train)).all()
    assert Distill(epochs=1, batch_size=50).run(pruned, *here)
    short = context_of(make_context, folder, kind="words", max_length=24)
    with pytest.raises(StageError, match=r"(?s)samples lose words.*raise data\.tokenize\.max_length"):
        PruneVocabulary(min_count=1000).run(teacher, *replace(short, teacher=teacher))


def test_a_stored_teacher_with_a_tokenizer_of_its_own_is_named_as_the_tokenizer(made):
    context, teacher = made
    pruned = PruneVocabulary().run(teacher, *context)
    with pytest.raises(ModelError, match=r"(?s)tokenizer of its own.*set data\.tokenize\.tokenizer"):
        Adopt(artifact=pruned.path).run(None, *context)
    there = replace(context, task=context.task.with_tokenizer(Tokenizer.load(str(pruned.path), max_length=48)))
    adopted = Adopt(artifact=pruned.path).run(None, *there)
    assert tokens_of(adopted) == tokens_of(pruned)


RECIPE = """
name: lines
data:
  source: {{table: {{path: {lines}, words: tokens, tags: tags}}}}
  split: {{test: 60, select: 60, calibration: 20}}
  tokenize: {{max_length: 24}}
teacher: {{model: {{huggingface: {{path: {folder}}}}}, train: {{epochs: 1}}}}
student: teacher
loss: hinton
stages:
  - prune-vocabulary: {{min_count: 1000}}
  - distill: {{epochs: 1}}
  - export: {{variants: [fp32]}}
"""


@pytest.mark.parametrize("does", [run, plan])
def test_words_that_would_lose_their_output_are_told_before_the_teacher_is_trained(does, tmp_path):
    names = {
        "folder": text_zoo.make_bert(tmp_path / "bert"),
        "lines": text_zoo.write_entities(tmp_path / "lines.jsonl", count=300),
    }
    recipe = Recipe.parse(RECIPE.format(**names), origin="test", directory=tmp_path)
    with pytest.raises(StageError, match=r"(?s)role's samples lose words.*where:\s+prune-vocabulary"):
        does(recipe, Options(store=tmp_path / "store"))
    made = [read_artifact(path, verify=False).inputs["stage"] for path in (tmp_path / "store" / "artifacts").glob("*")]
    assert made == (["Create"] if does is run else [])
