import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from compress.errors import ModelError, RecipeError, UsageError
from compress.loss import GuidedLoss
from compress.models import Cnn, ResNet
from compress.recipe import Baseline, DataConfig, Gates, Recipe, Teacher
from compress.recipe.recipe import parameters
from compress.recipe.schema import keys_at
from compress.recipe.text import read
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.train import Train
from compress.tasks import Normalize

TEXT = """\
schema: 1
name: digits
data:
  source: digits
  split: {test: 0.2, select: 200}
teacher:
  model: {resnet: {width: 16}}
  train: {epochs: 3, learning_rate: 1e-1}
student:
  cnn: {widths: [16, 32], strides: [1, 2]}
baselines:
  alone: {model: cnn}
stages:
  - distill: {epochs: 4}
  - distill: {name: recover, epochs: 2}
"""


def parse(text: str, *overrides: str) -> Recipe:
    return Recipe.parse(text, origin="r.yaml", directory=Path("/project"), overrides=overrides)


def faults(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    return str(caught.value)


def test_yaml_and_python_objects_are_the_same():
    assert parse(TEXT) == Recipe(
        name="digits",
        data=DataConfig.model_validate({"source": "digits", "split": {"test": 0.2, "select": 200}}),
        teacher=Teacher(model=ResNet(width=16), train=Train(epochs=3, learning_rate=0.1)),
        student=Cnn(widths=(16, 32), strides=(1, 2)),
        baselines={"alone": Baseline(model=Cnn())},
        stages=(Distill(epochs=4), Distill(name="recover", epochs=2)),
    )


@pytest.mark.parametrize("student", ["teacher", "mlp", "{resnet: {width: 8}}", "{timm: {name: resnet18}}"])
def test_a_recipe_survives_writing_and_reading(student):
    text = TEXT.replace("cnn: {widths: [16, 32], strides: [1, 2]}", student)
    recipe = parse(text, "loss.kl.temperature=2.5", "teacher.weights=w.safetensors", "data.normalize=identity")
    assert parse(recipe.to_yaml()) == recipe


def test_the_normalisation_of_given_weights_is_stated_with_the_data():
    text = TEXT.replace("  source: digits\n", "  source: digits\n  normalize: {mean: [0.5], std: [0.25]}\n")
    recipe = parse(text)
    assert recipe.data.normalize == Normalize(mean=(0.5,), std=(0.25,))
    assert parse(recipe.to_yaml()) == recipe
    assert "r.yaml:5:34: data.normalize.std.0" in faults(text.replace("0.25", "0"))
    assert parse(TEXT, "data.normalize=identity").data.normalize == "identity"
    assert "did you mean 'identity'?" in faults(TEXT, "data.normalize=identiy")


@pytest.mark.parametrize("where", ["teacher", "ensemble.other.teacher"])
def test_given_weights_whose_input_formula_is_not_stated_are_refused(where):
    text = TEXT + "ensemble:\n  other: {teacher: {model: cnn, train: {epochs: 1}}}\n"
    message = faults(text, f"{where}.weights=w.pt")
    assert "r.yaml:3:1: data: the input formula of the given weights is not stated" in message
    assert "data.normalize: identity" in message
    parse(text, f"{where}.weights=w.pt", "data.normalize=identity")
    parse(text, f"{where}.weights=w.pt", "data.source={table: {path: texts.csv, text: text, label: label}}")


def test_models_that_bring_their_weights_may_state_it_in_their_own_configuration():
    text = TEXT.replace("model: {resnet: {width: 16}}", "model: {huggingface: {path: nobody/vit}}")
    assert parse(text).teacher.is_given
    assert parse(text.replace("nobody/vit", "nobody/vit, pretrained: false")).teacher.is_given is False
    assert "is not stated" in faults(text.replace("  train: {epochs: 3, learning_rate: 1e-1}", "  weights: w.pt"))


def test_the_word_teacher_is_a_student():
    assert parse(TEXT.replace("\n  cnn: {widths: [16, 32], strides: [1, 2]}", " teacher")).student == "teacher"


def test_relative_paths_start_from_the_recipe():
    recipe = parse(
        TEXT.replace("source: digits", "source: {idx: {directory: images}}\n  normalize: identity"),
        "teacher.weights=/w.pt",
    )
    assert recipe.data.source.directory == Path("/project/images")
    assert recipe.teacher.weights == Path("/w.pt")


def test_all_faults_are_told_at_once_in_the_order_of_the_file():
    text = (
        TEXT.replace("name: digits", "nam: digits")
        .replace("source: digits", "source: digit")
        .replace("width: 16", "widht: 16")
        .replace("epochs: 3", "epochs: three")
        .replace("name: recover, ", "")
        + "gates: {min_speedup: 2}\nbenchmark: {preset: fast}\n"
    )
    lines = faults(text).splitlines()[1:]
    expected = [
        ("r.yaml:1:1: ", "the key 'name' is missing"),
        ("r.yaml:2:1: nam: ", "did you mean 'name'?"),
        ("r.yaml:4:3: data.source: ", "got 'digit'; did you mean 'digits'?"),
        ("r.yaml:7:20: teacher.model.resnet.widht: ", "did you mean 'width'?"),
        ("r.yaml:8:11: teacher.train.epochs: ", "expected a valid integer; got 'three'"),
        ("r.yaml:15:5: stages.distill: ", "named 'distill' already"),
        ("r.yaml:16:1: gates: ", "end with `- export`"),
        ("r.yaml:17:13: benchmark.preset: ", "expected one of smoke, quick, standard, strict; got 'fast'"),
    ]
    assert len(lines) == len(expected)
    for line, (place, words) in zip(lines, expected, strict=True):
        assert line.strip().startswith(place)
        assert words in line


def test_an_unknown_stage_names_the_nearest():
    message = faults(TEXT.replace("- distill: {epochs: 4}", "- distil"))
    assert "r.yaml:14:5: stages.distil: unknown choice" in message
    assert "did you mean 'distill'?" in message


def test_a_value_read_as_another_type_is_refused():
    message = faults(TEXT.replace("epochs: 4", "epochs: '4'").replace("epochs: 2", "epochs: true"))
    assert "r.yaml:14:15: stages.distill.epochs: wrong value; expected a value of type int; got '4'" in message
    assert "stages.recover.epochs: wrong value; expected a value of type int; got True" in message


def test_a_key_that_stands_twice_is_refused():
    assert "r.yaml:16:1: name: the key stands here twice" in faults(TEXT + "name: again\n")


def test_names_that_collide_are_refused():
    assert "another row" in faults(TEXT, "stages.recover.name=alone")
    assert "another row" in faults(TEXT, "stages.recover.name=teacher")
    assert "lower-case" in faults(TEXT, "stages.recover.name=Re.cover")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            "[export: {variants: [int8-x86]}]",
            "stages.export: 'export' cannot follow 'student': it takes a quantized model",
        ),
        ("[export: {primary: int8-x86}]", "it takes a quantized model, and that leaves a float model"),
        ("[quantize, export: {variants: [fp32]}]", "it takes a float model, and that leaves a quantized model"),
        ("[quantize, prune: {kept_macs_fraction: 0.5}]", "it takes a float model, and that leaves a quantized model"),
        ("[export, distill]", "'distill' cannot follow 'export': it takes a float model, and that leaves a bundle"),
        # A fault elsewhere does not hide the chain's.
        ("[export: {variants: [int8-x86]}, distill: {name: d, epochs: x}]", "it takes a quantized model"),
    ],
)
def test_a_chain_whose_stages_do_not_fit_is_refused_at_its_place(stages, message):
    told = faults(TEXT[: TEXT.index("stages:")] + f"stages: {stages}\n")
    assert message in told
    assert "r.yaml:13:" in told


