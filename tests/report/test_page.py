"""The page: whole, self-contained, escaped, told to screen readers, and complete where a report lacks parts."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from compress.benchmark import tables
from compress.measures.units import format_ms
from compress.report.columns import csv_text
from compress.report.document import Report
from compress.report.page import page
from compress.store.document import from_json

VOID = {"meta", "link", "img", "br", "circle", "line", "rect", "path"}


class Parsed(HTMLParser):
    """Every element with its attributes; refuses tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def report() -> dict:
    """The JSON values of a report, for tests to change."""
    return json.loads((Path(__file__).parents[1] / "digits_report.json").read_text())


def read(values: dict) -> Report:
    return from_json(Report, json.dumps(values), where=Path("changed"))


def test_the_page_holds_every_section_and_the_numbers_of_the_report(report):
    parsed = Parsed(page(read(report)))
    shown = [section["id"] for section in parsed.of("section")]
    assert shown == [
        "gates",
        "deploy",
        "pareto",
        "stages",
        "latency",
        "classes",
        "mistakes",
        "layers",
        "models",
        "environment",
    ]
    links = [link["href"] for link in parsed.of("a")]
    assert {f"#{key}" for key in shown} <= set(links)
    for row in report["benchmark"]["rows"]:
        assert f"{100 * row['accuracy']['value']:.2f}" in parsed.text
    test = report["verdict"]["test"][-1]
    assert f"{100 * test['accuracy']['value']:.2f}" in parsed.text
    assert report["command"] in parsed.text
    assert len(parsed.of("img")) == report["verdict"]["mistakes"]["teacher_alone_right"] == 5


def test_latencies_show_a_dot_for_each_launch_or_for_each_round_of_a_single_one(report):
    comparisons = report["benchmark"]["comparisons"]
    models = sum(len(comparison["measurements"]) for comparison in comparisons)
    assert page(read(report)).count('<circle class="dot"') == 15 * models * 2  # for wide and for narrow screens
    for comparison in comparisons:
        comparison["preset"]["launches"] = 3
    assert page(read(report)).count('<circle class="dot"') == 3 * models * 2


