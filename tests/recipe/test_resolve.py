"""Classes and functions of the user's own file in a recipe: read without running it, resolved where it is named."""

import shutil
from pathlib import Path

import pytest

from compress.errors import CompressError, InputError, RecipeError
from compress.recipe import Recipe
from compress.recipe.schema import keys_at

TERMS = """
from __future__ import annotations

import torch

from compress import FeatureTerm, LogitTerm, Schedule, stage_pairs


class Margin(LogitTerm):
    margin: float = 0.2
    sizes: tuple[int, ...] = (1, 2)

    def value(self, student, targets):
        return torch.relu(self.margin - student.float().amax(dim=1))


class Gap(FeatureTerm):
    def automatic(self, student, teacher):
        return stage_pairs(student, teacher)[-1:]

    def value(self, compared, *, mask):
        ours, theirs = compared[0].resize()
        return (ours - theirs).abs().flatten(1).mean(dim=1)


class Unfinished(LogitTerm):
    pass


class Other:
    pass
"""
TEXT = """\
schema: 1
name: own
data: {source: digits}
teacher: {model: cnn, train: {epochs: 1}}
student: cnn
loss: {preset: hinton, mine: {file: my_loss.py, class: Margin, weight: 0.5}}
stages:
  - distill: {epochs: 1}
  - distill:
      name: again
      epochs: 1
      loss: {gap: {file: my_loss.py, class: Gap}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "my_loss.py").write_text(TERMS)
    return tmp_path / "my_loss.py"


def parse(directory: Path, *overrides: str, text: str = TEXT) -> Recipe:
    return Recipe.parse(text, origin="r.yaml", directory=directory, overrides=overrides)


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(CompressError) as caught:
        parse(file.parent, *overrides).resolve(code=[file])
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_reading_a_recipe_runs_no_code(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "my_loss.py").write_text(TERMS + f"\nopen({str(marker)!r}, 'w').close()\n")
    recipe = parse(tmp_path, "loss.mine.margin=0.3")
    Recipe.parse(recipe.to_yaml(), origin="r.yaml", directory=tmp_path)
    Recipe.json_schema()
    assert recipe.parameters()["loss.mine.margin"] == 0.3
    assert recipe.smoke().model_dump(mode="json")["loss"]["mine"]["margin"] == 0.3
    with pytest.raises(InputError, match="a recipe alone never runs"):
        recipe.resolve(code=[])
    assert not marker.exists()
    recipe.resolve(code=[tmp_path / "my_loss.py"])
    assert marker.exists()


def test_a_class_stands_where_it_was_named_with_its_fields(file):
    recipe = parse(file.parent, "loss.mine.margin=3", "stages.again.loss.gap.weight=7").resolve(code=[file])
    mine, gap = recipe.loss.terms["mine"], recipe.stages[1].loss.terms["gap"]
    assert (type(mine).__name__, mine.weight, mine.margin) == ("Margin", 0.5, 3)
    assert (type(gap).__name__, gap.weight, gap.pairs) == ("Gap", 7, "auto")
    assert set(recipe.loss.terms) == {"hard", "kl", "mine"}


def test_what_is_written_reads_back(file):
    recipe = parse(file.parent)
    elsewhere = Path("/elsewhere")
    assert parse(elsewhere, text=recipe.to_yaml()) == recipe
    resolved = recipe.resolve(code=[file])
    assert resolved.resolve(code=[]) is resolved
    again = parse(elsewhere, text=resolved.to_yaml())
    assert again.resolve(code=[file]) == resolved
    assert "margin: 0.2" in resolved.to_yaml()


def test_a_recipe_without_own_parts_is_left_as_it_is(tmp_path):
    recipe = parse(tmp_path, "loss=hinton", "stages.again.loss=null")
    assert recipe.resolve(code=[]) is recipe


def test_the_fingerprint_depends_on_the_content_and_not_on_the_path(file, tmp_path):
    here = parse(tmp_path).resolve(code=[file]).loss.fingerprint
    (tmp_path / "moved").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "moved" / "other_name.py"))
    there = parse(moved.parent, "loss.mine.file=other_name.py", "stages.again.loss=null").resolve(code=[moved])
    assert there.loss.fingerprint == here
    file.write_text(TERMS + "\n# edited\n")
    edited = parse(tmp_path).resolve(code=[file])
    assert edited.loss.fingerprint != here
    assert parse(tmp_path).model_dump(mode="json") != there.model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.mine.margn=0.3", ["my_loss.py, class Margin", "loss.mine.margn: unknown key", "did you mean 'margin'?"]),
        ("loss.mine.margin=much", ["class Margin: loss.mine.margin: wrong value; expected a valid number; got 'much'"]),
        ('loss.mine.margin="3"', ["loss.mine.margin: wrong value; expected a value of type float; got '3'"]),
        ("loss.mine.sizes=[1, true]", ["loss.mine.sizes.1: wrong value; expected a value of type int; got True"]),
        ("loss.mine.weight=-1", ["loss.mine.weight: wrong value", "greater than 0"]),
        ("loss.mine.schedule.warmup=0.1", ["loss.mine.schedule.warmup: unknown key", "'warmup_fraction'"]),
        ("loss.mine.class=Margn", ["called 'Margn'", "Gap, Margin", "loss.mine, ", "did you mean 'Margin'?"]),
        ("loss.mine.class=Other", ["no subclass of compress.LogitTerm or compress.FeatureTerm", "Other"]),
        ("loss.mine.class=Unfinished", ["Unfinished of my_loss.py is not complete", "it to define value"]),
        ("loss.mine.file=none.py", ["add --code", "none.py"]),
        ("stages.again.loss.gap.tap=x", ["class Gap: stages.again.loss.gap.tap: unknown key"]),
    ],
)
def test_what_a_class_does_not_take_is_told_with_file_class_and_field(file, override, words):
    told = refusal(file, override)
    for word in words:
        assert word in told


def test_the_whole_is_checked_anew_with_what_was_made(file):
    told = refusal(file, "loss={mine: {file: my_loss.py, class: Margin, schedule: {end_fraction: 0.5}}}")
    assert "loss: no term counts after 0.5" in told


def test_a_file_that_fails_is_told_with_its_line(file):
    file.write_text("import torch\n\ndef broken(:\n")
    assert f"{file}:3" in refusal(file)
    file.write_text("import torch\n\nx = 1 / 0\n")
    assert f"{file}:3" in refusal(file)
    assert "ZeroDivisionError" in refusal(file)


def test_unknown_keys_of_the_loss_are_refused_as_ever(file):
    with pytest.raises(RecipeError, match=r"loss\.kll: unknown key; .*did you mean 'kl'"):
        parse(file.parent, "loss.kll={}")
    with pytest.raises(RecipeError, match=r"loss\.kl\.file: unknown key"):
        parse(file.parent, "loss.kl.file=my_loss.py")
    with pytest.raises(RecipeError, match=r"the key 'class' is missing"):
        parse(file.parent, "loss.mine={file: my_loss.py}")


def test_a_stage_is_told_what_it_cannot_do_when_the_terms_are_known(file):
    recipe = parse(file.parent, "stages.again.loss=null", "stages.distill.accumulate=2")
    assert recipe.misfits() == []
    file.write_text(
        TERMS.replace("    margin: float", '    kind = "coupled"\n    margin: float')
        .replace("import torch\n", "import torch\nfrom typing import ClassVar\n")
        .replace("    kind =", "    kind: ClassVar[str] =")
    )
    assert [index for index, _ in recipe.resolve(code=[file]).misfits()] == [0]


MEASURES = """
from compress import shares


