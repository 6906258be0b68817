"""Commands that say beforehand what a run would do, and whether it is likely to pay."""

import json
from typing import Annotated

import typer

from compress.cli.messages import loading, say, width
from compress.cli.options import (
    STORE,
    Allow,
    AsJson,
    BatchSizeOf,
    Code,
    Compile,
    Device,
    Force,
    Overrides,
    PrecisionOf,
    Processes,
    RecipePath,
    ReductionOf,
    Reproduce,
    Smoke,
    StorePath,
    Strict,
    Threads,
    Until,
    check_stages,
    read_batch_size,
    read_precision,
    read_recipe,
    read_reduction,
)


def plan(
    context: typer.Context,
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
    reproduce: Reproduce = False,
    processes: Processes = None,
    reduction: ReductionOf = None,
    batch_size: BatchSizeOf = None,
    compile: Compile = None,
    as_json: AsJson = False,
) -> None:
    """Show what would run, and what is reused and why not more.

    Also which layers are compared, and what is refused; a note of it is kept.
    """
    from dataclasses import asdict

    from compress.pipeline.typed import Typed

    words = {name: value for name, value in context.params.items() if name != "as_json"}
    typed = Typed.of(recipe, words, store=store, code=code, smoke=smoke)
    found = None if typed is None else typed.find_plan()
    if found is None:
        with loading():
            from compress.cli.processes import choose_processes
            from compress.pipeline.plan import plan as planned
            from compress.pipeline.run import Options
            from compress.stage import Group

        loaded = read_recipe(recipe, overrides)
        around = None if typed is None else typed.look_around(loaded)
        check_stages(loaded, {"--until": [until_stage], "--force": force})
        size = choose_processes(processes, loaded, smoke=smoke) or 1
        options = Options(
            store=store,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=read_precision(precision),
            reproduce=reproduce,
            group=Group(size=size, local_size=size),
            reduction=read_reduction(reduction),
            batch_size=read_batch_size(batch_size),
            compile=compile,
            until_stage=until_stage,
            force=force,
            smoke=smoke,
        )
        found = planned(loaded, options)
        if typed is not None:
            typed.keep(found, around)
    typer.echo(json.dumps(asdict(found)) if as_json else "\n".join(found.lines(width())))


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
    reproduce: Reproduce = False,
    processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Say with numbers whether distillation is likely to pay.

    Names what to change first; trains nothing but a pilot.
    """
    with loading():
        from rich.console import Console

        from compress.cli.interruption import refuse_unasked, watch
        from compress.cli.processes import refuse_several
        from compress.pipeline.check import check as checked
        from compress.pipeline.run import Options
        from compress.progress import Reporter

    loaded = read_recipe(recipe, overrides)
    refuse_several(processes, "advice, which reads a few samples and trains briefly,")
    with watch() as interrupted:
        options = Options(
            store=store,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=read_precision(precision),
            reproduce=reproduce,
            reporter=Reporter(quiet=as_json),
            interrupted=interrupted,
        )
        try:
            advice = checked(loaded, options, on_cost=(lambda cost: say(str(cost))) if pilot else None)
        except KeyboardInterrupt as error:
            refuse_unasked(error, interrupted)
            raise typer.Exit(interrupted.exit_code) from None
    if as_json:
        typer.echo(json.dumps(advice.document(), allow_nan=False))
    else:
        advice.show(Console())
    if strict:
        advice.refuse()
