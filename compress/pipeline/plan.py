"""The plan: what a run would do, what it would reuse, and why not more.

Nothing is written but notes. One of the plan itself: asked again while nothing that decides it has changed, it is read
back. And one of each proof that takes long, by the content of all that it depends on: that an architecture is exported,
that a stage accepts model and data. Another setting costs only the proofs that it is part of.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from compress.config.user_code import telling_users
from compress.errors import ArtifactError, InputError, StageError
from compress.export.stored import deployable_of, prove_export
from compress.models import describe
from compress.models.fold import duplicate
from compress.pipeline.acceptance import accept
from compress.pipeline.nodes import RIVALS, TEACHER, Node, begin, nodes, origins
from compress.pipeline.pairing import pairings
from compress.pipeline.planned import Plan, Row
from compress.pipeline.processes import refuse_sizes
from compress.pipeline.run import Options, explain, host_of, prepare, run_name, work_of
from compress.pipeline.run_directory import decide_execution
from compress.pipeline.surroundings import stored, surroundings
from compress.quantization.programs import find_obstacle
from compress.recipe import Recipe
from compress.recipe.plain import leaves
from compress.stage import Host, Member, Work
from compress.stages.train import Train
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.store.manifest import NAME, Manifest, NewerFormatError
from compress.store.notes import Notes
from compress.store.store import Store

SHOWN = 3  # differences told of one stage


def plan(recipe: Recipe, options: Options) -> Plan:
    """Return the steps of a run in order, after building and exporting the untrained teacher and student once.

    A plan that was made before is read from the store's notes while recipe, options, files, store, versions and our own
    source are as they were.

    Raises:
        CompressError: for data, models and files that a run would refuse.
    """
    root = options.store.expanduser().absolute()
    around = surroundings(recipe, code=options.code)
    asked = {
        "plan": recipe.mask().model_dump(mode="json"),
        "until": options.until_stage,
        "force": list(options.force),
        "smoke": options.smoke,
        "threads": options.threads,
        "device": options.device,
        "precision": options.precision,
        "reproduce": options.reproduce,
        "processes": [options.group.size, options.reduction],
        "passes": [options.batch_size, options.compile],
        "code": [str(path.absolute()) for path in options.code],
        "allow": list(options.allow),
    }
    if around is not None:
        around |= {"store": stored(root, smoke=options.smoke)}
    notes = Notes(root)
    noted = None if around is None else notes.find(asked, of=around)
    if noted is not None:
        return Plan.read(noted)
    found = _look(recipe, options)
    if around is not None:
        notes.keep(asked, asdict(found), of=around)
    return found


def _look(recipe: Recipe, options: Options) -> Plan:
    recipe, options, data = prepare(recipe, options)
    refuse_sizes(recipe, data, options.group, until=options.until_stage)
    store = Store(options.store.expanduser().absolute())
    run_dir = store.root / "runs" / run_name(recipe, data)
    execution = decide_execution(run_dir, options.asked(recipe), say=options.reporter.say)
    work, host = work_of(recipe, data), host_of(options, store=store, execution=execution)
    steps = nodes(recipe, until=options.until_stage)
    first, fresh = begin(steps, "teacher"), begin(steps, "student")
    assert first is not None
    large = _build(first, work, host)
    small = duplicate(large) if fresh is None else _build(fresh, work, host)
    family = (fresh or first).stage.family()
    if recipe.teacher.train is not None:
        recipe.teacher.train.check(large, work)
    for node in origins(steps, "ensemble"):
        _try(node, recipe.ensemble[node.name].teacher.train, work, host)
    built = [(first, large)] + ([] if fresh is None else [(fresh, small)])
    foreseen = [
        f"{node.name}: {line}"
        for node, module in built
        for line in node.stage.foresee(module, node.stage.family(), work, host)
    ]
    foreseen += [
        f"{stage.title}: {line}"
        for position, stage in enumerate(recipe.stages)
        for line in accept(stage, small, family, work, host, after=recipe.stages[:position])
    ]
    pairs = pairings(recipe, work, student=small, teacher=large)
    absent = _find_absent(first, large, work, host) if options.until_stage is None else {}
    for node in origins(steps, "baseline"):
        try:
            _try(node, recipe.baselines[node.name].train, work, host)
        except (StageError, InputError) as error:  # a run leaves it out
            absent[node.name] = explain(error)
    walk = _Walk(options, host, absent)
    for node in (node for node in steps if not node.is_taught):
        walk.visit(node, work)
    teachers = [(node, walk.found[node]) for node in steps if node.given is not None]
    members = [Member(artifact, work.task, node.weight) for node, artifact in teachers if artifact is not None]
    work = replace(work, teachers=tuple(members) if len(members) == len(teachers) else ())
    for node in (node for node in steps if node.is_taught):
        walk.visit(node, work)
    for stage in recipe.stages if options.until_stage != TEACHER else ():
        foreseen += [f"{stage.title}: {line}" for line in stage.tell_outputs(work, host)]
    return Plan(walk.rows, pairs, work.task.input_formula, data.notes, tuple(foreseen), str(execution))


@dataclass
class _Walk:
    """Visits the nodes in order, following the store as far as it goes.

    Attributes:
        options: of the run.
        host: of the run.
        absent: comparisons that cannot be made, with the reason.
        rows: of the plan so far.
        found: what is stored of every node so far.
        damaged: why what is stored of a node cannot be used.
    """

    options: Options
    host: Host
    absent: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    found: dict[Node, Artifact | None] = field(default_factory=dict)
    damaged: dict[Node, str] = field(default_factory=dict)

    def visit(self, node: Node, work: Work) -> None:
        """Look for a node's output, and note for a row why it is or is not reused."""
        if node.name in self.absent:
            if node.is_row:
                self.rows.append(Row(node.name, "none", self.absent[node.name], None))
            return
        stage, key, found = node.stage, None, None
        source = None if node.source is None else self.found[node.source]
        if node.source is not None and source is None:
            why = "what it starts from is made anew" if self.rows else "never run before"
            why = self.damaged.get(node.source, why)
        elif stage.guided_by(work.loss) and not work.teachers:
            why = "the teacher is made anew"
        else:
            inputs = stage.inputs(source, work.reading(source), self.host)
            key = hash_values(inputs)
            forced = node.name in self.options.force
            why = "forced" if forced else _difference(inputs, self.host.store)
            try:
                found = None if forced else self.host.store.look(key)
            except NewerFormatError:
                raise
            except ArtifactError as error:  # a run sets it aside
                why = f"the stored one is damaged: {error.message}"
                self.damaged[node] = why
        self.found[node] = found
        if node.is_row:
            told = why if found is None else _tell_rounding(found.rounding, self.host.execution.rounding)
            self.rows.append(Row(node.name, "run" if found is None else "reuse", told, key))