def decided(outputs, labels):
    return shares(outputs.argmax(axis=1) == labels)


size = 3
"""


def judged(file: Path, *overrides: str) -> Recipe:
    path = file.parent / "my_measure.py"
    path.write_text(MEASURES)
    measure = "data.judge.measure={file: my_measure.py, function: decided}"
    return parse(file.parent, "loss=hinton", "stages.again.loss=null", measure, *overrides)


def test_a_function_stands_where_it_was_named_and_reads_back(file):
    recipe = judged(file)
    code = [file.parent / "my_measure.py"]
    resolved = recipe.resolve(code=code)
    assert resolved.data.judge.measure.__name__ == "decided"
    assert parse(Path("/elsewhere"), text=recipe.to_yaml()) == recipe
    assert resolved.to_yaml() == recipe.to_yaml()
    assert parse(Path("/elsewhere"), text=resolved.to_yaml()).resolve(code=code) == resolved
    assert resolved.model_dump(mode="json") == recipe.model_dump(mode="json")


@pytest.mark.parametrize(
    ("function", "words"),
    [("decide", ["no 'decide'", "did you mean 'decided'?"]), ("size", ["size of my_measure.py is no function"])],
)
def test_a_function_that_is_none_is_told(file, function, words):
    with pytest.raises(InputError) as caught:
        judged(file, f"data.judge.measure.function={function}").resolve(code=[file.parent / "my_measure.py"])
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_name_of_a_measure_is_told_as_ever(file):
    with pytest.raises(RecipeError, match=r"(?s)data\.judge\.measure: unknown choice.*did you mean 'accuracy'"):
        parse(file.parent, "data.judge.measure=acuracy")
    with pytest.raises(RecipeError, match=r"data\.judge\.measure\.functoin: unknown key.*did you mean 'function'"):
        parse(file.parent, "data.judge.measure={file: my_measure.py, function: decided, functoin: x}")


def test_the_schema_has_a_place_for_terms_of_ones_own():
    schema = Recipe.json_schema()
    loss = schema["$defs"]["GuidedLoss"]["anyOf"][0]
    assert loss["additionalProperties"] == {"$ref": "#/$defs/OwnTerm"}
    assert keys_at(schema, ("loss", "anything")) == ["class", "file"]
    assert keys_at(schema, ("data", "judge", "measure")) == ["file", "function"]


SOURCE = """
import numpy as np

