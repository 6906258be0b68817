"""What every stage must hold to. A new stage is one line in STAGES."""

import json
from dataclasses import replace

import pytest
import text_zoo
from pydantic import ValidationError

from compress.errors import CompressError
from compress.models import Cnn, HuggingFace, load_model
from compress.recipe.recipe import VERBS
from compress.stage import Stage
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize
from compress.stages.shorten import Shorten
from compress.stages.train import Train
from compress.stages.vocabulary import PruneVocabulary

# A quick instance of each stage, and other values for some of its fields.
STAGES: list[tuple[Stage, dict[str, object]]] = [
    (Create(model=Cnn(widths=(8, 8), strides=(1, 2))), {"model": Cnn()}),
    (Train(epochs=1, batch_size=100), {"epochs": 2, "learning_rate": 0.2}),
    (Distill(epochs=1, batch_size=100), {"epochs": 2, "optimizer": "adamw"}),
    (Prune(kept_macs_fraction=0.6, importance_batches=2), {"kept_macs_fraction": 0.5, "importance": "magnitude"}),
    (Quantize(), {"mode": "dynamic", "calibration": "minmax"}),
    (Export(variants=("fp32",)), {"variants": ("fp32", "int8-x86")}),
    (PruneVocabulary(), {"min_count": 2}),
    (Shorten(layers=(0,)), {"layers": (1,)}),
]
each_stage = pytest.mark.parametrize(("stage", "changes"), STAGES, ids=lambda value: getattr(value, "verb", ""))


@pytest.fixture
def context(make_context, trained_digits, stage, tmp_path):
    if not isinstance(stage, PruneVocabulary | Shorten):
        return make_context(teacher=trained_digits)
    folder, data = text_zoo.make_bert(tmp_path / "bert"), text_zoo.review_data()
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    return replace(context, teacher=Create(model=HuggingFace(path=str(folder))).run(None, *context))


@pytest.fixture
def model(context):
    return context.teacher


def source_of(stage, model):
    return model if stage.consumes else None


def test_every_verb_of_a_recipe_is_here():
    assert set(VERBS) <= {stage.verb for stage, _ in STAGES}


@each_stage
def test_it_is_a_frozen_value_that_refuses_unknown_keys(stage, changes):
    with pytest.raises(ValidationError, match="frozen"):
        stage.name = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(stage).model_validate({**stage.model_dump(), "nonsense": 1})


@each_stage
def test_json_gives_the_same_value_back(stage, changes):
    assert type(stage).model_validate(json.loads(stage.model_dump_json())) == stage


@each_stage
def test_the_key_depends_on_every_field_but_the_name(stage, changes, context, model):
    source = source_of(stage, model)
    key = stage.key(source, *context)
    assert stage.model_copy(update={"name": "renamed"}).key(source, *context) == key
    for field, value in changes.items():
        assert stage.model_copy(update={field: value}).key(source, *context) != key, field


@each_stage
def test_rounding_is_no_reason_to_make_it_again_unless_the_same_bits_are_asked_for(stage, changes, context, model):
    source = source_of(stage, model)
    key, seed = stage.key(source, *context), stage.seed(source, *context)
    for rounding in ({"threads": 7}, {"device": "meta"}):
        other = replace(context, execution=replace(context.execution, **rounding))
        exact = replace(context, execution=replace(other.execution, reproduce=True))
        assert stage.key(source, *other) == key
        assert stage.key(source, *exact) != key
        assert {stage.seed(source, *here) for here in (other, exact)} == {seed}
    precise = replace(context, execution=replace(context.execution, precision="bfloat16"))
    assert stage.key(source, *precise) != key


@each_stage
def test_it_commits_under_its_key_and_leaves_its_source_alone(stage, changes, context, model):
    from compress.store.artifact import read_artifact

    source = source_of(stage, model)
    made = stage.run(source, *context)
    assert made.kind == stage.produces
    assert made.key == stage.key(source, *context)
    assert made.rounding == {"threads": 1, "device": "cpu"}
    assert context.store.find(made.key, verify=True) == made
    read_artifact(model.path, verify=True)
    assert stage.run(source, *context) == made
    if made.kind in ("model", "quantized"):
        assert not load_model(made.path).training


@each_stage
def test_two_stores_give_the_same_bytes(stage, changes, context, model, tmp_path):
    from compress.store.store import Store

    source = source_of(stage, model)
    elsewhere = replace(context, store=Store.open(tmp_path / "elsewhere"))
    assert stage.run(source, *context).digest == stage.run(source, *elsewhere).digest


@each_stage
def test_smoke_is_the_same_stage_with_less_to_do(stage, changes):
    assert type(stage.smoke()) is type(stage)
    assert stage.smoke().title == stage.title


@each_stage
def test_a_failure_is_one_of_ours(stage, changes, context, tmp_path, model):
    """A source without weights is refused in our words, by every stage that has a source."""
    import shutil

    if not stage.consumes:
        pytest.skip("starts from nothing")
    broken = tmp_path / "broken"
    shutil.copytree(model.path, broken)
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(CompressError):
        stage.run(replace(model, path=broken), *context)
