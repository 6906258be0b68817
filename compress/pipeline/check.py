"""`compressor check`: advice on a recipe before its budget is spent. Nothing is trained without a pilot."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from compress.advice.advise import advise, pilot_of
from compress.advice.measures import Measure
from compress.advice.pilot import Cost, cost, pilot
from compress.advice.rules import Advice, judge
from compress.judge.simplest import fit_simplest
from compress.pipeline.leads import measure_naive, measure_simplest, measure_writing
from compress.pipeline.nodes import TEACHER, nodes
from compress.pipeline.run import Options, host_of, prepare, run_name, work_of
from compress.pipeline.run_directory import decide_execution
from compress.recipe import Recipe
from compress.report.words import note_lines
from compress.stage import Host, Member, Work
from compress.store.artifact import Artifact
from compress.store.store import Store


def check(recipe: Recipe, options: Options, *, on_cost: Callable[[Cost], None] | None = None) -> Advice:
    """Return advice on a recipe; the teacher's outputs on the probe set are stored, and a second call reuses them.

    Args:
        recipe: what would be run.
        options: how it would be run.
        on_cost: given, a pilot is trained, and this is told its cost first.

    Raises:
        UsageError: when a pilot is asked for and there is nothing to try, or no teacher yet.
        CompressError: for data, models and files that a run would refuse.
    """
    recipe, options, data = prepare(recipe, options)
    store = Store.open(options.store, say=options.reporter.say)
    run_dir = store.root / "runs" / run_name(recipe, data)
    execution = decide_execution(run_dir, options.asked(recipe), say=options.reporter.say)
    work, host = work_of(recipe, data), host_of(options, store=store, execution=execution)
    work = replace(work, teachers=find_teachers(recipe, work, host))
    leads, fitted = measure_naive(recipe, work, host), fit_simplest(work, host)
    if fitted is not None:
        leads += measure_simplest(recipe, work, host, fitted)
    with host.reporter.bar("advice"):
        writes = work.task.deployed.problem == "written"
        student = find_student(recipe, work, host) if writes else None
        also: Sequence[Measure] = measure_writing(recipe, work, host, student=student)
        if on_cost is not None:
            lesson, make = pilot_of(recipe, work, host)
            on_cost(cost(lesson, work, host, make))
            also = [*also, *pilot(lesson, work, host, make)]
        found = advise(recipe, work, host, also=also)
    notes = [*note_lines(data.notes), *found.notes]
    if fitted is not None and not work.teachers:
        reached = f"{100 * fitted.tally('select').value:.1f}% {work.task.measure} on select"
        notes.append(f"a teacher is to be better than the simplest model, which reaches {reached}: {fitted}")
    return replace(found, findings=[*judge(leads).findings, *found.findings], notes=notes)


def find_student(recipe: Recipe, work: Work, host: Host) -> Artifact | None:
    """Return the last model that the stages made before it became int8 or a bundle, where it is in the store."""
    rows = [node for node in nodes(recipe) if node.role == "stage"] if work.teachers else []
    found = (node.find(work, host) for node in reversed(rows))
    return next((artifact for artifact in found if artifact is not None and artifact.kind == "model"), None)


def find_teachers(recipe: Recipe, work: Work, host: Host) -> tuple[Member, ...]:
    """Return the teachers that are stored, or given and only to be read in; none unless all are there."""
    rows = [node for node in nodes(recipe, until=TEACHER) if node.given is not None]
    found: list[Member] = []
    for node in rows:
        artifact = node.find(work, host)
        if artifact is None and node.source is None:
            artifact = node.stage.run(None, work, host)  # pyright: ignore[reportArgumentType] # origins take None
        if artifact is not None:
            found.append(Member(artifact, work.task, node.weight))
    return tuple(found) if len(found) == len(rows) else ()
