"""The plan: what a run would do, what it would reuse, and why not more. Nothing is written."""

import copy
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from compress.export.graph import to_onnx
from compress.pipeline.pairing import Pairing, pairings
from compress.pipeline.run import RIVALS, TEACHER, Options, context_of, prepared, run_name, teacher_origin
from compress.pipeline.run_directory import decide_execution
from compress.recipe import Recipe
from compress.recipe.plain import leaves
from compress.stage import Context, Member, Stage
from compress.stages.create import Adopt, Create
from compress.stages.quantize import Quantize
from compress.store.artifact import Artifact, Store

SHOWN = 3  # differences told of one stage


@dataclass(frozen=True)
class Row:
    """One step of a plan.

    Attributes:
        name: of the stage or row.
        action: whether its output is in the store.
        why: what is different from the most similar stored output, or why that cannot be known yet.
        key: finds its output; None while what it starts from does not exist.
    """

    name: str
    action: Literal["reuse", "run"]
    why: str
    key: str | None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        steps: in order.
        pairs: which layers its distillations would compare; empty when their losses read logits alone.
    """

    steps: list[Row]
    pairs: list[Pairing]


def plan(recipe: Recipe, options: Options) -> Plan:
    """Return the steps of a run in order, after building and exporting the untrained teacher and student once.

    Raises:
        CompressError: for data, models and files that a run would refuse.
    """
    recipe, options, data = prepared(recipe, options)
    store = Store(options.store.expanduser().absolute())
    execution = decide_execution(store.root / "runs" / run_name(recipe, data), threads=options.threads)
    context = context_of(recipe, data, options, store=store, execution=execution)
    student = None if recipe.student == "teacher" else Create(model=recipe.student)
    origin, train = teacher_origin(recipe.teacher), recipe.teacher.train
    large = _untrained(origin, context)
    small = copy.deepcopy(large) if student is None else _untrained(student, context)
    for stage in recipe.stages:
        stage.check(small, context)
    pairs = pairings(recipe.stages, context, student=small, teacher=large)
    walk = _Walk(options)
    teacher = walk.visit("teacher", origin, None, context, quiet=train is not None)
    if train is not None:
        teacher = walk.visit("teacher", train, teacher, context)
    members = _ensemble(walk, recipe, context)
    context = replace(context, teacher=teacher if len(members) == len(recipe.ensemble) else None, ensemble=members)
    if not options.until_stage:
        for name, mode in RIVALS.items():
            walk.visit(name, Quantize.unbounded(mode=mode), teacher, context)
        for name, baseline in recipe.baselines.items():
            created = walk.visit(name, Create(model=baseline.model), None, context, quiet=True)
            walk.visit(name, baseline.train, created, context)
    source = teacher if student is None else walk.visit("student", student, None, context, quiet=True)
    for stage in recipe.stages if options.until_stage != TEACHER else ():
        source = walk.visit(stage.title, stage, source, context)
        if stage.title == options.until_stage:
            break
    return Plan(walk.rows, pairs)


@dataclass
class _Walk:
    """Visits the steps in order, following the store as far as it goes."""

    options: Options
    rows: list[Row] = field(default_factory=list)

    def visit(
        self, name: str, stage: Stage, source: Artifact | None, context: Context, *, quiet: bool = False
    ) -> Artifact | None:
        """Return a stage's stored output, if there is one, and note why it is or is not reused.

        Args:
            name: of the row.
            stage: the step.
            source: what it starts from; None when that is not stored, or when it starts from nothing.
            context: of the run.
            quiet: note nothing: building a fresh model takes no time.
        """
        key, found = None, None
        if stage.consumes and source is None:
            why = "what it starts from is made anew" if self.rows else "never run before"
        elif "teacher" in stage.needs and stage.guided_loss(context).needs_teacher and context.teacher is None:
            why = "the teacher is made anew"
        else:
            here = context.reading(source)
            inputs, key = stage.inputs(source, here), stage.key(source, here)
            found = context.store.find(key) if name not in self.options.force else None
            why = "forced" if name in self.options.force else _difference(inputs, context.store)
        if not quiet:
            self.rows.append(Row(name, "run" if found is None else "reuse", "" if found else why, key))
        return found


def _difference(inputs: dict[str, Any], store: Store) -> str:
    """Return what sets these inputs apart from the most similar stored output of the same stage."""
    wanted = {".".join(map(str, path)): value for path, value in leaves(inputs)}
    nearest: list[str] | None = None
    for path in (store.root / "artifacts").glob("*/manifest.json"):
        stored = json.loads(path.read_text())["inputs"]
        if stored.get("stage") != inputs["stage"]:
            continue
        known = {".".join(map(str, path)): value for path, value in leaves(stored)}
        changed = [
            f"{name.removeprefix('fields.')} {_short(known.get(name))} -> {_short(wanted.get(name))}"
            for name in sorted(wanted.keys() | known.keys())
            if wanted.get(name) != known.get(name)
        ]
        if nearest is None or len(changed) < len(nearest):
            nearest = changed
    if nearest is None:
        return "never run before"
    more = f" and {len(nearest) - SHOWN} more" if len(nearest) > SHOWN else ""
    return "; ".join(nearest[:SHOWN]) + more


def _short(value: Any) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text


def _ensemble(walk: _Walk, recipe: Recipe, context: Context) -> tuple[Member, ...]:
    """Note the further teachers; return those that are stored."""
    found: list[Member] = []
    for name, colleague in recipe.ensemble.items():
        origin, train = teacher_origin(colleague.teacher), colleague.teacher.train
        artifact = walk.visit(name, origin, None, context, quiet=train is not None)
        if train is not None:
            artifact = walk.visit(name, train, artifact, context)
        if artifact is not None:
            found.append(Member(artifact, colleague.weight))
    return tuple(found)


def _untrained(origin: Create | Adopt, context: Context) -> nn.Module:
    """Build a model and write its ONNX form, to fail before a run would."""
    if isinstance(origin, Adopt):
        return origin.built(context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        module = origin.built(context)
    to_onnx(module, context.task.signature, context.task.batch(context.data.select, torch.arange(2)).inputs)
    return module