def test_nothing_is_loaded_or_run(report):
    text = page(read(report))
    parsed = Parsed(text)
    assert not parsed.of("script")
    assert not parsed.of("link")
    assert not re.search(r"url\(|@import|@font-face", text)
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert all(image["src"].startswith("data:image/png;base64,") for image in parsed.of("img"))
    (policy,) = [meta["content"] for meta in parsed.of("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {link["href"] for link in parsed.of("a") if not link["href"].startswith("#")} == {
        "report.json",
        "report.csv",
        "report.md",
    }


def test_a_reader_is_told_what_pictures_show_and_tables_have_heads(report):
    parsed = Parsed(page(read(report)))
    charts = parsed.of("svg")
    assert charts
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 20 for chart in charts)
    assert all("alt" in image for image in parsed.of("img"))
    assert all(head["scope"] in ("row", "col") for head in parsed.of("th"))
    assert len(parsed.of("caption")) == len(parsed.of("table")) == 4 + len(report["benchmark"]["profiles"])
    assert [attributes.get("lang") for attributes in parsed.of("html")] == ["en"]
    assert len(parsed.of("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_the_rows_of_a_table_have_one_percentile_which_all_of_them_support(report):
    first, second = report["benchmark"]["comparisons"][:2]
    supported = [set(measured["percentile_ms"]) for measured in second["measurements"].values()]
    assert {"p95" in names for names in supported} == {True}
    assert {"p99" in names for names in supported} == {True, False}
    text = page(read(report))
    for comparison, percentile in ((first, "p99"), (second, "p95")):
        assert f'<th scope="col">{percentile}, at most</th>' in text
        for measured in comparison["measurements"].values():
            assert f" ms · {percentile} {format_ms(measured['percentile_ms'][percentile])}<" in text
    assert " ms · p99" not in text.split("ort-cpu-b32-t1</summary>")[1].split("</details>")[0]


def test_labels_of_the_waterfall_are_whole_whatever_their_length(report):
    name = "distill-again-on-everything-that-there-is"
    report["stages"][3]["name"] = name
    report["benchmark"]["rows"][3]["name"] = name
    drawing = page(read(report)).split('<div class="panels">')[1].split("</svg>")[0]
    ((x, anchor),) = re.findall(
        rf'<text class="row" x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">{name}</text>', drawing
    )
    assert (float(x), anchor) == (0.0, "start")  # from the left edge, above its bar
    width = float(re.search(r'viewBox="0 0 (\d+)', drawing)[1])
    assert 6.7 * len(name) < width


def test_texts_that_the_student_answers_otherwise_are_shown_as_text(report):
    told = {"sample": 7, "source": "<b>Not bad</b>", "reference": "good", "teacher": "good", "student": "bad & ugly"}
    report["texts"] = {"samples": 200, "differing": 9, "lost": 4, "examples": [told]}
    parsed = Parsed(page(read(report)))
    assert "texts" in [section["id"] for section in parsed.of("section")]
    assert "answers 9 of 200 otherwise than the teacher, who alone is right in 4. Below are the first 1" in parsed.text
    assert "<b>Not bad</b> right good teacher good student bad & ugly" in parsed.text


def test_a_price_and_a_load_are_told_where_they_are_known(report):
    text = Parsed(page(read(report))).text
    assert "million predictions" not in text
    assert "Under load" not in text
    report["price_per_hour"] = 3.6
    comparison = report["benchmark"]["comparisons"][0]
    shipped, first = comparison["measurements"]["export"], comparison["measurements"]["teacher"]
    shipped["throughput_per_s"], first["throughput_per_s"] = 500.0, 123.0
    price = page(read(report)).split('id="price"')[1].split("</section>")[0]
    assert "at 3.6 an hour" in price
    assert '<th scope="row">export</th><td>2</td>' in price  # 0.001 a second, 500 predictions a second
    comparison["profile"] |= {"scenario": "server", "arrivals_per_s": 500.0}
    first["degraded"] = ["overloaded: 123 of 500 queries that came were answered"]
    assert '<th scope="row">export</th><td>2</td>' not in page(read(report))  # of a load, the load is what is answered
    load = Parsed(page(read(report)).split("<h3>Under load</h3>")[1].split("</table>")[0] + "</table></div>").text
    bound = {
        name: format_ms(comparison["measurements"][name]["percentile_ms"]["p99"]) for name in ("export", "teacher")
    }
    assert re.search(rf"teacher 500 123 \S+ {bound['teacher']} falls behind", load)
    assert re.search(rf"export 500 500 \S+ {bound['export']} keeps up", load)


def test_gates_are_in_the_units_of_the_page(report):
    text = Parsed(page(read(report))).text
    accuracy, size, speed = report["verdict"]["gates"]
    assert f"at most {100 * accuracy['limit']:.4g} points asked, {100 * accuracy['judged']:.4g} points at" in text
    assert f"at most {size['limit']:.4g} MB asked, {size['judged']:.4g} MB measured" in text
    assert f"at least {speed['limit']:.4g}x asked, {speed['judged']:.4g}x at the interval's bound" in text


def test_the_files_of_a_bundle_stand_beside_each_other(report):
    fit = {"tightest": "min_speedup", "missed": [], "best": False}
    report["files"] = [
        fit | {"name": "export:fp32", "variant": "fp32", "room": 1.9, "best": True},
        fit | {"name": "export", "variant": "int8-x86", "room": 0.9, "missed": ["min_speedup"]},
    ]
    text = Parsed(page(read(report))).text
    assert "try fp32: on select int8-x86 misses min_speedup" in text
    assert re.search(r"fp32 51\.4 kB \S+ 98\.89 1\.90x, min_speedup none", text)
    assert re.search(r"int8-x86 23\.8 kB \S+ 98\.89 0\.90x, min_speedup min_speedup", text)


def test_reproducing_begins_with_versions_and_data(report):
    text = Parsed(page(read(report))).text
    versions = report["environment"]["versions"]
    assert f"onnxruntime=={versions['onnxruntime']}" in text
    assert "+cpu" not in text.split("To reproduce")[1].split("recipe.yaml")[0]
    assert report["data"]["digest"][:12] in text
    assert "data: source: digits split: test: 0.2" in text.split("To reproduce")[1].split("recipe.yaml, every")[0]


def test_names_from_recipe_and_data_are_text(report):
    report["verdict"]["mistakes"]["confusions"][0]["label"] = "<script>alert(1)</script>"
    report["verdict"]["mistakes"]["classes"][0]["name"] = '"><img src=x>'
    report["recipe_yaml"] = "</code><b>"
    parsed = Parsed(page(read(report)))
    assert not parsed.of("script")
    assert "<script>alert(1)</script>" in parsed.text
    assert '"><img src=x>' in parsed.text
    assert "</code><b>" in parsed.text


def test_a_run_that_stopped_early_still_has_a_page(report):
    report |= {"benchmark": None, "verdict": None, "variants": {}, "gates_on_select": []}
    parsed = Parsed(page(read(report)))
    assert [section["id"] for section in parsed.of("section")] == ["stages", "layers", "models", "environment"]
    assert "Not judged: the run stopped after export" in parsed.text


def test_a_variant_that_was_not_judged_shows_its_gates_on_select(report):
    report["verdict"] = None
    text = Parsed(page(read(report))).text
    assert "test was not read" in text
    assert "Judged on select" in text
    assert "on test" not in text


def test_a_task_without_classes_has_no_classes(report):
    report["verdict"]["mistakes"] = None
    for stage in report["stages"]:
        stage["scores"].pop("teacher_kl_nats", None)
    shown = [section["id"] for section in Parsed(page(read(report))).of("section")]
    assert not {"classes", "mistakes"} & set(shown)
    assert "stages" in shown


def test_of_many_classes_the_ones_that_lost_most_are_shown(report):
    found = report["verdict"]["mistakes"]
    sure = {"value": 0.9, "low": 0.8, "high": 0.95}
    found["classes"] = [{"name": f"class-{n}", "units": 10, "teacher": sure, "student": sure} for n in range(100)]
    found["classes"][77]["student"] = sure | {"value": 0.5}
    found["classes"][8] |= {"units": 2, "student": sure | {"value": 0.4}}  # more of itself, and fewer samples
    found["classes"].append({"name": "empty", "units": 0, "teacher": None, "student": None})
    parsed = Parsed(page(read(report)))
    assert "The 20 of 100 classes that lost most samples" in parsed.text
    shown, folded = parsed.text.split("All 100 classes")
    names = re.findall(r"class-\d+", shown)
    assert names[:2] == ["class-77", "class-8"]
    assert len(names) == 20
    assert re.findall(r"class-\d+", folded.partition("Mistakes")[0]) == [f"class-{n}" for n in range(100)]


def test_a_file_that_grew_is_not_called_smaller(report):
    shipped = report["benchmark"]["rows"][-1]
    shipped["size_bytes"] = 2 * report["benchmark"]["rows"][0]["size_bytes"]
    text = Parsed(page(read(report))).text
    assert "2.00 times as large as the teacher" in re.sub(r"\s+", " ", text)
    assert "times smaller" not in text


def test_many_layers_are_folded(report):
    layers = report["stages"][-1]["layers"]
    layers += [layers[0] | {"name": f"layer-{number}"} for number in range(50)]
    assert "layer-49" in Parsed(page(read(report))).text
    assert re.search(r"All \d+ layers", page(read(report)))


def test_a_model_that_could_not_be_timed_is_a_row_that_says_so(report):
    primary = report["benchmark"]["profiles"][0]
    row = next(row for row in report["benchmark"]["rows"] if row["name"] == "prune")
    for key in ("latency_ms", "speedup", "measurable"):
        row[key].pop(primary)
    row["failures"][primary] = "out of memory"
    del report["benchmark"]["comparisons"][0]["measurements"]["prune"]
    assert "failed" in Parsed(page(read(report))).text


def test_a_runtime_that_does_not_work_is_a_column_that_says_why(report):
    benchmark, profile = report["benchmark"], "openvino-b1-t1"
    reason = "No module named 'openvino'; next: pip install it"
    benchmark["profiles"].append(profile)
    failures = {row["name"]: reason for row in benchmark["rows"]}
    benchmark["comparisons"].append(
        benchmark["comparisons"][0] | {"measurements": {}, "failures": failures, "degraded": [], "noise_floor": None}
    )
    for row in benchmark["rows"]:
        row["failures"][profile] = reason
    assert Parsed(page(read(report))).text.count(f"Not measured: {reason}") == 1
    rows = list(csv.DictReader(io.StringIO(csv_text(read(report)))))
    assert {row[f"{profile}_failure"] for row in rows} == {reason}
    assert {row[f"{profile}_ms"] for row in rows} == {""}


def test_a_software_adapter_has_a_time_and_no_ratio_and_noise_is_marked(report):
    benchmark, profile = report["benchmark"], "ort-webgpu-b1-t1"
    primary = benchmark["profiles"][0]
    benchmark["profiles"].append(profile)
    benchmark["comparisons"].append(json.loads(json.dumps(benchmark["comparisons"][0])))
    for found in benchmark["comparisons"][-1]["measurements"].values():
        found["settings"]["adapter"] = "software"
    for row in benchmark["rows"]:
        row["latency_ms"][profile] = 876.5
        if row["name"] != benchmark["reference"]:
            row["verdict"] = {primary: "no measurable difference", profile: "not ranked"}
            row["speedup"][primary] = {"value": 1.0123, "low": 0.99, "high": 1.03}
            row["measurable"][primary] = False
    text = page(read(report))
    assert f'<th scope="col">{profile} (not ranked: software adapter)</th>' in text
    assert text.count("<td>876</td>") == len(benchmark["rows"])  # nothing beside the time
    assert text.count('<span class="ci">~1.01x</span>') == len(benchmark["rows"]) - 1
    assert "~1.01 times as fast" in text
    assert "~1.01x [0.99, 1.03] over the teacher" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(read(report)))))[1:]
    assert {row[f"{profile}_ms"] for row in rows} == {"876.5"}
    assert {row[f"{profile}_speedup"] for row in rows} == {""}
    assert {row[f"{profile}_verdict"] for row in rows} == {"not ranked"}
    assert {row[f"{primary}_verdict"] for row in rows} == {"no measurable difference"}


