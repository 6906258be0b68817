"""Stages of the user's own file, and objects of their classes, in a recipe."""

import shutil
from pathlib import Path

import pytest

from compress import Digits, Distill, Recipe, Stage
from compress.errors import CompressError, RecipeError
from compress.recipe.schema import keys_at

STAGES = """
from typing import Annotated

import torch
from pydantic import Field

from compress import Stage, load_model, load_structure


class AddNoise(Stage):
    scale: Annotated[float, Field(gt=0, le=1)] = 0.01

    def run(self, source, work, host):
        structure, module = load_structure(source.path), load_model(source.path, code=host.code)
        generator = torch.Generator().manual_seed(self.seed(source, work, host))
        with torch.no_grad():
            for value in module.parameters():
                value += self.scale * torch.randn(value.shape, generator=generator)
        return self.commit(module, source, work, host, model=structure.model, signature=structure.signature, facts={})


class OfQuantized(AddNoise):
    consumes = frozenset({"quantized"})
"""
ADD = "add-noise: {file: my_stage.py, class: AddNoise, scale: 0.02, name: noisy}"
TEXT = f"""\
schema: 1
name: own
data: {{source: digits}}
teacher: {{model: cnn, train: {{epochs: 1}}}}
student: cnn
stages:
  - distill: {{epochs: 1}}
  - {ADD}
  - distill: {{epochs: 1, name: again}}
"""


class Nothing(Stage):
    """A stage in Python that a recipe never named."""

    size: int = 3

    def run(self, source, work, host):
        raise NotImplementedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "my_stage.py").write_text(STAGES)
    return tmp_path / "my_stage.py"


def parse(directory: Path, *overrides: str, text: str = TEXT) -> Recipe:
    return Recipe.parse(text, origin="r.yaml", directory=directory, overrides=overrides)


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(CompressError) as caught:
        parse(file.parent, *overrides).resolve(code=[file])
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_stage_of_ones_own_is_read_without_its_file(tmp_path):
    recipe = parse(tmp_path, "stages.noisy.scale=0.3")
    assert [stage.title for stage in recipe.stages] == ["distill", "noisy", "again"]
    assert recipe.stage_index("noisy", option="--from") == 1
    assert recipe.parameters()["stages.noisy.scale"] == 0.3
    assert parse(Path("/elsewhere"), text=recipe.to_yaml()) == recipe
    unnamed = parse(tmp_path, text=TEXT.replace(", name: noisy", ""))
    assert unnamed.stages[1].title == "add-noise"


def test_its_object_stands_in_its_place_and_reads_back(file):
    recipe = parse(file.parent).resolve(code=[file])
    noisy = recipe.stages[1]
    assert (type(noisy).__name__, noisy.verb, noisy.name, noisy.scale) == ("AddNoise", "add-noise", "noisy", 0.02)
    assert parse(Path("/elsewhere"), text=recipe.to_yaml()).resolve(code=[file]) == recipe
    assert recipe.smoke().stages[1] == noisy


def test_an_object_in_python_is_written_so_that_it_reads_back():
    there = parse(Path("/x"), text=TEXT.replace(f"  - {ADD}\n", ""))
    stages = (Distill(epochs=1), Nothing(name="idle", size=4))
    recipe = Recipe(name="own", data={"source": Digits()}, teacher=there.teacher, student=there.student, stages=stages)
    assert recipe.stages[1].title == "idle"
    again = parse(Path("/x"), text=recipe.to_yaml())
    assert again.stages[1].file == Path(__file__)
    code = [Path(__file__)]
    assert again.resolve(code=code).stages[1].model_dump() == recipe.stages[1].model_dump()
    assert again.resolve(code=code).model_dump(mode="json") == recipe.model_dump(mode="json")
    with pytest.raises(ValueError, match="a name is lower-case letters"):
        Recipe(name="own", data={"source": Digits()}, teacher=there.teacher, student=there.student, stages=(Nothing(),))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.noisy.scal=1", ["class AddNoise: stages.noisy.scal: unknown key", "did you mean 'scale'?"]),
        ("stages.noisy.scale=2", ["stages.noisy.scale: wrong value", "less than or equal to 1"]),
        ('stages.noisy.scale="1"', ["stages.noisy.scale: wrong value; expected a value of type float; got '1'"]),
        ("stages.noisy.class=Noise", ["no subclass of compress.Stage called 'Noise'", "AddNoise", "stages.noisy, "]),
        ("stages.noisy.class=OfQuantized", ["'noisy' cannot follow 'distill': it takes a quantized model"]),
    ],
)
def test_what_a_stage_does_not_take_is_told_when_its_file_is_run(file, override, words):
    told = refusal(file, override)
    for word in words:
        assert word in told


def test_a_verb_of_ours_takes_no_file_and_an_unknown_one_needs_it(tmp_path):
    with pytest.raises(RecipeError, match=r"distill\.file: unknown key; expected one of accumulate"):
        parse(tmp_path, "stages.distill.file=my_stage.py")
    with pytest.raises(RecipeError, match=r"unknown choice; expected one of distill.*did you mean 'prune'"):
        parse(tmp_path, text=TEXT.replace(ADD, "prun"))
    with pytest.raises(RecipeError, match="the key 'class' is missing"):
        parse(tmp_path, text=TEXT.replace("class: AddNoise, ", ""))


def test_its_key_depends_on_content_class_and_fields_and_not_on_names_and_paths(file, make_context):
    def key(path, *overrides):
        recipe = parse(path.parent, f"stages.noisy.file={path.name}", *overrides).resolve(code=[path])
        return recipe.stages[1].key(None, *make_context())

    first = key(file)
    assert key(file, "stages.noisy.name=other") == first
    (file.parent / "moved").mkdir()
    assert key(Path(shutil.copy(file, file.parent / "moved" / "other.py"))) == first
    assert key(file, "stages.noisy.scale=0.03") != first
    file.write_text(STAGES + "# edited\n")
    assert key(file) != first


def test_the_schema_has_a_place_for_stages_of_ones_own():
    schema = Recipe.json_schema()
    assert keys_at(schema, ("stages", 0, "add-noise")) == ["class", "file", "name"]
    assert "file" not in keys_at(schema, ("stages", 0, "distill"))
