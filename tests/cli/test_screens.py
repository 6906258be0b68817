"""What is printed at 80 and 120 columns, compared with text files; ``COMPRESS_SCREENS=1`` writes them anew.

All of it is made of stored or made-up results, so its numbers are the same everywhere.
"""

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import screen
from rich.console import Console

from compress.advice.measures import Measure
from compress.advice.rules import Advice, judge
from compress.benchmark import pair
from compress.benchmark.accuracy import Accuracy
from compress.errors import CompressError, DataError, EnvironmentFault, UsageError
from compress.measures.intervals import Estimate
from compress.pipeline import runs
from compress.pipeline.pairing import Pairing
from compress.pipeline.plan import Plan, Row
from compress.progress import fold
from compress.recipe import Recipe
from compress.report.document import Report
from compress.report.terminal import print_all, print_ending
from compress.store.document import load
from compress.tasks.contrast import Contrast, TextExample

REPORT = Path(__file__).parents[1] / "digits_report.json"
KEY = "0123456789abcdef" * 4
YELLOW = 33
# Plain, bold, dim, italic, underlined, and the colours that a terminal's theme chooses but for black and white.
THEMED = {0, 1, 2, 3, 4, *range(31, 37), *range(91, 97)}


def show_lines(console: Console, text: str) -> None:
    """Print lines as a command does on a terminal."""
    for given in text.split("\n"):
        for line in fold(given, console.width):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_all(console: Console, _: Path) -> None:
    """A run of texts whose price is stated."""
    shown = (
        TextExample(3, "not bad at all, I would go again", "positive", "positive", "negative"),
        TextExample(8, "Ada saw Paris again and again. " * 6, "Paris: LOC", "Paris: LOC", "Paris: PER"),
    )
    texts = Contrast(samples=180, differing=9, lost=4, examples=shown)
    print_all(replace(load(Report, REPORT), texts=texts, price_per_hour=0.17), console)


def show_compare_runs(console: Console, folder: Path) -> None:
    """Two runs of one store."""
    for name in ("digits-0123456789", "digits-9876543210"):
        (folder / "runs" / name).mkdir(parents=True)
        shutil.copyfile(REPORT, folder / "runs" / name / "report.json")
    console.print(runs.table(runs.read_runs(folder, say=print), width=console.width))


def show_plan(console: Console, _: Path) -> None:
    """A chain that is partly there, a comparison that cannot be made, and layers that are compared."""
    anew = "what it starts from is made anew"
    steps = [
        Row("teacher", "reuse", "", KEY),
        Row("teacher-static", "none", "the model has no operator that static quantization runs in int8 kernels", None),
        Row(
            "distill",
            "run",
            "stages.distill.epochs is 12, and 6 in the most similar stored output; seed is 1, not 0",
            KEY,
        ),
        Row("distill-on-what-the-teacher-says", "run", anew, None),
        Row("export", "run", anew, None),
    ]
    compared = Pairing("distill", "hidden", "layers.1", (32, 8, 8), "layers.2", (64, 8, 8), 2048, True, 0.0)
    found = Plan(
        steps=steps,
        pairs=[compared, replace(compared, student="layers.2", stored=False, live_overhead=0.25)],
        input_formula="(x / 16 - 0.305) / 0.376",
        notes=("3 of 1,797 samples are there twice, and are kept once",),
        execution="2 threads, cpu, float32",
        foreseen=("prune: kept_macs_fraction can be anything from 0.3247 on",),
    )
    for line in found.lines(console.width):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def advice() -> Advice:
    measures = [
        Measure("lead", Estimate(0.85, 0.81, 0.89), detail="the most frequent class for all: 11.1%"),
        Measure("capacity", Estimate(0.004, 0.004, 0.004), detail="parameters 19.7k of 4.91M, MACs 1.2M of 310M"),
        Measure("calibration", Estimate(0.021, 0.012, 0.034)),
        Measure("non-target-mass", Estimate(0.0008, 0.0005, 0.001), "kl", "a tenth of the mass is there from 6.3 on"),
        Measure("gradient-cosine", Estimate(0.41, 0.35, 0.52), "attention_transfer"),
        Measure("conformance", Estimate(1.0, 1.0, 1.0), "last_feature"),
    ]
    return judge(measures, notes=["the teacher is not in the store yet"])