def test_load_memory_energy_and_placement_are_told_for_every_model_that_ran(report):
    measured = report["benchmark"]["comparisons"][0]["measurements"]["export"]
    measured |= {"load_ms": 12.34, "energy_mj_per_sample": 0.4321}
    measured["memory_bytes"] |= {"import": 51_200_000, "runs": None}
    measured["settings"]["nodes"] = {"WebGpuExecutionProvider": 7, "CPUExecutionProvider": 2}
    text = Parsed(page(read(report))).text
    for told in ("12.3", "51.2 MB", "0.432", "WebGpu 7, CPU 2"):
        assert told in text


def test_accuracy_in_another_runtime_is_on_the_page_and_in_the_csv(report):
    share = {"value": 0.9731, "low": 0.95, "high": 0.99}
    found = {"samples": 300, "accuracy": share, "doubt": "300 samples are few"}
    name = report["benchmark"]["rows"][-1]["name"]
    comparison = report["benchmark"]["comparisons"][0]
    comparison["against_cpu"] = {name: {"max_abs": 0.375, "agreement": 0.75, "max_relative": 0.2}}
    comparison["measurements"][name]["degraded"] = ["its outputs are up to 20% of the largest off the CPU's"]
    report["benchmark"]["rows"][-1]["runtime_accuracy"] = {"ort-cpu-b1-t1": found}
    text = Parsed(page(read(report))).text
    assert "accuracy in ort-cpu-b1-t1, on select; 300 samples are few" in text
    assert "97.31 [95.0, 99.0]" in text
    assert "3.8e-01 75%" in text
    assert f"Disturbed: {name}: its outputs are up to 20% of the largest off the CPU's." in text
    rows = list(csv.DictReader(io.StringIO(csv_text(read(report)))))
    assert [row["ort-cpu-b1-t1_accuracy_select"] for row in rows] == [""] * (len(rows) - 1) + ["0.9731"]
    assert [row["ort-cpu-b1-t1_max_abs_off_cpu"] for row in rows] == [""] * (len(rows) - 1) + ["0.375"]
    assert rows[-1]["ort-cpu-b1-t1_agreement_with_cpu"] == "0.75"