def _tell_rounding(made: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return how a stored output was rounded, where it would be rounded otherwise here; else nothing."""
    told = [_tell_one(name, value) for name, value in made.items()]
    others = [words for name, words in zip(made, told, strict=True) if made[name] != here.get(name)]
    return f"made {' and '.join(others)}; here it would be the same up to rounding" if others else ""


def _tell_one(name: str, value: Any) -> str:
    if name == "compile":
        return "compiled"
    if name == "batch_size":
        return "in batches that fit"
    return f"on {value}" if name == "device" else f"with {value} {name if value > 1 else name.removesuffix('s')}"


def _difference(inputs: dict[str, Any], store: Store) -> str:
    """Return what sets these inputs apart from the most similar stored output of the same stage."""
    wanted = {".".join(map(str, path)): value for path, value in leaves(inputs)}
    nearest: list[str] | None = None
    for path in (store.root / "artifacts").glob(f"*/{NAME}"):
        try:
            stored = Manifest.read(path.parent).inputs
        except ArtifactError:  # damaged, or of a newer version: nothing to compare with
            continue
        if stored.get("stage") != inputs["stage"]:
            continue
        known = {".".join(map(str, path)): value for path, value in leaves(stored)}
        earlier = ["made by an earlier version, which had threads in its keys"] if known.pop("threads", None) else []
        changed = earlier + [
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


def _build(node: Node, work: Work, host: Host) -> nn.Module:
    """Build a model and prove that it has an ONNX form, to fail before a run would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(work.seed)
        module = node.stage.build(work, host)
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    prove_export(module, node.stage.family(), work.task.signature, example, host)
    return module


def _try(node: Node, train: Train | None, work: Work, host: Host) -> None:
    """Build a model that is trained beside the pipeline's own, as a run will; raises what the run would."""
    with telling_users():
        module = _build(node, work, host)
        if train is not None:
            train.check(module, work)


def _find_absent(teacher: Node, module: nn.Module, work: Work, host: Host) -> dict[str, str]:
    """Return the rows that quantization only cannot make of the teacher, with the reason: its architecture decides."""
    family, signature = teacher.stage.family(), work.task.signature
    notes, name = Notes(host.store.root), {"absent": describe(module, model=family, signature=signature)}
    found = None if family.from_user else notes.find(name, of=None)
    if found is None:
        example = work.task.batch(work.data.select, torch.arange(2)).inputs
        model = deployable_of(module, family, signature, work.task, example, host)
        whys = {rival: find_obstacle(model, mode=mode) for rival, mode in RIVALS.items()}
        found = {rival: why for rival, why in whys.items() if why is not None}
        if not family.from_user:
            notes.keep(name, found, of=None)
    return found
