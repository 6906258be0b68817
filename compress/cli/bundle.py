"""The command that judges a bundle."""

import json
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.messages import say
from compress.cli.options import AsJson
from compress.errors import GATE_MISSED


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The directory of an exported student.")],
    as_json: AsJson = False,
) -> None:
    """Repeat a bundle's check on this machine.

    Needs onnxruntime and numpy only.
    """
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
        say(f"warning: {warning}")
    if not result.passed:
        raise typer.Exit(GATE_MISSED)