def test_the_csv_has_the_numbers_of_the_json(report):
    rows = list(csv.DictReader(io.StringIO(csv_text(read(report)))))
    assert [row["model"] for row in rows] == [row["name"] for row in report["benchmark"]["rows"]]
    for written, row in zip(rows, report["benchmark"]["rows"], strict=True):
        assert int(written["size_bytes"]) == row["size_bytes"]
        assert float(written["accuracy_select_low"]) == row["accuracy"]["low"]
        assert float(written["ort-cpu-b1-t1_ms"]) == row["latency_ms"]["ort-cpu-b1-t1"]
        measured = report["benchmark"]["comparisons"][0]["measurements"][row["name"]]
        assert float(written["ort-cpu-b1-t1_load_ms"]) == measured["load_ms"]
        assert int(written["ort-cpu-b1-t1_peak_memory_bytes"]) == measured["memory_bytes"]["runs"]
        assert written["ort-cpu-b1-t1_energy_mj_per_sample"] == ""
        for percentile in ("p50", "p90", "p95", "p99", "p99.9"):
            bound = measured["percentile_ms"].get(percentile)
            assert written[f"ort-cpu-b1-t1_{percentile}_at_most_ms"] == ("" if bound is None else str(bound))
    tested = {row["model"]: row["accuracy_test"] for row in rows if row["accuracy_test"]}
    assert tested.keys() == {row["name"] for row in report["verdict"]["test"]}


def test_the_csv_of_a_run_that_stopped_early_has_its_scores(report):
    report |= {"benchmark": None, "verdict": None, "variants": {}, "gates_on_select": []}
    rows = list(csv.DictReader(io.StringIO(csv_text(read(report)))))
    assert [row["model"] for row in rows] == [stage["name"] for stage in report["stages"]]
    assert float(rows[-1]["accuracy_select"]) == report["stages"][-1]["scores"]["accuracy"]


def test_the_terminal_tables_fit_100_columns_and_lose_no_number(report):
    text = io.StringIO()
    Console(file=text, width=100).print(tables.table(read(report).benchmark))
    lines = text.getvalue().splitlines()
    table = [line for line in lines if "[" in line and "p50" not in line]
    assert max(map(len, table)) <= 100
    shown = " ".join(table)
    for row in report["benchmark"]["rows"]:
        assert f"{100 * row['accuracy']['value']:.2f}" in shown
        assert "\u2026" not in shown
    assert "\x1b[" not in text.getvalue()  # no colours: this is no terminal
