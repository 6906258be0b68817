"""A recipe alone runs no command, loads no code and writes nowhere but into the store: every field has its side."""

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from typer.testing import CliRunner

from compress.cli.main import app
from compress.config import Values
from compress.errors import CompressError, RecipeError
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, prepare, run
from compress.pipeline.sweep import sweep
from compress.recipe import Recipe
from compress.recipe.permission import check_allowed

# What each field that can hold a word of the recipe's author is used for. Numbers, switches and choices of ours have no
# side, because their types leave them none. A new field is not in the list: whoever adds it says where it leads.
NAME = "a name in tables, messages and metrics, checked where it becomes a file's"
DATA = "a name in the data or of a module, looked up and compared"
READ = "a file or folder that is read, never as code or pickle"
CODE = "runs or unpickles only what --code names"
ASKS = "runs, sends, writes or unpickles only what --allow names"
SIDES = {
    NAME: {
        "Recipe.name", "Recipe.ensemble", "Recipe.baselines", "Benchmark.primary", "Limits.max_latency_ms",
        "Gates.max_latency_ms", "Tracking.experiment", "Idx.classes", "File.classes", "Numpy.classes", "Table.classes",
        "TarImages.classes",
        "HubData.classes", "Train.name", "Distill.name", "Export.name", "Prune.name", "PruneVocabulary.name",
        "Quantize.name", "Shorten.name",
        "Stage.verb", "Stage.name", "OwnStage.verb", "OwnStage.name",
    },
    DATA: {
        *(f"{table}.{column}" for table in ("Table", "HubData") for column in
          ("text", "target_text", "prompt", "completion", "pair", "words", "label", "labels", "targets", "tags",
           "numbers", "categories")),
        "ImageTable.image", "ImageTable.label", "TarImages.label", "Published.timm", "Published.torchvision",
        "TorchVision.name", "TorchVision.arguments",
        "File.layout", "Numpy.layout", "DataConfig.normalize",
        "HubData.subset", "HubData.splits", "HubData.revision", "Judge.merge", "Prune.protected", "Quantize.keep_float",
        "HuggingFace.change", "HuggingFace.config", "Seq2Seq.change", "Seq2Seq.config",
        "CausalLM.change", "CausalLM.config",
        "UserFile.output", "ExecutionChoice.device",
        *(f"{term}.pairs" for term in ("Hint", "Hidden", "Cosine", "AttentionTransfer", "Rkd", "LastFeature", "Layers",
                                       "DynamicLayers", "Scores", "Relations")),
    },
    READ: {
        "Idx.directory", "ImageFolder.root", "Numpy.archive", "ArrayPair.inputs", "ArrayPair.labels",
        "ImageTable.path", "ImageTable.files", "TarImages.path", "TarImages.files", "TeacherLabels.classes",
        "Table.path", "Table.files", "HubData.path", "Tokenize.tokenizer", "HuggingFace.path", "Seq2Seq.path",
        "CausalLM.path",
        "Teacher.weights",
        "Teacher.artifact", "PruneVocabulary.texts", "Label.sources", "Backward.artifact", "DataConfig.preprocess",
    },
    CODE: {
        "File.path", "File.factory", "File.arguments", "UserFile.path", "UserFile.factory", "UserFile.arguments",
        "UserFile.sha256",
        *(f"{own}.{field}" for own in ("OwnSource", "OwnStage", "OwnRuntime", "OwnTerm")
          for field in ("file", "class_name")),
        *(f"{own}.{field}" for own in ("OwnMeasure", "OwnTask") for field in ("file", "function")),
    },
    ASKS: {"ProfileChoice.runtime", "ProfileChoice.python", "ProfileChoice.launcher", "Tracking.uri", "Timm.name"},
}  # fmt: skip
HARMLESS = (int, float, bool, NoneType)


def kinds(annotation: Any, seen: dict[type[Values], None]) -> dict[type[Values], None]:
    """Every class of values that a recipe can hold."""
    if inspect.isclass(annotation) and issubclass(annotation, Values) and annotation not in seen:
        seen[annotation] = None
        for field in annotation.model_fields.values():
            kinds(field.annotation, seen)
        kinds(inspect.get_annotations(annotation).get("__pydantic_extra__"), seen)  # terms of the user's own
    for part in get_args(annotation):
        kinds(part, seen)
    return seen


def is_free(annotation: Any) -> bool:
    """Whether a type leaves the recipe's author a word of their own; the values inside have fields themselves."""
    if get_origin(annotation) is Literal or annotation in HARMLESS:
        return False
    if inspect.isclass(annotation) and issubclass(annotation, Values):
        return False
    if get_origin(annotation) is Callable:  # Python alone can give one
        return False
    parts = [part for part in get_args(annotation) if part is not Ellipsis and is_type(part)]
    return any(map(is_free, parts)) if parts else True


def is_type(part: Any) -> bool:
    return inspect.isclass(part) or get_origin(part) is not None or part is Any


def free_fields() -> Iterator[str]:
    for kind in kinds(Recipe, {}):
        for name, field in kind.model_fields.items():
            if is_free(field.annotation):
                yield f"{kind.__name__}.{name}"


def test_every_field_of_a_recipe_has_taken_a_side():
    sides = [field for fields in SIDES.values() for field in fields]
    assert len(sides) == len(set(sides))
    assert set(free_fields()) == set(sides)


RECIPE = """
schema: 1
name: theirs
data: {source: digits}
teacher: {model: {mlp: {widths: [8]}}, train: {epochs: 1}}
student: {mlp: {widths: [4]}}
stages:
  - distill: {epochs: 1}
  - export: {variants: [fp32]}
gates: {max_size_mb: 1}
"""


