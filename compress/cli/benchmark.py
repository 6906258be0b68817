"""Commands that measure without a recipe: this machine, and two files."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.messages import loading, width
from compress.cli.options import AsJson, Code, Launcher, Python


def env(as_json: AsJson = False, python: Python = "", launcher: Launcher = "") -> None:
    """Print versions, CPU features, and which runtimes work.

    Where one does not, it says why and what to install.
    """
    with loading():
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


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The reference: an ONNX file, or a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Judged against it; likewise.")],
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
    """Say whether one model is faster than another, or slower.

    Inputs that they call otherwise are matched by position, shape and kind. Whichever it is, the exit code is 0.
    """
    with loading():
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
    if as_json:
        typer.echo(json.dumps(asdict(found), allow_nan=False))
        return
    typer.echo(pair.text(found, width=min(pair.COLUMNS, width())))
