import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from compress.benchmark import report, tables
from compress.benchmark.compare import Comparison, Difference, Preset, compare, make_unmeasured
from compress.benchmark.document import BenchmarkResult, RuntimeAccuracy
from compress.benchmark.measure import Measurement, Profile, WarmUp
from compress.benchmark.report import Entry
from compress.errors import ArtifactError, InputError
from compress.measures import units
from compress.measures.intervals import Estimate
from compress.measures.tally import shares
from compress.store.document import from_json, to_json

TINY = Preset(name="tiny", rounds=4, block_ms=2.0, warm_up_limit_ms=10.0)
STUDENT = "a student with a long name"


@pytest.fixture(scope="module")
def document(large: Path, small: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResult:
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


def edited(document: BenchmarkResult, edit: Callable[[dict], object]) -> BenchmarkResult:
    """The result whose JSON values were changed."""
    values = json.loads(to_json(document))
    edit(values)
    return from_json(BenchmarkResult, json.dumps(values), where=Path("edited"))


def printed(document: BenchmarkResult, *, terminal: bool = False, width: int = 100) -> str:
    stream = io.StringIO()
    colours = "standard" if terminal else "auto"
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=colours)
    for table in (tables.table, tables.profile_table, tables.tail_table):
        console.print(table(document, width=width))
    return stream.getvalue()


def test_the_document_survives_a_file_and_holds_rows_rounds_and_environment(document: BenchmarkResult, tmp_path: Path):
    report.save(document, tmp_path / "result.json")
    loaded = report.load(tmp_path / "result.json")
    assert loaded == document
    teacher, student, broken = loaded.rows
    assert teacher.accuracy_change is None
    assert teacher.speedup == {}
    assert student.accuracy_change.low <= student.accuracy_change.value <= student.accuracy_change.high
    assert student.agreement.value > 0.9
    assert student.speedup["ort-cpu-b1-t1"].value > 1
    assert "INVALID_PROTOBUF" in broken.failures["ort-cpu-b1-t1"]
    assert len(loaded.comparisons[0].measurements["teacher"].block_median_ms) == TINY.rounds
    assert loaded.environment.versions["onnxruntime"]
    # What was loaded answers as what was measured does.
    assert loaded.comparisons[0].speedup(STUDENT, over="teacher") == student.speedup["ort-cpu-b1-t1"]


def test_columns_are_left_out_before_a_name_is_cut(document: BenchmarkResult):
    def widen(values: dict) -> None:
        for row in values["rows"][:2]:
            row |= {"accuracy_change": {"value": -0.24375, "low": -0.275, "high": -0.2125}, "failures": {}}
            row["size_bytes"] = 90_934_000
            row["latency_ms"][document.primary], row["measurable"][document.primary] = 0.6314, False
            row["speedup"][document.primary] = {"value": 1.012, "low": 0.993, "high": 1.024}

    wide = edited(document, widen)
    text = printed(wide)
    assert max(map(len, text.splitlines())) <= 100
    assert len(re.findall(rf"^(teacher|{STUDENT}) .*~1\.01x \[0\.99, 1\.02\]", text, re.MULTILINE)) == 2
    assert "no room for: params, change" in text
    text = printed(wide, width=140)
    assert len(re.findall(r"-24\.38 \[-27\.5, -21\.2\].*~1\.01x \[0\.99, 1\.02\]", text)) == 2
    assert "no room for" not in text


