"""Commands about a bundle: judge it, and lay it out for the program that serves it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.messages import loading, say, width
from compress.cli.options import STORE, AsJson, StorePath
from compress.errors import GATE_MISSED, UsageError


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The directory of an exported student.")],
    as_json: AsJson = False,
) -> None:
    """Repeat a bundle's check on this machine.

    Needs onnxruntime and numpy only.
    """
    with loading():
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


def tell_package(place: Path, told: str, *, width: int) -> str:
    """Return what is said of a layout: where it lies, the line that loads it, whole, and what to know before.

    Args:
        place: of the layout.
        told: how to load it, and below that what to know.
        width: columns of the terminal.
    """
    from compress.progress import fold

    command, *more = told.split("\n")
    notes = [line for note in more for line in fold(f"note: {note}", width)]
    return "\n".join([str(place), "load it with:", command, *notes])


def package(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, its name in the store, or a bundle.")],
    layout: Annotated[
        str, typer.Option("--for", metavar="PROGRAM", help="triton, transformers.js, optimum, mlflow or plain.")
    ],
    target: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where to; default: NAME-PROGRAM here.")
    ] = None,
    store: StorePath = STORE,
) -> None:
    """Lay a bundle out for the program that serves it."""
    with loading():
        from compress.cli.places import find_run
        from compress.export.manifest import NAME, Manifest
        from compress.export.package import check_single
        from compress.export.package import package as packaged
        from compress.export.verify import check_files

    bundle = Path(run) if (Path(run) / NAME).is_file() else find_run(run, store=store) / "bundle"
    name = (bundle.parent if bundle.name == "bundle" else bundle).absolute().name
    place = target or Path(f"{name}-{layout}")
    if layout == "mlflow":
        from compress.tracking.served import save

        manifest = Manifest.read(bundle)
        check_files(bundle, manifest)
        check_single(bundle, manifest)
        told = save(bundle, place)
    elif layout in ("plain", "triton", "transformers.js", "optimum"):
        told = packaged(bundle, place, layout=layout, name=name)
    else:
        raise UsageError(
            "there is no such layout", expected="triton, transformers.js, optimum, mlflow or plain", got=layout
        )
    typer.echo(tell_package(place, told, width=width()))
