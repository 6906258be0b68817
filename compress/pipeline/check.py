"""`compressor check`: advice on a recipe before its budget is spent. Nothing is trained without a pilot."""

from collections.abc import Callable
from dataclasses import replace

from compress.advice.advise import advise, pilot_of
from compress.advice.pilot import Cost, cost, pilot
from compress.advice.rules import Advice
from compress.pipeline.run import Options, context_of, prepared, run_name, stored_teacher, teacher_origin
from compress.pipeline.run_directory import decide_execution
from compress.recipe import Recipe, Teacher
from compress.stage import Context, Member
from compress.store.artifact import Artifact, Store


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
    recipe, options, data = prepared(recipe, options)
    store = Store.open(options.store)
    execution = decide_execution(store.root / "runs" / run_name(recipe, data), threads=options.threads)
    context = context_of(recipe, data, options, store=store, execution=execution)
    teacher, members = _teacher(recipe.teacher, context), _ensemble(recipe, context)
    complete = len(members) == len(recipe.ensemble)
    context = replace(context, teacher=teacher if complete else None, ensemble=members)
    if on_cost is None:
        return advise(recipe, context)
    stage, make = pilot_of(recipe, context)
    on_cost(cost(stage, context, make))
    return advise(recipe, context, also=pilot(stage, context, make))


def _teacher(given: Teacher, context: Context) -> Artifact | None:
    """Return the teacher if it is stored, or given and only to be read in."""
    found = stored_teacher(given, context)
    if found is None and given.train is None:
        return teacher_origin(given).run(None, context)
    return found


def _ensemble(recipe: Recipe, context: Context) -> tuple[Member, ...]:
    """Return the further teachers that are stored or given."""
    found = [(_teacher(colleague.teacher, context), colleague.weight) for colleague in recipe.ensemble.values()]
    return tuple(Member(artifact, weight) for artifact, weight in found if artifact is not None)