def recipe(*overrides: str) -> Recipe:
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path(), overrides=overrides)


def profile(**fields) -> str:
    return f"benchmark.profiles=[{fields!r}]"


def touching(path: Path) -> list[str]:
    return ["touch", str(path)]


@pytest.mark.parametrize("go", [run, plan])
@pytest.mark.parametrize("until", [None, "teacher"])
def test_a_launcher_of_the_recipe_is_refused_before_it_runs(tmp_path, go, until):
    theirs = recipe(profile(launcher=touching(tmp_path / "made")))
    with pytest.raises(RecipeError, match="a recipe alone never gets") as caught:
        go(theirs, Options(store=tmp_path / "store", until_stage=until))
    assert f"--allow {shlex.quote(f'touch {tmp_path}/made')}" in str(caught.value)
    assert "benchmark.profiles.0.launcher runs a command" in str(caught.value)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())


def test_an_interpreter_of_the_recipe_is_refused_and_the_very_words_allow_it(tmp_path):
    theirs = recipe(profile(python="/tmp/theirs"))
    for allow in ([], ["theirs"], ["/tmp/other"], ["/tmp"]):
        with pytest.raises(RecipeError, match=r"--allow /tmp/theirs"):
            check_allowed(theirs, allow=allow, store=tmp_path)
    check_allowed(theirs, allow=["/tmp/theirs"], store=tmp_path)


def test_words_that_were_allowed_apart_are_not_allowed_together(tmp_path):
    theirs = recipe(profile(launcher=["ssh", "box"], python="/tmp/theirs"))
    with pytest.raises(RecipeError, match="--allow 'ssh box /tmp/theirs'"):
        check_allowed(theirs, allow=["ssh box", "/tmp/theirs"], store=tmp_path)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////{outside}/mlflow.db",
        "sqlite:///mlflow.db",
        "sqlite:////{store}/mlflow.db?uri=true",
        "sqlite:///file:{store}/../mlflow.db",
        "sqlite:////{store}/../outside/mlflow.db",
        "file://{outside}/runs",
        "{outside}/runs",
        "runs",
        "http://127.0.0.1:9",
        "postgresql://host/db",
    ],
)
def test_a_tracking_uri_outside_the_store_is_refused_and_makes_no_file(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    uri = uri.format(outside=tmp_path / "outside", store=tmp_path / "store")
    theirs = recipe(f"tracking.uri={uri}")
    with pytest.raises(RecipeError, match=r"tracking\.uri sends or writes"):
        run(theirs, Options(store=tmp_path / "store"))
    assert not list(tmp_path.iterdir())
    check_allowed(theirs, allow=[uri], store=tmp_path / "store")


def test_a_tracking_uri_in_the_store_needs_no_permission(tmp_path):
    for uri in (f"sqlite:///{tmp_path}/store/other.db", f"{tmp_path}/store/runs"):
        check_allowed(recipe(f"tracking.uri={uri}"), allow=[], store=tmp_path / "store")


def test_a_server_is_allowed_by_its_address_without_its_password(tmp_path):
    theirs = recipe("tracking.uri=http://user:pw-4711@host:5000/?token=tk-4711")
    with pytest.raises(RecipeError, match="--allow http://host:5000/$") as caught:
        check_allowed(theirs, allow=["http://host"], store=tmp_path)
    assert "4711" not in str(caught.value)
    check_allowed(theirs, allow=["http://host:5000/"], store=tmp_path)


@pytest.mark.parametrize("name", ["hf-hub:them/theirs", "local-dir:/tmp/theirs", "them/theirs"])
def test_weights_of_strangers_that_may_be_a_pickle_are_refused_wherever_a_model_stands(tmp_path, name):
    for place in ("student", "teacher.model", "baselines.them.model"):
        theirs = recipe(f"{place}={{timm: {{name: '{name}', pretrained: true}}}}")
        with pytest.raises(RecipeError, match=f"{place}.name reads weights that may be a pickle: {name}"):
            prepare(theirs, Options(store=tmp_path))
    check_allowed(recipe("student={timm: {name: resnet50.a1_in1k}}"), allow=[], store=tmp_path)


def test_everything_is_told_at_once(tmp_path):
    theirs = recipe(profile(launcher=["ssh", "box"]), "tracking.uri=http://host")
    with pytest.raises(RecipeError, match="--allow 'ssh box' --allow http://host"):
        check_allowed(theirs, allow=[], store=tmp_path)


def test_the_command_line_refuses_with_the_code_of_a_recipe_and_allows_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = [sys.executable, "-c", f"open({str(tmp_path / 'made')!r}, 'w')"]
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}benchmark: {{profiles: [{{launcher: {launcher!r}}}]}}\n")
    for command in (["run"], ["plan"], ["check"], ["sweep", "--set", "seed=1,2"]):
        found = CliRunner().invoke(app, [*command, "recipe.yaml", "--store", "store"])
        assert isinstance(found.exception, RecipeError), found.output
        assert not (tmp_path / "made").exists()
    words = shlex.join(launcher)
    found = CliRunner().invoke(app, ["run", "recipe.yaml", "--store", "store", "--allow", words])
    assert isinstance(found.exception, CompressError)  # it is no worker
    assert not isinstance(found.exception, RecipeError)
    assert (tmp_path / "made").exists()


def test_a_sweep_is_refused_before_its_first_variant(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    choices = ["tracking.uri=null,http://host"]
    with pytest.raises(RecipeError, match="--allow http://host"):
        sweep(tmp_path / "recipe.yaml", choices, Options(store=tmp_path / "store"), goal="smallest")
    assert not (tmp_path / "store").exists()
