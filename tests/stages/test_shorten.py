"""Shorten: the kept layers with their weights and nothing else changed; what cannot be kept, told before training."""

from dataclasses import replace

import pytest
import text_zoo
import torch
import transformers

from compress.errors import ModelError, StageError
from compress.models import Cnn, HuggingFace, load_model
from compress.pipeline.run import Options, run
from compress.recipe import Recipe
from compress.stages.create import Create
from compress.stages.shorten import Ends, Shorten
from compress.store.artifact import read_artifact

LAYER = "model.bert.encoder.layer."


@pytest.fixture
def made(make_context, tmp_path):
    """A context on text and a stored BERT of six layers."""
    torch.manual_seed(0)
    folder, data = text_zoo.make_bert(tmp_path / "bert", num_hidden_layers=6), text_zoo.review_data()
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    return context, Create(model=HuggingFace(path=str(folder))).run(None, *context)


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("every-other", [0, 2, 4]),
        ((0, 2, 5), [0, 2, 5]),
        ((5, 0, 5), [0, 5]),
        (Ends(last=3), [3, 4, 5]),
        (Ends(first=1, last=2), [0, 4, 5]),
        (Ends(first=5), [0, 1, 2, 3, 4]),
    ],
)
def test_the_kept_layers_hold_the_sources_weights_in_their_order(layers, kept, made):
    context, source = made
    stage = Shorten(layers=layers)
    stage.check(load_model(source.path), context.work)
    shortened = stage.run(source, *context)
    assert shortened.facts == {"layers_before": 6, "kept": kept}
    before, model = load_model(source.path).state_dict(), load_model(shortened.path)
    expected = {name: value for name, value in before.items() if not name.startswith(LAYER)}
    for position, index in enumerate(kept):
        own = f"{LAYER}{index}."
        expected |= {
            f"{LAYER}{position}.{name.removeprefix(own)}": value for name, value in before.items() if own in name
        }
    after = model.state_dict()
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], value) for name, value in expected.items())
    assert model.model.config.num_hidden_layers == len(kept)
    assert load_model(source.path).model.config.num_hidden_layers == 6


@pytest.mark.parametrize(
    ("layers", "got"),
    [
        ((0, 9), r"\[0, 9\]"),
        (Ends(last=6), r"\[0, 1, 2, 3, 4, 5\]"),
        (Ends(first=4, last=4), r"\[0, 1, 2, 3, 4, 5\]"),
        ((0, 1, 2, 3, 4, 5), r"\[0, 1, 2, 3, 4, 5\]"),
        (Ends(), r"\[\]"),
        ((), r"\[\]"),
    ],
)
def test_layers_that_are_not_there_and_all_and_none_are_refused(layers, got, made):
    context, source = made
    stage = Shorten(name="halve", layers=layers)
    message = rf"(?s)layers cannot be kept.*some, and not all, of the positions 0 to 5.*got:\s+{got}.*where:\s+halve"
    with pytest.raises(StageError, match=message):
        stage.check(load_model(source.path), context.work)
    with pytest.raises(StageError, match=message):
        stage.run(source, *context)


@pytest.fixture
def made_of(make_context, tmp_path):
    """From a family to a context on text and a stored encoder of it."""

    def make(family, **fields):
        torch.manual_seed(0)
        folder, data = text_zoo.make_encoder(tmp_path / family, family, **fields), text_zoo.review_data()
        context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
        return context, Create(model=HuggingFace(path=str(folder))).run(None, *context)

    return make


def outputs_of(artifact, context):
    with torch.no_grad():
        return context.task.forward(load_model(artifact.path), context.task.batch(context.data.select, torch.arange(8)))


