"""Commands that train: a recipe, or all combinations of values of one."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress.cli.messages import fold, loading, say, say_how_to_go_on
from compress.cli.options import (
    STORE,
    Allow,
    AsJson,
    BatchSizeOf,
    Code,
    Compile,
    Device,
    Force,
    ForceTeacher,
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
from compress.errors import GATE_MISSED, UsageError

if TYPE_CHECKING:
    from compress.pipeline.run import Outcome


def run(
    recipe: RecipePath,
    overrides: Overrides = [],
    from_stage: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Reuse all stages before.")] = None,
    until_stage: Until = None,
    force: Force = [],
    smoke: Smoke = False,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what an earlier run has answered.")] = False,
    strict: Strict = False,
    force_teacher: ForceTeacher = False,
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
    readme: Annotated[
        Path | None, typer.Option("--readme", metavar="FILE", help="Write the result between its markers.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every table, before the answer.")] = False,
) -> None:
    """Run a recipe to its verdict, reusing what the store has."""
    with loading():
        from dataclasses import asdict

        from compress.cli.interruption import refuse_unasked, watch
        from compress.cli.processes import choose_processes, gather, refuse_several
        from compress.pipeline import run as pipeline
        from compress.progress import Reporter
        from compress.report.markdown import around_result, write_into

    loaded = read_recipe(recipe, overrides)
    check_stages(loaded, {"--from": [from_stage], "--until": [until_stage], "--force": force})
    if readme is not None:
        if smoke or until_stage:
            raise UsageError("--readme takes the result of a whole run", got="--smoke" if smoke else "--until")
        around_result(readme)
    if smoke:
        refuse_several(processes, "a smoke run")
    size = choose_processes(processes, loaded, smoke=smoke)
    with gather(size) as crew, watch(quiet=not crew.group.writes) as interrupted:
        options = pipeline.Options(
            store=store,
            directory=recipe.parent,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=read_precision(precision),
            reproduce=reproduce,
            group=crew.group,
            reduction=read_reduction(reduction),
            batch_size=read_batch_size(batch_size),
            compile=compile,
            from_stage=from_stage,
            until_stage=until_stage,
            force=force,
            smoke=smoke,
            again=again,
            strict=strict,
            force_teacher=force_teacher,
            reporter=Reporter(quiet=quiet or not crew.group.writes),
            interrupted=crew.watch(interrupted),
        )
        try:
            if not crew.group.writes:
                pipeline.help_run(loaded, options)
                return
            outcome = pipeline.run(loaded, options)
        except KeyboardInterrupt as error:
            refuse_unasked(error, interrupted)
            if crew.group.writes:
                say_how_to_go_on()
            raise typer.Exit(interrupted.exit_code) from None
    if readme is not None:
        write_into(readme, outcome.report)
    if outcome.passed is False:
        say("a gate is missed; the student and the report are saved")
    if as_json:
        typer.echo(json.dumps({"passed": outcome.passed, "run_dir": str(outcome.run_dir), **asdict(outcome.report)}))
    else:
        _tell(outcome, stopped=until_stage is not None, has_server=loaded.tracking.uri is not None, verbose=verbose)
    if outcome.passed is False:
        raise typer.Exit(GATE_MISSED)


def _tell(outcome: "Outcome", *, stopped: bool, has_server: bool, verbose: bool) -> None:
    """Print what a run came to, and where it lies."""
    from rich.console import Console

    from compress.cli.places import near, places
    from compress.pipeline import estimate
    from compress.report.terminal import print_all, print_ending

    if verbose:
        print_all(outcome.report, Console())
    if outcome.report.estimate is not None:
        typer.echo(fold(estimate.sentence(outcome.report.estimate)))
    if stopped:
        typer.echo(f"artifact: {outcome.shipped.path}")
    print_ending(outcome.report, Console())
    typer.echo("\n".join(places(outcome.run_dir)))
    if not has_server:
        typer.echo(f"MLflow:  {shlex.join(['compressor', 'ui', '--store', str(near(outcome.run_dir.parents[1]))])}")


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
    reproduce: Reproduce = False,
    processes: Processes = None,
    reduction: ReductionOf = None,
    batch_size: BatchSizeOf = None,
    compile: Compile = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a recipe with every combination of values; choose one.

    Chosen on select; test is read once, for the chosen variant.
    """
    with loading():
        from dataclasses import asdict

        from rich.console import Console

        from compress.cli.interruption import refuse_unasked, watch
        from compress.cli.places import places
        from compress.cli.processes import choose_processes, gather
        from compress.pipeline import run as pipeline
        from compress.pipeline.sweep import combinations, help_sweep, table
        from compress.pipeline.sweep import sweep as swept
        from compress.progress import Reporter
        from compress.report.terminal import print_ending

    size = choose_processes(processes, read_recipe(recipe, combinations(choices)[0]))
    with gather(size) as crew, watch(quiet=not crew.group.writes) as interrupted:
        options = pipeline.Options(
            store=store,
            directory=recipe.parent,
            code=code,
            allow=allow,
            threads=threads,
            device=device,
            precision=read_precision(precision),
            reproduce=reproduce,
            group=crew.group,
            reduction=read_reduction(reduction),
            batch_size=read_batch_size(batch_size),
            compile=compile,
            force_teacher=force_teacher,
            reporter=Reporter(quiet=quiet or not crew.group.writes),
            interrupted=crew.watch(interrupted),
        )
        try:
            if not crew.group.writes:
                help_sweep(recipe, choices, options)
                return
            result, outcome = swept(recipe, choices, options, goal="fastest" if fastest else "smallest")
        except KeyboardInterrupt as error:
            refuse_unasked(error, interrupted)
            if crew.group.writes:
                say_how_to_go_on()
            raise typer.Exit(interrupted.exit_code) from None
    if outcome is None:
        say("no variant passes its gates on select; test was not read, and every variant is saved")
    elif not outcome.passed:
        say("the chosen variant misses a gate on test; it and its report are saved")
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        console = Console()
        console.print(table(result, width=console.width))
        if outcome is not None:
            print_ending(outcome.report, console)
            typer.echo("\n".join(places(outcome.run_dir)))
    if outcome is None or not outcome.passed:
        raise typer.Exit(GATE_MISSED)