@pytest.mark.parametrize("export", ["export", "export: {variants: [int8-x86, fp32]}", "export: {primary: fp32}"])
def test_a_chain_whose_stages_fit_is_taken(export):
    assert len(parse(TEXT[: TEXT.index("stages:")] + f"stages: [quantize, {export}]\n").stages) == 2


def test_a_chain_is_checked_in_python_too():
    source = DataConfig.model_validate({"source": "digits"})
    with pytest.raises(ValueError, match="named 'distill' already"):
        Recipe(name="r", data=source, teacher=Teacher(artifact=Path("t")), student="teacher", stages=(Distill(),) * 2)
    int8 = (Export(variants=("int8-x86",)),)
    with pytest.raises(ValueError, match="it takes a quantized model"):
        Recipe(name="r", data=source, teacher=Teacher(artifact=Path("t")), student="teacher", stages=int8)


def test_a_newer_schema_is_told_alone():
    message = faults(TEXT.replace("schema: 1", "schema: 2") + "unknown: 1\n")
    assert "newer compress" in message
    assert "r.yaml:1:1" in message
    assert "unknown" not in message


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in pairwise("abcdefg")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "no valid YAML"),
        ("a: *b", "no valid YAML"),
        ("- 1", "no mapping"),
        ("", "no mapping"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed",
        ),
        ("a: " + "[" * 2000, "nested too deeply"),
        ("a: " + "x" * 300_000, "too large"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: 1:30", "reads 1:30 in base 60"),
        ("a: " + "9" * 5000, "at most 300 figures, not 5,000"),
        (BOMB, "expand to too much"),
    ],
)
def test_text_that_is_no_safe_yaml_is_refused(text, message):
    assert message in faults(text)