def test_the_tables_fit_100_columns_and_are_plain_outside_a_terminal(document: BenchmarkResult):
    text = printed(document)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b[" not in text
    assert "…" not in text
    assert re.search(r"broken +.* failed", text)
    assert "\x1b[" in printed(document, terminal=True)


def test_markdown_is_written_from_the_same_document(document: BenchmarkResult):
    lines = tables.markdown(document).splitlines()
    assert lines[0] == "| model | size | params | accuracy % | change | p50 ms | speedup |"
    assert lines[2].startswith("| teacher | 12.6 MB | 3.16M | ")
    assert {line.count("|") for line in lines[:5]} == {8}


def test_the_tables_show_the_highest_percentile_and_the_peak_memory(document: BenchmarkResult):
    first, *others = document.comparisons
    name, value = "p99", 1.25  # a busy machine may have measured too few calls for any
    measured = replace(first.measurements["teacher"], percentile_ms={"p50": 1.0, name: value, "p99.9": 2.0})
    fewer = {
        model: replace(found, percentile_ms={"p50": 1.0, name: 1.5}) for model, found in first.measurements.items()
    }
    first = replace(first, measurements=fewer | {"teacher": measured})
    document = replace(document, comparisons=(first, *others))
    assert tables.common_percentile(first) == name  # p99.9 is not known of all
    cell = f"{value:.3g}, {measured.memory_bytes['runs'] / 1e6:.0f} MB"
    assert f"{first.profile.name} {name} |" in tables.markdown(document)
    (line,) = [line for line in tables.markdown(document).splitlines() if cell in line]
    assert line.startswith("| teacher | ")
    assert cell in printed(document)
    assert tables.markdown(document).splitlines().count("| broken | failed | failed |") == 2


def test_a_runtime_that_does_not_work_is_a_column_that_says_why_once(small: Path):
    why = "No module named 'openvino'; next: pip install it"
    comparison = make_unmeasured(
        ["teacher", "student"], reference="teacher", profile=Profile("openvino"), preset=TINY, seed=0, why=why
    )
    entries = [Entry("teacher", small), Entry("student", small)]
    document = report.build(entries, [comparison], reference="teacher", seed=0, title="a test")
    assert [row.failures for row in document.rows] == [{"openvino-b1-t1": why}] * 2
    for text in (printed(document), tables.markdown(document)):
        assert " ".join(text.split()).count(f"failed (openvino-b1-t1): {why}") == 1


def test_accuracy_in_the_runtime_that_was_timed_is_a_table_of_its_own(small: Path):
    share = Estimate(0.9, 0.88, 0.92)
    judged = RuntimeAccuracy(
        samples=100, accuracy=share, doubt="100 samples are few", mcnemar_p=0.031,
        change=Estimate(-0.01, -0.02, 0.0), teacher_agreement=0.975, teacher_kl_nats=0.0123,
    )  # fmt: skip
    first = RuntimeAccuracy(samples=100, accuracy=share)
    entries = [
        Entry("teacher", small, runtime_accuracy={"openvino-b1-t1": first}),
        Entry("student", small, runtime_accuracy={"openvino-b1-t1": judged}),
        Entry("odd", small, runtime_accuracy={"openvino-b1-t1": RuntimeAccuracy(failure="no such operator")}),
        Entry("unseen", small),
        Entry("unscored", small),
    ]
    comparison = replace(
        make_unmeasured([], reference="teacher", profile=Profile("openvino"), preset=TINY, seed=0, why=""),
        against_cpu={"teacher": Difference(1.2e-6, 1.0, 1e-6), "unscored": Difference(0.5, 0.875, 0.4)},
        unchecked={"student": "no such operator"},
    )
    document = report.build(entries, [comparison], reference="teacher", seed=0, title="a test")
    ((title, rows),) = tables.accuracy_rows(document)
    assert title == "accuracy in openvino-b1-t1, on select; 100 samples are few"
    assert rows == [
        ["teacher", "90.00 [88.0, 92.0]", "-", "-", "-", "-", "1.2e-06 100%"],
        ["student", "90.00 [88.0, 92.0]", "-1.00 [-2.0, +0.0]", "0.031", "97.50", "0.0123", "not compared"],
        ["odd", "failed: no such operator", "", "", "", "", "-"],
        ["unscored", "-", "-", "-", "-", "-", "5.0e-01 88%"],
    ]
    line = "| student | 90.00 [88.0, 92.0] | -1.00 [-2.0, +0.0] | 0.031 | 97.50 | 0.0123 | not compared |"
    assert line in tables.markdown(document)
    stream = io.StringIO()
    for table in tables.accuracy_tables(document):
        Console(file=stream, width=100).print(table)
    for cell in ("-1.00 [-2.0, +0.0]", "1.2e-06 100%", "not compared", "odd", "unscored"):
        assert cell in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 100


def test_a_software_adapter_has_times_and_no_ratio_in_any_view(document: BenchmarkResult, large: Path, small: Path):
    rounds = {"teacher": [4.0] * 4, STUDENT: [1.0] * 4}
    measured = {
        name: Measurement(
            size_bytes=1, sha256=None, load_ms=1, first_run_ms=1, num_calls=4, median_ms=times[0], percentile_ms={},
            throughput_per_s=1, memory_bytes={"runs": None}, block_median_ms=times, warm_up=WarmUp(3, stable=True),
            involuntary_switches=0, settings={"adapter": "software"},
        )
        for name, times in rounds.items()
    }  # fmt: skip
    floor = Estimate(1.0, 1.0, 1.0)
    software = Comparison(Profile("ort-webgpu"), TINY, "teacher", 0, measured, {}, floor, None, [])
    hardware = replace(
        software,
        profile=Profile("ort-cuda"),
        measurements={name: replace(found, settings={"adapter": "hardware"}) for name, found in measured.items()},
    )
    entries = [Entry("teacher", large), Entry(STUDENT, small)]
    made = report.build(entries, [hardware, software], reference="teacher", seed=0, title="a test")
    student = made.rows[1]
    assert list(student.speedup) == list(student.measurable) == ["ort-cuda-b1-t1"]
    assert student.verdict == {"ort-cuda-b1-t1": "faster", "ort-webgpu-b1-t1": "not ranked"}
    head = "ort-webgpu-b1-t1 (not ranked: software adapter)"
    assert f"| p50 ms (speedup) | ort-cuda-b1-t1 | {head} |" in tables.markdown(made)
    assert f"| {STUDENT} | 1 (4.00x) | 1 |" in tables.markdown(made)
    assert re.search(rf"{STUDENT} +1 \(4\.00x\) +1 *\n", printed(made))
    assert head in " ".join(printed(made).split())
    alone = report.build(entries, [software], reference="teacher", seed=0, title="a test")
    assert "| 1 | not ranked |" in tables.markdown(alone)
    for view in (tables.markdown(alone), printed(alone)):
        assert "4.00" not in view


def test_a_ratio_within_the_noise_is_marked_in_every_table(document: BenchmarkResult):
    row = replace(
        document.rows[1],
        speedup=dict.fromkeys(document.profiles, Estimate(1.012, 0.993, 1.024)),
        measurable=dict.fromkeys(document.profiles, False),
    )
    noisy = replace(document, rows=(document.rows[0], row, *document.rows[2:]))
    for view in (printed(noisy), tables.markdown(noisy)):
        assert view.count("~1.01x") == 3  # once in the first table, once a profile in the second


def test_the_widest_accuracies_fit_120_columns_and_nothing_is_cut(small: Path):
    judged = RuntimeAccuracy(
        samples=900, accuracy=Estimate(0.25, 0.192, 0.318), mcnemar_p=9.4e-38,
        change=Estimate(-0.6889, -0.756, -0.602), teacher_agreement=1.0, teacher_kl_nats=1e-5,
    )  # fmt: skip
    profile = Profile("openvino")
    comparison = replace(
        make_unmeasured([], reference=STUDENT, profile=profile, preset=TINY, seed=0, why=""),
        against_cpu={STUDENT: Difference(1.2e-6, 1.0, 1e-6)},
    )
    entries = [Entry(STUDENT, small, runtime_accuracy={profile.name: judged})]
    for comparisons in ([comparison], [replace(comparison, against_cpu={})]):
        document = report.build(entries, comparisons, reference=STUDENT, seed=0, title="a test")
        stream = io.StringIO()
        Console(file=stream, width=120).print(*tables.accuracy_tables(document, width=120))
        compared = ["1.2e-06 100%", "off CPU"] if comparisons[0].against_cpu else []
        for cell in ("25.00 [19.2, 31.8]", "-68.89 [-75.6, -60.2]", "9.4e-38", "100.00", "1e-05", *compared):
            assert cell in stream.getvalue()
        assert max(map(len, stream.getvalue().splitlines())) <= 120
        assert ("off CPU" in stream.getvalue()) == bool(compared)


def test_profiles_with_the_same_accuracies_share_a_table(small: Path):
    judged = RuntimeAccuracy(samples=900, accuracy=Estimate(0.9, 0.88, 0.92))
    profiles = [Profile(), Profile(batch_size=8), Profile(threads=2)]
    found = {profile.name: judged for profile in profiles} | {"ort-cpu-b1-t2": replace(judged, doubt="few")}
    comparisons = [make_unmeasured([], reference="a", profile=entry, preset=TINY, seed=0, why="") for entry in profiles]
    entries = [Entry("a", small, runtime_accuracy=found)]
    document = report.build(entries, comparisons, reference="a", seed=0, title="a test")
    assert [title for title, _ in tables.accuracy_rows(document)] == [
        "accuracy in ort-cpu-b1-t1, ort-cpu-b8-t1, on select",
        "accuracy in ort-cpu-b1-t2, on select; few",
    ]


def test_every_kind_of_doubt_about_single_models_is_told_once(document: BenchmarkResult):
    first, second = document.comparisons
    why = {
        "teacher": ["lost its CPU 120 times a second"],
        STUDENT: ["lost its CPU 99.5 times a second", "its outputs are off"],
    }
    disturbed = {name: replace(found, degraded=why[name]) for name, found in second.measurements.items()}
    comparison = replace(second, degraded=["the hypervisor took 2.0% of the time"], measurements=disturbed)
    made = replace(document, comparisons=(first, comparison))
    told = [
        "the hypervisor took 2.0% of the time",
        "teacher: lost its CPU 120 times a second (and 1 more alike)",
        f"{STUDENT}: its outputs are off",
    ]
    assert tables.doubts(comparison) == told
    for line in told:
        assert f"degraded (ort-cpu-b8-t1): {line}" in tables.markdown(made)


def test_many_profiles_wrap_and_lose_nothing(document: BenchmarkResult):
    names = tuple(f"ort-webgpu-b64-t{number}" for number in range(8))
    rows = tuple(replace(row, latency_ms=dict.fromkeys(names, 12.3)) for row in document.rows)
    text = printed(replace(document, profiles=names, comparisons=(document.comparisons[0],) * 8, rows=rows))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a JSON"),
        ("[]", "no schema"),
        ('{"schema": 99}', "another version"),
        ('{"schema": 1}', "make it again"),
    ],
)
def test_a_file_of_another_kind_or_schema_is_refused(tmp_path: Path, text: str, told: str):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ArtifactError, match=told):
        report.load(tmp_path / "result.json")


def test_a_field_that_is_not_as_it_should_be_is_named(document: BenchmarkResult):
    with pytest.raises(ArtifactError, match=r"(?s)rows\.1\.size_bytes: .*valid integer.*edited"):
        edited(document, lambda values: values["rows"][1].update(size_bytes="large"))
    with pytest.raises(ArtifactError, match=r"comparisons\.0\.colour"):
        edited(document, lambda values: values["comparisons"][0].update(colour="red"))
    with pytest.raises(ArtifactError, match=r"title: Field required"):
        edited(document, lambda values: values.pop("title"))


def test_a_reference_without_a_row_is_refused(small: Path):
    with pytest.raises(InputError, match="reference"):
        report.build([Entry("m", small)], [], reference="n", seed=0, title="")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (99_400, "99.4 kB"), (2_810_000, "2.81 MB"), (999_800, "1 MB")]
)
def test_sizes_are_decimal(size: int, text: str):
    assert units.format_bytes(size) == text
