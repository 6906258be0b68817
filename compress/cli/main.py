"""The command line: thin, and quick to answer because every command imports what it needs itself."""

import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from compress.errors import EXIT_CODES, GATE_MISSED, CompressError, UsageError

if TYPE_CHECKING:
    from compress.recipe import Recipe
    from compress.stage import Precision

EPILOG = "\b\n" + "\n".join(["Exit codes:", *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())])

app = typer.Typer(
    name="compressor",
    help="Compress a trained teacher into the smallest, fastest ONNX student that still passes an accuracy gate.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and those hold secrets
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH=VALUE", help="Override, such as stages.prune.kept_macs_fraction=0.4."),
]
Code = Annotated[
    list[Path],
    typer.Option(
        "--code", metavar="FILE", help="A Python file, or a folder of them, that may be run, or pickled weights."
    ),
]
Allow = Annotated[
    list[str],
    typer.Option("--allow", metavar="WORDS", help="A launcher, interpreter or server that the recipe may use."),
]
StorePath = Annotated[
    Path, typer.Option("--store", metavar="DIR", envvar="COMPRESS_STORE", help="Artifacts, runs and tracked metrics.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage, or `teacher`.")]
Force = Annotated[list[str], typer.Option("--force", metavar="STAGE", help="Run again although it is stored.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Training threads; default: all cores.")]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Where to train: cpu, cuda, cuda:1, mps; default: the best."),
]
PrecisionOf = Annotated[
    str | None,
    typer.Option("--precision", metavar="WORD", help="float32, bfloat16, or on CUDA tf32; default: fast."),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="A few steps of everything, in a store of its own.")]