def test_aliases_within_reason_are_read():
    text = TEXT.replace("{epochs: 3, learning_rate: 1e-1}", "&train {epochs: 3}") + ""
    assert (
        parse(text.replace("alone: {model: cnn}", "alone: {model: cnn, train: *train}")).baselines["alone"].train.epochs
        == 3
    )


def test_overrides_address_stages_by_name():
    recipe = parse(
        TEXT, "stages.recover.epochs=7", "student.cnn.kernel=5", "baselines.alone.model.cnn.kernel=1", "seed=3"
    )
    assert [stage.model_dump()["epochs"] for stage in recipe.stages] == [4, 7]
    assert isinstance(recipe.student, Cnn)
    assert recipe.student.kernel == 5
    assert recipe.seed == 3
    assert recipe.parameters()["stages.recover.epochs"] == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.recovr.epochs=3", "unknown stage 'recovr'; expected one of distill, recover; did you mean 'recover'?"),
        ("loss.kl.temprature=2", "--set loss.kl.temprature=2: loss.kl.temprature: unknown key"),
        ("seed.x=2", "--set seed.x=2: seed: wrong value"),
        ("name.x=2", "it is no mapping"),
        ("stages.recover=2", "field by field"),
        ("stages.distill.epochs=many", "expected a valid integer; got 'many'"),
    ],
)
def test_a_wrong_override_is_told_by_its_own_words(override, message):
    assert message in faults(TEXT, override)


@pytest.mark.parametrize("override", ["seed", "=3", "seed=[1"])
def test_an_override_that_is_none_is_a_usage_error(override):
    with pytest.raises(UsageError):
        parse(TEXT, override)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "teacher",
    ["{model: cnn}", "{artifact: a, model: cnn}", "{artifact: a, weights: w.pt}", "{train: {epochs: 1}}"],
)
def test_a_teacher_comes_from_one_place(teacher):
    text = TEXT.replace("\n  model: {resnet: {width: 16}}\n  train: {epochs: 3, learning_rate: 1e-1}", f" {teacher}")
    assert "r.yaml:6:1: teacher: " in faults(text)


def test_a_teacher_below_its_expected_accuracy_is_refused():
    teacher = Teacher(model=Cnn(), weights=Path("w.pt"), expected_accuracy=0.9)
    teacher.check(0.885)
    with pytest.raises(ModelError, match="worse than expected"):
        teacher.check(0.5)


