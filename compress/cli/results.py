"""Commands that show what finished runs found."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.messages import loading, say
from compress.cli.options import STORE, AsJson, StorePath
from compress.errors import UsageError


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or a name in the store.")],
    everything: Annotated[bool, typer.Option("--all", help="Every table, with percentiles and memory.")] = False,
    price_per_hour: Annotated[
        float | None,
        typer.Option(metavar="PRICE", help="Of the machine: say what a million predictions cost, in its currency."),
    ] = None,
    store: StorePath = STORE,
) -> None:
    """Print again how a run ended; with --all, all it measured."""
    with loading():
        from rich.console import Console

        from compress.cli.places import find_run, places
        from compress.report.document import Report
        from compress.report.terminal import print_all, print_ending, print_price
        from compress.store.document import load

    if price_per_hour is not None and not (0 < price_per_hour < math.inf):
        raise UsageError("a price is a number above 0", got=price_per_hour, where="--price-per-hour")
    directory = find_run(run, store=store)
    found = load(Report, directory / "report.json")
    if everything:
        print_all(found, Console())
    if price_per_hour is not None:
        print_price(found, Console(), price_per_hour=price_per_hour)
    print_ending(found, Console())
    typer.echo("\n".join(places(directory)))


def compare_runs(
    store: StorePath = STORE,
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="A PNG of it; default: pareto.png in the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print and plot what every finished pipeline shipped.

    Marks those that no other of the store beats.
    """
    with loading():
        from rich.console import Console

        from compress.pipeline import runs

    found = runs.read_runs(store, say=say)
    target = picture or store / "pareto.png"
    runs.plot(found, target)
    if as_json:
        typer.echo(json.dumps({"plot": str(target), "runs": runs.documents(found)}))
    else:
        console = Console()
        console.print(runs.table(found, width=console.width))
        typer.echo(f"plot: {target}")
