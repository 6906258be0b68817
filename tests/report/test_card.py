"""The model card of a bundle: what it says is what report and manifest hold, and what nobody stated is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from compress.export.manifest import Bounds, Content, Manifest
from compress.report.card import TO_STATE, card
from compress.report.document import Report
from compress.store.document import load

LABELS = [str(digit) for digit in range(10)]
PREPROCESSING = {"layout": "NCHW", "scale": 1 / 255}


@pytest.fixture(scope="module")
def report() -> Report:
    return load(Report, Path(__file__).parents[1] / "digits_report.json")


@pytest.fixture
def manifest() -> Manifest:
    names = {"int8-x86.onnx": 14, "fp32.onnx": 32, "labels.json": 1}
    return Manifest(
        format_version=1,
        primary="int8-x86.onnx",
        variants={"int8-x86": Bounds("int8-x86.onnx", None, 0.98), "fp32": Bounds("fp32.onnx", 1e-4, 0.98)},
        lineage={},
        signature={
            "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        },
        files={name: Content(f"{size:064x}", size) for name, size in names.items()},
    )


def test_its_head_is_the_metadata_of_a_hub_and_holds_what_was_measured(report, manifest):
    _, head, body = card(report, manifest, labels=LABELS, preprocessing=PREPROCESSING).split("---\n", 2)
    metadata = yaml.safe_load(head)
    (result,) = metadata["model-index"][0]["results"]
    told = {found["type"]: found["value"] for found in result["metrics"]}
    assert told["accuracy"] == round(report.verdict.shipped.accuracy.value, 4)
    assert metadata["license_name"] == "not-stated"
    assert body.lstrip().startswith(f"# {report.recipe}\n")


def test_it_names_files_tensors_hardware_gates_and_what_only_people_know(report, manifest):
    text = card(report, manifest, labels=LABELS, preprocessing=PREPROCESSING)
    assert f"| int8-x86.onnx | 14 | `{14:064x}` |" in text
    assert "labels.json |" not in text
    assert "| input `pixel_values` | float32 | batch x 1 x 8 x 8 |" in text
    assert report.environment.cpu_model in text
    assert f"{100 * report.verdict.shipped.accuracy.value:.2f}" in text
    assert all(gate.gap in text for gate in report.verdict.gates)
    assert text.count(TO_STATE) == 2
    assert "session.x64quantprecision" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in text
    assert "from a larger teacher: `{" in text
    assert 'Ort::Session session(env, ORT_TSTR("int8-x86.onnx"), Ort::SessionOptions());' in text
    assert '  "pixel_values": new ort.Tensor("float32", pixel_values, [1, 1, 8, 8]),' in text


def test_a_float_file_has_no_word_on_saturation_and_many_labels_are_counted(report, manifest):
    labels = [f"class {number}" for number in range(1000)]
    text = card(report, replace(manifest, primary="fp32.onnx"), labels=labels, preprocessing={})
    assert "x64quantprecision" not in text
    assert "class 19 and 980 more" in text


def test_two_graphs_that_write_are_not_told_to_be_one_session(report, manifest):
    program = replace(manifest, primary="int8-x86.json", variants={"int8-x86": Bounds("int8-x86.json", None, 0.98)})
    program = replace(program, files={"int8-x86.json": Content("0" * 64, 1)})
    text = card(report, program, labels=[], preprocessing={})
    assert "decoding.py" in text
    assert "InferenceSession" not in text
    assert 'InferenceSession("int8-x86.onnx")' in card(report, manifest, labels=LABELS, preprocessing={})


def test_without_a_verdict_or_a_race_it_says_so(report, manifest):
    bare = replace(report, verdict=None, benchmark=None)
    text = card(bare, manifest, labels=LABELS, preprocessing={})
    assert "Test was not read." in text
    assert "Nothing was timed." in text
    assert "model-index" not in text