def test_a_smoke_copy_trains_little_and_judges_nothing():
    smoke = parse(TEXT, "benchmark.preset=strict").model_copy(update={"gates": Gates(min_speedup=3)}).smoke()
    assert [stage.model_dump()["epochs"] for stage in smoke.stages] == [1, 1]
    assert smoke.teacher.train is not None
    assert smoke.teacher.train.epochs == 1
    assert smoke.benchmark.preset == "smoke"
    assert len(smoke.benchmark.list_profiles()) == 1
    assert not smoke.gates.judged


def test_the_primary_profile_is_measured_first():
    recipe = parse(TEXT + "benchmark: {primary: ort-cpu-b8-t1, profiles: [{}, {batch_size: 8}]}\n")
    assert [profile.name for profile in recipe.benchmark.list_profiles()] == ["ort-cpu-b8-t1", "ort-cpu-b1-t1"]
    assert "primary names no profile" in faults(TEXT + "benchmark: {primary: gpu, profiles: [{}]}\n")
    assert "unknown runtime" in faults(TEXT + "benchmark: {profiles: [{runtime: gpu}]}\n")


def test_the_primary_profile_runs_the_exported_files():
    torch_only = TEXT + "benchmark: {profiles: [{runtime: torch-cpu}, {}]}\n"
    told = faults(torch_only)
    assert "expected one on ort-cpu, ort-cuda, ort-tensorrt, ort-webgpu, openvino, got 'torch-cpu-b1-t1'" in told
    assert "r.yaml:16:1: benchmark" in told
    assert parse(torch_only, "benchmark.primary=ort-cpu-b1-t1").benchmark.list_profiles()[0].name == "ort-cpu-b1-t1"


def test_profiles_span_runtimes_scenarios_and_machines():
    profiles = """
  - {}
  - {runtime: openvino, scenario: offline, batch_size: 32}
  - {scenario: server, arrivals_per_s: 50}
  - {runtime: ort-cuda, python: /opt/gpu/bin/python}
  - {launcher: [ssh, edge-box]}
"""
    recipe = parse(TEXT + "benchmark:\n  profiles:" + profiles.replace("\n", "\n  "))
    assert [profile.name for profile in recipe.benchmark.list_profiles()] == [
        "ort-cpu-b1-t1",
        "openvino-b32-t1-offline",
        "ort-cpu-b1-t1-server50",
        "ort-cuda-b1-t1@gpu",
        "ort-cpu-b1-t1@edge-box",
    ]
    assert "arrivals_per_s" in faults(TEXT + "benchmark: {profiles: [{scenario: server}]}\n")
    twice = "benchmark: {profiles: [{python: /a/gpu/bin/python}, {python: /b/gpu/bin/python}]}\n"
    assert "two profiles are called ort-cpu-b1-t1@gpu" in faults(TEXT + twice)


def test_a_profile_that_is_asked_for_twice_is_measured_once():
    recipe = parse(TEXT + "benchmark: {profiles: [{}, {threads: 1}, {batch_size: 8}]}\n")
    assert [profile.name for profile in recipe.benchmark.list_profiles()] == ["ort-cpu-b1-t1", "ort-cpu-b8-t1"]


def test_an_unknown_stage_name_is_a_usage_error():
    assert parse(TEXT).stage_index("recover", option="--from") == 1
    with pytest.raises(UsageError, match="did you mean recover"):
        parse(TEXT).stage_index("recver", option="--from")


def test_the_schema_describes_the_yaml_form():
    schema = Recipe.json_schema()
    json.dumps(schema)
    assert keys_at(schema, ("benchmark",)) == ["preset", "price_per_hour", "primary", "profiles"]
    assert keys_at(schema, ("student", "resnet")) == ["blocks", "stem_stride", "width"]
    assert "epochs" in keys_at(schema, ("stages", 0, "distill"))
    assert keys_at(schema, ("stages", 0, "distill", "loss")) == sorted(GuidedLoss.model_fields)
    assert {"digits", "idx"} <= set(keys_at(schema, ("data", "source")))
    assert "verb" not in keys_at(schema, ("teacher", "train"))
    sources = schema["$defs"]["DataConfig"]["properties"]["source"]["anyOf"]
    assert {"enum": ["digits", "image-table", "numpy", "table", "tar"]} in sources
    assert schema["$defs"]["Distill"]["properties"]["epochs"]["maximum"] == 10_000