Strict = Annotated[bool, typer.Option("--strict", help="End with an error when the advice warns.")]
ForceTeacher = Annotated[
    bool, typer.Option("--force-teacher", help="Go on with a teacher that is no better than no model at all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Python = Annotated[str, typer.Option("--python", metavar="PATH", help="Another interpreter, with its own runtimes.")]
Launcher = Annotated[
    str, typer.Option("--launcher", metavar="WORDS", help="Words before the interpreter, such as 'ssh edge-box'.")
]
STORE = Path("compress-store")


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = [],
    from_stage: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Reuse all stages before.")] = None,
    until_stage: Until = None,
    force: Force = [],
    smoke: Smoke = False,
    strict: Strict = False,
    force_teacher: ForceTeacher = False,
    code: Code = [],
    allow: Allow = [],
    store: StorePath = STORE,
    threads: Threads = None,
    device: Device = None,
    precision: PrecisionOf = None,
    as_json: AsJson = False,
    readme: Annotated[
        Path | None, typer.Option("--readme", metavar="FILE", help="Write the result between its markers.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a recipe from its teacher to its verdict, reusing what the store has."""
    from dataclasses import asdict

    from rich.console import Console

    from compress.cli.interruption import watch
    from compress.cli.report import places
    from compress.pipeline import estimate
    from compress.pipeline import run as pipeline
    from compress.progress import Reporter
    from compress.report.markdown import around_result, write_into
    from compress.report.terminal import print_ending

    loaded = _load(recipe, overrides)
    _check_stages(loaded, {"--from": [from_stage], "--until": [until_stage], "--force": force})
    if readme is not None:
        if smoke or until_stage:
            raise UsageError("--readme takes the result of a whole run", got="--smoke" if smoke else "--until")
        around_result(readme)
    with watch() as interrupted:
        options = pipeline.Options(
            store=store,
            directory=recipe.parent,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=_precision(precision),
            from_stage=from_stage,
            until_stage=until_stage,
            force=force,
            smoke=smoke,
            strict=strict,
            force_teacher=force_teacher,
            reporter=Reporter(quiet=quiet),
            interrupted=interrupted,
        )
        try:
            outcome = pipeline.run(loaded, options)
        except KeyboardInterrupt:
            _say_how_to_go_on()
            raise typer.Exit(interrupted.exit_code) from None
    if readme is not None:
        write_into(readme, outcome.report)
    if as_json:
        typer.echo(json.dumps({"passed": outcome.passed, "run_dir": str(outcome.run_dir), **asdict(outcome.report)}))
    else:
        print_ending(outcome.report, Console())
        if outcome.report.estimate is not None:
            typer.echo(estimate.sentence(outcome.report.estimate))
        if until_stage:
            typer.echo(f"artifact: {outcome.shipped.path}")
        typer.echo("\n".join(places(outcome.run_dir)))
        if loaded.tracking.uri is None:
            typer.echo(f"MLflow: {shlex.join(['compressor', 'ui', '--store', str(outcome.run_dir.parents[1])])}")
    if outcome.passed is False:
        _say("a gate is missed; the student and the report are saved")
        raise typer.Exit(GATE_MISSED)


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = [],
    pilot: Annotated[bool, typer.Option("--pilot", help="Train briefly, too; the cost is told first.")] = False,
    strict: Strict = False,
    code: Code = [],
    allow: Allow = [],
    store: StorePath = STORE,
    threads: Threads = None,
    device: Device = None,
    precision: PrecisionOf = None,
    as_json: AsJson = False,
) -> None:
    """Say with numbers whether distillation is likely to pay and what to change first; trains nothing but a pilot."""
    from rich.console import Console

    from compress.advice.rules import WIDTH
    from compress.cli.interruption import watch
    from compress.pipeline.check import check as checked
    from compress.pipeline.run import Options
    from compress.progress import Reporter

    loaded = _load(recipe, overrides)
    with watch() as interrupted:
        options = Options(
            store=store,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=_precision(precision),
            reporter=Reporter(quiet=as_json),
            interrupted=interrupted,
        )
        try:
            advice = checked(loaded, options, on_cost=(lambda cost: _say(str(cost))) if pilot else None)
        except KeyboardInterrupt:
            raise typer.Exit(interrupted.exit_code) from None
    if as_json:
        typer.echo(json.dumps(advice.document(), allow_nan=False))
    else:
        advice.show(Console(width=WIDTH))
    if strict:
        advice.refuse()


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = [],
    until_stage: Until = None,
    force: Force = [],
    smoke: Smoke = False,
    code: Code = [],
    allow: Allow = [],
    store: StorePath = STORE,
    threads: Threads = None,
    device: Device = None,
    precision: PrecisionOf = None,
    as_json: AsJson = False,
) -> None:
    """Show what would run, what is reused and why not more, and which layers are compared; a note of it is kept."""
    from dataclasses import asdict

    from compress.pipeline.plan import plan as planned
    from compress.pipeline.run import Options
    from compress.report.words import note_lines

    loaded = _load(recipe, overrides)
    _check_stages(loaded, {"--until": [until_stage], "--force": force})
    options = Options(
        store=store,
        code=code,
        allow=allow,
        threads=threads,
        device=device,
        precision=_precision(precision),
        until_stage=until_stage,
        force=force,
        smoke=smoke,
    )
    found = planned(loaded, options)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    for line in note_lines(found.notes):
        typer.echo(line)
    if found.input_formula:
        typer.echo(f"input: {found.input_formula}")
    for row in found.steps:
        typer.echo(f"{row.name:<22}{row.action:<8}{row.why}".rstrip())
    for pair in found.pairs:
        typer.echo(str(pair))
    for line in found.foreseen:
        typer.echo(line)


@app.command()
def validate(recipe: RecipePath, overrides: Overrides = []) -> None:
    """Check a recipe and print it with every default written out."""
    typer.echo(_load(recipe, overrides).to_yaml(), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from compress.recipe import Recipe

    typer.echo(json.dumps(Recipe.json_schema(), indent=1))


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="One of the ready recipes, such as digits.")],
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to; default: ./NAME.")] = None,
) -> None:
    """Write a ready recipe."""
    from importlib.resources import files

    ready = {entry.name.removesuffix(".yaml"): entry for entry in files("compress").joinpath("ready").iterdir()}
    if name not in ready:
        raise UsageError("there is no such ready recipe", expected=f"one of {', '.join(sorted(ready))}", got=name)
    target = (directory or Path(name)) / "recipe.yaml"
    if target.exists():
        raise UsageError("there is a recipe already", where=target, hint="name another directory, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(ready[name].read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"{target}\nnext: compressor run {shlex.quote(str(target))} --smoke")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The directory of an exported student.")],
    as_json: AsJson = False,
) -> None:
    """Repeat a bundle's check on this machine; needs onnxruntime and numpy only."""
    from dataclasses import asdict

    from compress.export.verify import verify_bundle

    result = verify_bundle(bundle)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        for name, variant in result.variants.items():
            word = "ok" if variant.passed else "DIFFERS"
            typer.echo(f"{name:<12} {word:<8} agreement {variant.agreement:.2%}, at most {variant.max_abs:.2e} off")
        typer.echo(f"sha256       {result.sha256}\ncpu          {' '.join(result.cpu.flags) or 'flags unknown'}")
    for warning in result.warnings:
        _say(f"warning: {warning}")
    if not result.passed:
        raise typer.Exit(GATE_MISSED)


