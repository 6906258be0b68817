"""Commands about what MLflow holds of a store."""

import json
from typing import Annotated

import typer

from compress.cli.messages import loading, say
from compress.cli.options import STORE, AsJson, StorePath


def promote(
    name: Annotated[str, typer.Argument(help="The registered model: the recipe's name.")],
    version: Annotated[int | None, typer.Option(min=1, help="Default: the candidate.")] = None,
    store: StorePath = STORE,
    uri: Annotated[str | None, typer.Option(help="Another MLflow server than the store's database.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a version of a registered student the champion.

    Serving asks for models:/NAME@champion.
    """
    with loading():
        from dataclasses import asdict

        from compress.tracking.registry import promote as promoted

    done = promoted(name, store=store, uri=uri, version=version)
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    before = "" if done.previous is None else f", before it was version {done.previous}"
    typer.echo(f"models:/{name}@champion is version {done.version}{before}\nsha256 {done.sha256}")


def ui(
    store: StorePath = STORE, port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000
) -> None:
    """Open the MLflow UI of a store, on this machine only."""
    from compress.tracking.server import serve
    from compress.tracking.server import ui as server

    command = server(store, port=port)
    shown = [f"MLflow at {command.address}, Ctrl-C ends it", *(f"  {view}" for view in command.views)]
    raise typer.Exit(serve(command, ready=lambda: say("\n".join(shown))))