@pytest.mark.parametrize(
    ("export", "variant", "words"),
    [
        ("export: {variants: [fp32]}", "int8-x86", "no stage exports int8-x86"),
        ("export: {variants: [fp32]}", "fp32", "fp32 is the primary variant"),
        ("export: {variants: [fp32]}", "fp64", "gates.variants.fp64"),
        ("export: {variants: [fp32, fp16-gpu], primary: auto}", "fp32", "primary: auto leaves open which file"),
    ],
)
def test_gates_of_a_variant_that_is_not_shipped_beside_the_primary_are_told(export, variant, words):
    text = TEXT + f"  - {export}\n"
    assert words in faults(text, f"gates.variants={{{variant}: {{max_size_mb: 1}}}}")


def test_a_limit_of_latency_names_a_profile_that_times_files():
    text = TEXT + "  - export\nbenchmark: {profiles: [{}, {runtime: torch-cpu}]}\n"
    for name in ("torch-cpu-b1-t1", "ort-cpu-b2-t1"):
        found = faults(text, f"gates.max_latency_ms={{{name}: 1}}")
        assert f"gates.max_latency_ms.{name}" in found
        assert "expected one of ort-cpu-b1-t1" in found
    assert parse(text, "gates.max_latency_ms={ort-cpu-b1-t1: 1}").gates.judged
    assert parse(text, "gates.max_latency_ms.ort-cpu-b1-t1=1").gates.max_latency_ms == {"ort-cpu-b1-t1": 1}


def test_a_long_list_is_one_parameter():
    values = {"arguments": {"weights": list(range(3000)), "few": [1, 2]}}
    assert parameters(values) == {"arguments.weights": list(range(3000)), "arguments.few.0": 1, "arguments.few.1": 2}


@pytest.mark.parametrize("number", ["010", "-07", "0_12"])
def test_a_number_that_yaml_reads_in_base_8_is_refused(number):
    document = read(f"seed: {number}", origin="recipe.yaml")
    assert [str(fault) for fault in document.faults if f"YAML reads {number} in base 8" in str(fault)]
    assert not read("seed: 0\nother: 0.5\nname: '010'\n", origin="recipe.yaml").faults


def test_keys_that_came_later_are_left_out_where_they_say_nothing():
    plain = Recipe.parse(TEXT, origin="recipe.yaml", directory=Path())
    assert not {"quote", "price_per_hour"} & {*plain.model_dump()["data"], *plain.model_dump()["benchmark"]}
    told = [*parameters(yaml.safe_load(plain.to_yaml()))]
    assert not [path for path in told if path.rpartition(".")[2] in ("quote", "price_per_hour")]
    changed = Recipe.parse(
        TEXT, origin="recipe.yaml", directory=Path(), overrides=["data.quote=false", "benchmark.price_per_hour=0.2"]
    )
    again = Recipe.parse(changed.to_yaml(), origin="recipe.yaml", directory=Path())
    assert (again.data.quote, again.benchmark.price_per_hour) == (False, 0.2)
    assert again.sha256 == plain.sha256  # the same results
    assert again.report_identity != plain.report_identity  # told otherwise


def test_a_list_with_nothing_valid_in_it_is_not_called_short_beside_that():
    def told(stages: str) -> list[str]:
        text = f"{TEXT.partition('stages:')[0]}stages: {stages}\n"
        with pytest.raises(RecipeError) as caught:
            Recipe.parse(text, origin="recipe.yaml", directory=Path())
        return str(caught.value).splitlines()[1:]

    (unknown,) = told("[{sweeep: {epochs: 1}}]")
    assert "stages.sweeep: unknown choice; expected one of distill, export" in unknown
    (short,) = told("[]")
    assert short.endswith("stages: too few entries; expected at least 1; got []")
    (scalar,) = told("5")
    assert scalar.endswith("stages: wrong value; expected a list; got 5")