@app.command()
def sweep(
    recipe: RecipePath,
    choices: Annotated[
        list[str], typer.Option("--set", metavar="PATH=V1,V2,...", help="Values to try; several --set are combined.")
    ] = [],
    fastest: Annotated[bool, typer.Option("--fastest", help="Choose the fastest, not the smallest.")] = False,
    force_teacher: ForceTeacher = False,
    code: Code = [],
    allow: Allow = [],
    store: StorePath = STORE,
    threads: Threads = None,
    device: Device = None,
    precision: PrecisionOf = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a recipe with every combination of values, choose on select, and read test once, for the chosen variant."""
    from dataclasses import asdict

    from rich.console import Console

    from compress.cli.interruption import watch
    from compress.pipeline import run as pipeline
    from compress.pipeline.sweep import sweep as swept
    from compress.pipeline.sweep import table
    from compress.progress import Reporter
    from compress.report.words import verdict_lines

    with watch() as interrupted:
        options = pipeline.Options(
            store=store,
            directory=recipe.parent,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=_precision(precision),
            force_teacher=force_teacher,
            reporter=Reporter(quiet=quiet),
            interrupted=interrupted,
        )
        try:
            result, outcome = swept(recipe, choices, options, goal="fastest" if fastest else "smallest")
        except KeyboardInterrupt:
            _say_how_to_go_on()
            raise typer.Exit(interrupted.exit_code) from None
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        Console(width=max(Console().width, 100)).print(table(result))
        if outcome is not None and outcome.report.verdict is not None:
            typer.echo("\n".join(verdict_lines(outcome.report.verdict)))
        if outcome is not None:
            typer.echo(f"report: {outcome.run_dir / 'report.html'}\nbundle: {outcome.run_dir / 'bundle'}")
    if outcome is None:
        _say("no variant passes its gates on select; test was not read, and every variant is saved")
    elif not outcome.passed:
        _say("the chosen variant misses a gate on test; it and its report are saved")
    if outcome is None or not outcome.passed:
        raise typer.Exit(GATE_MISSED)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or a name in the store.")],
    everything: Annotated[bool, typer.Option("--all", help="Every table, with percentiles and memory.")] = False,
    store: StorePath = STORE,
) -> None:
    """Print again how a run ended, or with --all everything that it measured."""
    from rich.console import Console

    from compress.cli.report import find_run, places
    from compress.report.document import Report
    from compress.report.terminal import print_all, print_ending
    from compress.store.document import load

    directory = find_run(run, store=store)
    found = load(Report, directory / "report.json")
    if everything:
        # The tables need 100 columns; a narrower terminal wraps whole lines rather than losing columns.
        print_all(found, Console(width=max(Console().width, 100)))
    else:
        print_ending(found, Console())
    typer.echo("\n".join(places(directory)))


@app.command("compare-runs")
def compare_runs(
    store: StorePath = STORE,
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="A PNG of it; default: pareto.png in the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print and plot what every finished pipeline of a store shipped, and which of them no other beats."""
    from rich.console import Console

    from compress.pipeline import runs

    found = runs.read_runs(store, say=_say)
    target = picture or store / "pareto.png"
    runs.plot(found, target)
    if as_json:
        typer.echo(json.dumps({"plot": str(target), "runs": runs.documents(found)}))
    else:
        Console(width=max(Console().width, 100)).print(runs.table(found))
        typer.echo(f"plot: {target}")


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The registered model: the recipe's name.")],
    version: Annotated[int | None, typer.Option(min=1, help="Default: the candidate.")] = None,
    store: StorePath = STORE,
    uri: Annotated[str | None, typer.Option(help="Another MLflow server than the store's database.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a version of a registered student the champion; serving asks for models:/NAME@champion."""
    from dataclasses import asdict

    from compress.tracking.registry import promote as promoted

    done = promoted(name, store=store, uri=uri, version=version)
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    before = "" if done.previous is None else f", before it was version {done.previous}"
    typer.echo(f"models:/{name}@champion is version {done.version}{before}\nsha256 {done.sha256}")


@app.command()
def ui(
    store: StorePath = STORE, port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000
) -> None:
    """Open the MLflow UI of a store, on this machine only."""
    from compress.tracking.server import serve
    from compress.tracking.server import ui as server

    command = server(store, port=port)
    _say("\n".join([f"MLflow at {command.address}, Ctrl-C ends it", *(f"  {view}" for view in command.views)]))
    raise typer.Exit(serve(command))


@app.command()
def env(as_json: AsJson = False, python: Python = "", launcher: Launcher = "") -> None:
    """Print versions, CPU features, and which runtimes work; where one does not, why and what to install."""
    from dataclasses import asdict

    from compress.benchmark.environment import describe
    from compress.benchmark.process import Place, usable_runtimes

    found = asdict(describe(seed=0))
    runtimes = usable_runtimes(Place(python, tuple(shlex.split(launcher))))
    if as_json:
        typer.echo(json.dumps(found | {"runtimes": {name: asdict(entry) for name, entry in runtimes.items()}}))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, entry in value.items():
                typer.echo(f"  {name:<16} {entry}")
        else:
            typer.echo(f"{key:<18} {' '.join(value) if isinstance(value, tuple) else value}")
    typer.echo("runtimes:")
    for name, entry in runtimes.items():
        typer.echo(f"  {name:<16} {'usable' if entry.usable else 'not usable'}{entry.why and ': ' + entry.why}")
        if entry.install:
            typer.echo(f"  {'':<16} next: {entry.install}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.onnx", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B.onnx", help="Judged against it.")],
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Real samples: .npz, one array per model input; default: drawn."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class of each sample, .npy: compare accuracy too.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="As `compressor env` lists them, or my_runtime.py:Mine with --code my_runtime.py.")
    ] = "ort-cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a call.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of the runtime.")] = 1,
    scenario: Annotated[str, typer.Option(help="single_stream, multistream, server or offline.")] = "single_stream",
    arrivals_per_s: Annotated[float | None, typer.Option(help="Queries a second of the server scenario.")] = None,
    preset: Annotated[str, typer.Option(help="smoke, quick, standard or strict.")] = "standard",
    python: Python = "",
    launcher: Launcher = "",
    code: Code = [],
    seed: Annotated[int, typer.Option(help="Of the order in each round and of the intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether B.onnx is faster than A.onnx, slower, or not measurably different; whichever it is, exit with 0."""
    from dataclasses import asdict

    from compress.benchmark import pair
    from compress.benchmark.measure import Profile
    from compress.benchmark.process import Place
    from compress.progress import Reporter

    place = Place(python, tuple(shlex.split(launcher)))
    profile = Profile(runtime, batch_size, threads, scenario, arrivals_per_s, place)  # pyright: ignore[reportArgumentType] # it checks
    found = pair.compare_files(
        first,
        second,
        inputs=inputs,
        labels=labels,
        profile=profile,
        preset=preset,
        seed=seed,
        code=code,
        reporter=Reporter(),
    )
    typer.echo(json.dumps(asdict(found), allow_nan=False) if as_json else pair.text(found))


def main() -> None:
    """Run the command line; our own errors are told without a traceback, with their exit code."""
    _take_utf8()
    try:
        app(prog_name="compressor")
    except CompressError as error:
        _say(f"error: {error}")
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from compress.config.user_code import failure, users_lines

        if not (lines := users_lines(error)):
            raise
        refusal = failure(error, Path(lines[-1].rpartition(":")[0]))
        _say(f"error: {refusal}")
        raise SystemExit(refusal.exit_code) from error


def _take_utf8() -> None:
    """Names of files are UTF-8 whatever the locale says, and a terminal that lacks a letter gets its number.

    Under an ASCII locale Python hands over other letters as lone surrogates, which neither JSON files, hashes, SQLite
    nor the libraries take. It decides that when it starts, so it starts once more; Windows and macOS never ask for it.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _load(recipe: Path, overrides: Sequence[str]) -> "Recipe":
    from compress.recipe import Recipe

    return Recipe.load(recipe, overrides=overrides)


def _precision(word: str | None) -> "Precision | None":
    from compress.stage import Precision

    for known in get_args(Precision):
        if word == known:
            return known
    if word is not None:
        raise UsageError("no such precision", expected=", ".join(get_args(Precision)), got=word, where="--precision")
    return None


def _check_stages(recipe: "Recipe", options: Mapping[str, Sequence[str | None]]) -> None:
    for option, names in options.items():
        for name in names:
            if name is not None and (option, name) != ("--until", "teacher"):
                recipe.stage_index(name, option=option)


def _say_how_to_go_on() -> None:
    from compress.config.secrets import mask

    _say(f"stopped; this goes on from here:\n  {shlex.join(['compressor', *map(mask, sys.argv[1:])])}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