from compress import Raw, Samples, Source


class Noise(Source):
    count: int = 300
    folder: "Path | None" = None

    def load(self, *, code):
        images = np.random.default_rng(0).integers(0, 256, (self.count, 1, 4, 4), dtype=np.uint8)
        return Raw({"train": Samples(images, np.arange(self.count) % 2)}, ("even", "odd"))
""".replace("import numpy as np", "from pathlib import Path\n\nimport numpy as np")


def sourced(file: Path, *overrides: str) -> Recipe:
    (file.parent / "my_source.py").write_text(SOURCE)
    source = "data.source={file: my_source.py, class: Noise, count: 400}"
    return parse(file.parent, "loss=hinton", "stages.again.loss=null", source, *overrides)


def test_a_source_stands_where_it_was_named_and_reads_back(file):
    recipe = sourced(file, "data.source.folder=images")
    with pytest.raises(InputError, match="was not run"):
        recipe.data.load()
    code = [file.parent / "my_source.py"]
    resolved = recipe.resolve(code=code)
    assert len(resolved.data.load().train) == 260
    assert resolved.data.source.folder == file.parent / "images"
    assert resolved.data.source.title == "images"
    assert sourced(file).resolve(code=code).data.source.title == "Noise"
    assert parse(Path("/elsewhere"), text=recipe.to_yaml()) == recipe
    assert parse(Path("/elsewhere"), text=resolved.to_yaml()).resolve(code=code) == resolved
    assert resolved.model_dump(mode="json")["data"]["source"]["class"].startswith("Noise ")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.source.cont=3", "data.source.cont: unknown key; .*did you mean 'count'"),
        ("data.source.class=Nois", "no subclass of compress.Source called 'Nois'"),
        ("data.source.count=many", "class Noise: data.source.count: wrong value"),
    ],
)
def test_what_a_source_does_not_take_is_told(file, override, words):
    with pytest.raises(CompressError, match=words):
        sourced(file, override).resolve(code=[file.parent / "my_source.py"])


def test_sources_of_ours_are_read_as_ever(file):
    named = parse(file.parent, "loss=hinton", "data.source={file: {path: my_data.py, factory: load}}")
    assert type(named.data.source).__name__ == "File"
    with pytest.raises(RecipeError, match=r"data\.source: unknown choice.*did you mean 'digits'"):
        parse(file.parent, "data.source=digit")
    with pytest.raises(RecipeError, match=r"the key 'class' is missing"):
        parse(file.parent, "data.source={file: my_source.py}")


def test_a_runtime_of_ones_own_must_be_named_too(file):
    profiles = "benchmark.profiles=[{runtime: {file: my_runtime.py, class: Mine}}]"
    recipe = parse(file.parent, "loss=hinton", "stages.again.loss=null", profiles)
    (file.parent / "my_runtime.py").write_text("raise RuntimeError\n")  # it is not run here
    with pytest.raises(InputError, match="a recipe alone never runs"):
        recipe.resolve(code=[])
    resolved = recipe.resolve(code=[file.parent / "my_runtime.py"])
    assert resolved == recipe
    assert parse(Path("/elsewhere"), text=resolved.to_yaml()) == recipe