def show_compare(console: Console, _: Path) -> None:
    """The teacher's file against the shipped one, with labels."""
    report = load(Report, REPORT)
    measured = report.benchmark.comparisons[0]
    kept = {name: found for name, found in measured.measurements.items() if name in ("teacher", "export")}
    found = replace(measured, measurements=kept).rename({"teacher": "A", "export": "B"})
    right, change = Estimate(0.9805, 0.96, 0.99), Estimate(-0.0111, -0.025, 0.0)
    accuracy = {
        "A": Accuracy(359, Estimate(0.9916, 0.975, 0.997), None, None, None, None, ""),
        "B": Accuracy(359, right, change, 0.22, Estimate(0.98, 0.96, 0.99), 0.037, ""),
    }
    told = pair.Pair(
        files={"A": "teacher.onnx", "B": "int8-x86.onnx"},
        verdict=found.verdict("B", over="A"),
        speedup=found.speedup("B", over="A"),
        confidence=found.confidence,
        floor=found.floor,
        accuracy=accuracy,
        profile=found.profile.name,
        inputs="given",
        matched={"image": "input.1"},
        comparison=found,
        environment=report.environment,
    )
    show_lines(console, pair.text(told, width=min(pair.COLUMNS, console.width)))


def refuse_recipe() -> CompressError:
    text = (
        "schema: 1\nname: digits\ndata: {source: digits}\nteacher: {model: {cnn: {widhts: [8]}}, train: {epochs: 0}}\n"
    )
    with pytest.raises(CompressError) as caught:
        Recipe.parse(text + "student: cnn\nstages: [distil]\n", origin="recipe.yaml", directory=Path())
    return caught.value


def show_errors(console: Console, _: Path) -> None:
    """One of each kind: a recipe with several faults, data, a word that is none, a machine that lacks something."""
    errors = [
        refuse_recipe(),
        DataError(
            "train samples are also in a role that the source fixed",
            expected="no sample in two roles, or data.overlap: drop-from-train",
            got="12 of 1,168, the first at position 17",
            where="select",
            hint="look whether the files were split before duplicates were removed, or say drop-from-train",
        ),
        UsageError(
            "there is no such layout", expected="triton, transformers.js, optimum, mlflow or plain", got="trition"
        ),
        EnvironmentFault(
            "the runtime does not work here", got="No module named 'openvino'", hint="pip install openvino"
        ),
    ]
    show_lines(console, "\n\n".join(f"error: {error}" for error in errors))


SCREENS: dict[str, Callable[[Console, Path], None]] = {
    "run": lambda console, _: print_ending(load(Report, REPORT), console),
    "all": show_all,
    "compare-runs": show_compare_runs,
    "plan": show_plan,
    "check": lambda console, _: advice().show(console),
    "compare": show_compare,
    "errors": show_errors,
}


@pytest.mark.parametrize("width", screen.WIDTHS)
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was_and_nothing_on_it_is_wider(name, width, tmp_path):
    stream = io.StringIO()
    SCREENS[name](Console(file=stream, width=width), tmp_path)
    screen.hold(name, stream.getvalue(), width=width)


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_legible_on_light_and_on_dark(name, tmp_path):
    """One text file holds for both: there are no colours but those that a theme fits to its background."""
    stream = io.StringIO()
    SCREENS[name](Console(file=stream, width=80, force_terminal=True, color_system="truecolor"), tmp_path)
    found = re.findall(r"\x1b\[([\d;]*)m", stream.getvalue())
    codes = {int(code) for codes in found for code in codes.split(";") if code}
    assert codes <= THEMED
    assert name != "run" or YELLOW in codes  # what passed on a disturbed machine


def test_names_and_commands_are_never_split():
    for width in screen.WIDTHS:
        check = (screen.FOLDER / f"check-{width}.txt").read_text().splitlines()
        assert all(line.startswith("  --set ") for line in check if "--set" in line)
        assert any(line.startswith("gradient-cosine attention_transfer ") for line in check)
        plan = (screen.FOLDER / f"plan-{width}.txt").read_text().splitlines()
        assert any(line.startswith("distill-on-what-the-teacher-says ") for line in plan)