def test_one_layer_that_runs_as_all_of_them_runs_fewer_times(made_of):
    context, source = made_of("albert", num_hidden_layers=4, initializer_range=0.2)
    shortened = Shorten(layers="every-other").run(source, *context)
    assert shortened.facts == {"layers_before": 4, "kept": [0, 2]}
    before, after = load_model(source.path), load_model(shortened.path)
    assert after.model.config.num_hidden_layers == 2
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in after.state_dict().items())
    assert not torch.allclose(outputs_of(shortened, context), outputs_of(source, context), atol=1e-3)
    before.model.config.num_hidden_layers = 2
    batch = context.task.batch(context.data.select, torch.arange(8))
    with torch.no_grad():
        assert torch.equal(context.task.forward(before, batch), outputs_of(shortened, context))
    stage = Shorten(layers="every-other")
    several = load_model(made_of("albert", num_hidden_layers=4, num_hidden_groups=2)[1].path)
    with pytest.raises(ModelError, match=r"(?s)number of times.*got:\s+2 layers"):
        stage.check(several, context.work)
    with pytest.raises(ModelError, match=r"(?s)number of times.*got:\s+a model of your own"):
        stage.check(after.model, context.work)


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 decides by position which layers are local")
def test_kept_layers_see_as_many_tokens_as_before_and_the_first_one_stays(made_of):
    context, source = made_of("modernbert", num_hidden_layers=6)
    shortened = Shorten(layers=(0, 2, 3)).run(source, *context)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    model = load_model(shortened.path)
    assert [layer.attention_type for layer in model.model.model.layers] == kinds
    assert model.model.config.layer_types == kinds
    assert torch.isfinite(outputs_of(shortened, context)).all()
    with pytest.raises(StageError, match=r"(?s)have to stay.*\[0\] kept.*got:\s+\[3, 4, 5\].*built otherwise"):
        Shorten(layers=Ends(last=3)).check(load_model(source.path), context.work)


def test_one_layer_has_no_other(make_context):
    with pytest.raises(StageError, match=r"(?s)positions 0 to 0.*got:\s+\[0\]"):
        Shorten(layers="every-other").check(
            transformers.BertModel(transformers.BertConfig(**{**text_zoo.FIELDS, "num_hidden_layers": 1})),
            make_context(),
        )


def test_what_is_no_transformer_and_what_is_none_that_is_known_is_refused_by_name(make_context):
    stage, context = Shorten(layers="every-other"), make_context()
    network = Create(model=Cnn(widths=(8, 8), strides=(1, 2))).build(*context)
    with pytest.raises(ModelError, match=r"(?s)no layers to drop.*got:\s+\w+.*where:\s+shorten"):
        stage.check(network, context.work)
    config = transformers.SqueezeBertConfig(**{**text_zoo.FIELDS, "embedding_size": 32})
    with pytest.raises(ModelError, match=r"shorten does not know the family 'squeezebert'") as family:
        stage.check(transformers.SqueezeBertModel(config), context.work)
    altered = transformers.BertModel(transformers.BertConfig(**text_zoo.FIELDS))
    altered.encoder.layer[0].output.gamma = torch.nn.Parameter(torch.ones(32))
    with pytest.raises(ModelError, match=r"(?s)not in what shorten knows of the family 'bert'.*gamma") as parameter:
        stage.check(altered, context.work)
    assert all("prune" not in str(raised.value) for raised in (family, parameter))


RECIPE = """
name: short
data:
  source: {{table: {{path: {texts}, text: text, label: label}}}}
  split: {{test: 60, select: 60, calibration: 20}}
  tokenize: {{max_length: 24}}
teacher: {{model: {{huggingface: {{path: {folder}}}}}, train: {{epochs: 1}}}}
student: teacher
loss: hinton
stages: [{{shorten: {{layers: [0, 9]}}}}, {{distill: {{epochs: 1}}}}, {{export: {{variants: [fp32]}}}}]
"""


def test_it_is_told_before_the_teacher_is_trained(tmp_path):
    folder = text_zoo.make_bert(tmp_path / "bert")
    texts = text_zoo.write_reviews(tmp_path / "texts.csv", count=300)
    recipe = Recipe.parse(RECIPE.format(texts=texts, folder=folder), origin="test", directory=tmp_path)
    with pytest.raises(StageError, match=r"(?s)layers cannot be kept.*positions 0 to 1.*got:\s+\[0, 9\]"):
        run(recipe, Options(store=tmp_path / "store"))
    made = [read_artifact(path, verify=False) for path in (tmp_path / "store" / "artifacts").glob("*")]
    assert [artifact.inputs["stage"] for artifact in made] == ["Create"]
