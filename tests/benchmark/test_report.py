import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from compress.benchmark import report, units
from compress.benchmark.compare import Comparison, Preset, compare
from compress.benchmark.measure import Profile
from compress.benchmark.report import Entry
from compress.errors import ArtifactError, InputError
from compress.tasks.measure import shares

TINY = Preset(name="tiny", rounds=4, block_ms=2.0, warm_up_limit_ms=10.0)
STUDENT = "a student with a long name"


@pytest.fixture(scope="module")
def document(large: Path, small: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    broken = tmp_path_factory.mktemp("broken") / "broken.onnx"
    broken.write_bytes(b"not a model")
    models = {"teacher": large, STUDENT: small, "broken": broken}
    comparisons: list[Comparison] = [
        compare(models, reference="teacher", inputs=samples, profile=profile, preset=TINY)
        for profile in (Profile(), Profile(batch_size=8))
    ]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    teacher = np.where(rng.random(400) < 0.95, labels, (labels + 1) % 10)
    student = np.where(rng.random(400) < 0.98, teacher, (labels + 2) % 10)
    entries = [
        Entry("teacher", large, num_params=3_162_112, tally=shares(teacher == labels), decisions=teacher),
        Entry(STUDENT, small, num_params=5_120, tally=shares(student == labels), decisions=student),
        Entry("broken", broken),
    ]
    return report.build(entries, comparisons, reference="teacher", seed=0, title="a test")


def printed(document: dict, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=terminal, color_system="standard" if terminal else "auto")
    console.print(report.table(document))
    console.print(report.profile_table(document))
    console.print(report.tail_table(document))
    return stream.getvalue()


def test_the_document_survives_a_file_and_holds_rows_rounds_and_environment(document: dict, tmp_path: Path):
    report.save(document, tmp_path / "result.json")
    loaded = report.load(tmp_path / "result.json")
    assert loaded == json.loads(json.dumps(document))
    teacher, student, broken = loaded["rows"]
    assert teacher["accuracy_change"] is None
    assert teacher["speedup"] == {}
    assert (
        student["accuracy_change"]["low"] <= student["accuracy_change"]["value"] <= student["accuracy_change"]["high"]
    )
    assert student["agreement"]["value"] > 0.9
    assert student["speedup"]["ort-cpu-b1-t1"]["value"] > 1
    assert "INVALID_PROTOBUF" in broken["failures"]["ort-cpu-b1-t1"]
    assert len(loaded["comparisons"][0]["measurements"]["teacher"]["block_median_ms"]) == TINY.rounds
    assert loaded["environment"]["versions"]["onnxruntime"]


def test_the_tables_fit_100_columns_and_are_plain_outside_a_terminal(document: dict):
    text = printed(document)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b[" not in text
    assert "…" not in text
    assert re.search(r"broken +.* failed", text)
    assert "\x1b[" in printed(document, terminal=True)


def test_markdown_is_written_from_the_same_document(document: dict):
    lines = report.markdown(document).splitlines()
    assert lines[0] == "| model | size | params | accuracy % | change | p50 ms | speedup |"
    assert lines[2].startswith("| teacher | 12.6 MB | 3.16M | ")
    assert {line.count("|") for line in lines[:5]} == {8}


def test_the_tables_show_the_highest_percentile_and_the_peak_memory(document: dict):
    measured = document["comparisons"][0]["measurements"]["teacher"]
    name, value = list(measured["percentile_ms"].items())[-1]
    cell = f"{name} {value:.3g} {measured['memory_bytes']['runs'] / 1e6:.0f} MB"
    (line,) = [line for line in report.markdown(document).splitlines() if cell in line]
    assert line.startswith("| teacher | ")
    assert cell in printed(document)
    assert report.markdown(document).splitlines().count("| broken | failed | failed |") == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_a_file_of_another_kind_or_a_newer_schema_is_refused(tmp_path: Path, text: str):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ArtifactError):
        report.load(tmp_path / "result.json")


def test_a_reference_without_a_row_is_refused(small: Path):
    with pytest.raises(InputError, match="reference"):
        report.build([Entry("m", small)], [], reference="n", seed=0, title="")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (99_400, "99.4 kB"), (2_810_000, "2.81 MB"), (999_800, "1 MB")]
)
def test_sizes_are_decimal(size: int, text: str):
    assert units.format_bytes(size) == text
