"""How a run ends: every file in a line of 80 columns, what stands in the way, and last the answer."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from compress.benchmark.process import Place
from compress.measures.intervals import Estimate
from compress.report.answer import answer
from compress.report.document import FileFit, Prediction, Report, SimplestModel, Standing
from compress.report.ending import file_lines, notes, summary
from compress.report.markdown import markdown
from compress.report.page import page
from compress.report.terminal import print_ending
from compress.report.words import simplest_lines
from compress.store.document import load


@pytest.fixture(scope="module")
def report() -> Report:
    return load(Report, Path(__file__).parents[1] / "digits_report.json")


def renamed(report: Report, names: dict[str, str]) -> Report:
    """The same report with other names of stages."""
    benchmark = report.benchmark
    rows = tuple(replace(row, name=names.get(row.name, row.name)) for row in benchmark.rows)
    comparisons = tuple(
        replace(found, measurements={names.get(name, name): one for name, one in found.measurements.items()})
        for found in benchmark.comparisons
    )
    return replace(report, benchmark=replace(benchmark, rows=rows, comparisons=comparisons))


def printed(report: Report, *, width: int = 80, **fields) -> str:
    stream = io.StringIO()
    print_ending(report, Console(file=stream, width=width, **fields))
    return stream.getvalue()


def test_it_begins_with_size_speed_and_accuracy_against_teacher_and_quantization_alone(report):
    head, size, speed, accuracy = summary(report)
    teacher, rival, shipped = (report.benchmark.row(name) for name in ("teacher", "teacher-static", "export"))
    assert head.split() == ["what", "ships,", "against", "teacher", "teacher-static"]
    assert f"{teacher.size_bytes / shipped.size_bytes:.1f}x smaller" in size
    assert f"{rival.size_bytes / shipped.size_bytes:.2f}x smaller" in size
    for found in (shipped.speedup["ort-cpu-b1-t1"], report.verdict.speedup_over_rival):
        assert f"{found.value:.2f}x faster [{found.low:.2f}, {found.high:.2f}]" in speed
    change = report.verdict.shipped.change
    points = f"{100 * change.value:+.2f} points [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
    assert accuracy.startswith("accuracy on test ")
    assert accuracy.count(points) == 2  # the rival decides as the teacher does
    assert max(map(len, summary(report))) <= 80


def test_what_grew_or_slowed_down_is_called_so_and_noise_is_marked(report):
    shipped = replace(
        report.benchmark.shipped,
        size_bytes=2 * report.benchmark.rows[0].size_bytes,
        speedup={"ort-cpu-b1-t1": Estimate(0.5, 0.4, 0.8)},
        measurable={"ort-cpu-b1-t1": True},
    )
    verdict = replace(report.verdict, speedup_over_rival=Estimate(1.01, 0.99, 1.03), over_rival_measurable=False)
    benchmark = replace(report.benchmark, rows=(*report.benchmark.rows[:-1], shipped))
    _, size, speed, _ = summary(replace(report, benchmark=benchmark, verdict=verdict))
    assert "2.00x larger" in size
    assert "2.00x slower [1.25, 2.50]" in speed
    assert "~1.01x faster [0.99, 1.03]" in speed


def test_names_of_40_letters_are_neither_cut_nor_wrapped_at_80_columns(report):
    names = {name: f"{name}-{'x' * 40}"[:40] for name in ("distill", "prune", "recover", "quantize", "export")}
    long = renamed(report, names)
    lines = printed(long).splitlines()
    assert max(map(len, lines)) <= 80
    for name, row in zip(names.values(), long.benchmark.rows[3:], strict=False):
        assert len(name) == 40
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"{100 * long.benchmark.row(name).accuracy.value:.2f}" in line
        assert row.latency_ms
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed(long)


def test_a_name_that_leaves_no_room_has_a_line_of_its_own(report):
    lines = file_lines(renamed(report, {"distill": "d" * 90}), width=80)
    at = lines.index("d" * 90)
    assert f"{100 * report.benchmark.row('distill').accuracy.value:.2f}" in lines[at + 1]
    assert len(lines) == 2 * len(report.benchmark.rows) + 1


def test_gates_that_hold_are_named_and_a_missed_one_says_what_to_do(report):
    assert "gates that hold: max_accuracy_drop, max_size_mb, min_speedup" in notes(report, width=80)
    first, second, third = report.verdict.gates
    missed = replace(second, passed=False, remedy="try stages.prune.kept_params_fraction=0.48 instead of 0.6")
    told = printed(replace(report, verdict=replace(report.verdict, gates=(first, missed, third))))
    assert "gates that hold: max_accuracy_drop, min_speedup\n" in told
    assert "\ngate MISSED  max_size_mb: at most 0.1 MB asked" in told
    assert "next: try stages.prune.kept_params_fraction=0.48 instead of 0.6" in " ".join(told.split())


def test_what_disturbed_the_measurement_is_one_line(report):
    (line,) = [line for line in notes(report, width=80) if line.startswith("disturbed")]
    assert line == "disturbed: other processes kept 1.8 cores busy (and 2 more in report.md)"
    first = replace(report.benchmark.comparisons[0], degraded=["a reason " * 30], failures={"prune": "no memory"})
    benchmark = replace(report.benchmark, comparisons=(first, *report.benchmark.comparisons[1:]))
    told = notes(replace(report, benchmark=benchmark), width=80)
    assert len([line for line in told if line.startswith("disturbed")]) == 1
    assert max(map(len, told)) <= 80
    assert "not all files ran under ort-cpu-b1-t1; report.md says why" in told


def test_a_run_that_stopped_early_ends_with_its_files(report):
    early = replace(report, benchmark=None, verdict=None, gates_on_select=())
    assert summary(early) == notes(early, width=80) == []
    head, *lines, gap, title = printed(early).splitlines()
    assert head.split() == ["size", "select"]
    assert [line.split()[0] for line in lines] == [stage.name for stage in report.stages]
    assert (gap, title) == ("", "Not judged: the run stopped after export")


def test_without_test_everything_is_about_select(report):
    *_, accuracy = summary(replace(report, verdict=None))
    change = report.benchmark.shipped.accuracy_change
    assert accuracy.startswith("accuracy on select ")
    assert f"{100 * change.value:+.2f} points" in accuracy


def test_colours_are_for_terminals_and_brackets_are_text(report):
    assert "\x1b[" not in printed(report)
    assert "\x1b[" in printed(report, force_terminal=True, color_system="standard")
    bracketed = renamed(report, {"distill": "[bold]distill[/]"})
    assert "[bold]distill[/]" in printed(bracketed)


def test_who_is_ahead_of_the_simplest_model_and_who_loses_to_it_is_told(report):
    model = SimplestModel(title="a linear model on pixels", samples=800, size_bytes=2600, fit_s=0.2, sample_ms=0.05)
    standing = Standing(
        reached=Estimate(0.95, 0.9, 0.97), teacher=Estimate(0.03, 0.01, 0.05), shipped=Estimate(-0.03, -0.05, -0.01)
    )
    known = replace(report, simplest=model, verdict=replace(report.verdict, simplest=standing))
    told = " ".join(" ".join(notes(known, width=80)).split())
    assert "simplest: a linear model on pixels (2.6 kB, 0.05 ms a sample, fitted on 800 of " in told
    assert "reaches 95.00% accuracy on test; the teacher is ahead by 3.00 points [1.00, 5.00]" in told
    assert "what ships LOSES to it by 3.00 points [1.00, 5.00]" in told
    close = replace(standing, shipped=Estimate(0.01, -0.01, 0.02))
    known = replace(report, simplest=model, simplest_on_select=close, verdict=None)
    (line,) = simplest_lines(known)
    assert line.endswith("what ships is not surely ahead: 1.00 points [-1.00, 2.00]")
    for view in (markdown, page):
        assert "a linear model on pixels" in view(known)


def fits(*rooms: tuple[str, float]) -> tuple[FileFit, ...]:
    best = max(rooms, key=lambda pair: pair[1])
    return tuple(
        FileFit(
            name="export" if (variant, room) == rooms[-1] else f"export:{variant}",
            variant=variant,
            tightest="min_speedup",
            room=room,
            missed=("min_speedup",) if room < 1 else (),
            best=(variant, room) == best,
        )
        for variant, room in rooms
    )


def test_the_last_thing_is_the_verdict_the_sentence_and_the_file(report):
    known = replace(report, files=fits(("fp32", 1.2), ("int8-x86", 1.4)))
    title, *lines = printed(known).rstrip("\n").split("\n\n")[-1].splitlines()
    assert title == "Passed on a disturbed machine: every gate holds"
    told = " ".join(lines)
    assert told.startswith(
        "The shipped file is 13.1 times smaller than the teacher and 2.13 times as fast [2.11, 2.15];"
    )
    assert "accuracy on test changed by -1.11 points [-2.51, +0.00]. Timed with ort-cpu, batch 1, 1 thread, on" in told
    assert "It is 3.76 times smaller than teacher-static (quantized, nothing else) and 1.60 times as fast" in told
    assert told.endswith(
        "Ship int8-x86: on select int8-x86 has 1.40x of room at its tightest gate, min_speedup; fp32 has 1.20x of room "
        "at its tightest gate, min_speedup."
    )
    assert max(map(len, lines)) <= 80


def test_where_another_file_serves_the_gates_better_it_is_named(report):
    told = answer(replace(report, files=fits(("fp32", 1.9), ("int8-x86", 0.9)))).file
    assert told.startswith("Ship int8-x86, or try fp32: on select int8-x86 misses min_speedup, fp32 has 1.90x of room")
    assert told.endswith("`primary: auto` under `export` has it judged.")


def test_a_file_that_missed_a_gate_or_a_smoke_run_is_none_to_ship(report):
    first, *others = report.verdict.gates
    gates = (replace(first, passed=False), *others)
    missed = replace(report, verdict=replace(report.verdict, passed=False, gates=gates))
    assert answer(missed).file == "Do not ship int8-x86."
    assert "Do not ship int8-x86." in page(missed)
    assert "cp -r bundle" in page(report)
    assert "cp -r bundle" not in page(missed)
    two = answer(replace(missed, files=fits(("fp32", 1.9), ("int8-x86", 0.9)))).file
    assert two.startswith(
        "Do not ship int8-x86; try fp32: on select int8-x86 misses min_speedup, fp32 has 1.90x of room"
    )
    swept = replace(report, verdict=None, gates_on_select=gates)
    assert answer(swept).file == "Do not ship int8-x86."
    assert "cp -r bundle" not in page(swept)
    smoke = replace(report, estimate=Prediction(seconds={"teacher": 1.0}, hours=0.1, disk_bytes=1, unknown=()))
    assert answer(smoke).file == ""
    assert "cp -r bundle" not in page(smoke)


def test_times_of_another_machine_name_no_processor_of_this_one(report):
    def timed(**changes) -> str:
        first, *others = report.benchmark.comparisons
        elsewhere = replace(first, profile=replace(first.profile, **changes))
        return answer(replace(report, benchmark=replace(report.benchmark, comparisons=(elsewhere, *others)))).where

    cpu, day = report.environment.cpu_model, report.environment.day
    assert timed() == f"Timed with ort-cpu, batch 1, 1 thread, on {cpu}, {day}."
    assert timed(place=Place("", ("ssh", "edge-box"))) == f"Timed with ort-cpu, batch 1, 1 thread, on edge-box, {day}."
    assert timed(scenario="offline") == f"Timed with ort-cpu, batch 1, 1 thread, offline, on {cpu}, {day}."
    assert timed(runtime="ort-cuda") == f"Timed with ort-cuda, batch 1, 1 thread, on its device beside {cpu}, {day}."


def test_the_verdict_has_its_words_and_its_colour(report):
    still = replace(
        report,
        benchmark=replace(
            report.benchmark,
            comparisons=tuple(
                replace(
                    found,
                    degraded=[],
                    measurements={key: replace(one, degraded=[]) for key, one in found.measurements.items()},
                )
                for found in report.benchmark.comparisons
            ),
        ),
    )
    first, *others = report.verdict.gates
    missed = replace(
        still, verdict=replace(report.verdict, passed=False, gates=(replace(first, passed=False), *others))
    )
    found = [answer(one) for one in (still, report, missed, replace(report, verdict=None))]
    assert [one.outcome for one in found] == ["passed", "disturbed", "missed", "unjudged"]
    assert [one.title for one in found] == [
        "Passed: every gate holds",
        "Passed on a disturbed machine: every gate holds",
        "Missed: max_accuracy_drop",
        "Not judged: a variant of a sweep, for which test was not read",
    ]
    told = printed(missed, force_terminal=True, color_system="standard")
    assert "\x1b[1;31mMissed: max_accuracy_drop" in told
    for one, shown in zip((still, report, missed), found, strict=False):
        assert f'class="verdict {shown.outcome}">{shown.title}<' in page(one)
