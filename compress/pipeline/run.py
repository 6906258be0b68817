"""The one pipeline loop: teacher -> stages -> score each -> race and verdict -> report."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.advice.advise import advise
from compress.benchmark.environment import describe
from compress.data import Data
from compress.data.roles import subset
from compress.errors import RecipeError, StageError
from compress.export.layers import layer_sizes
from compress.judge.scores import Scores, score
from compress.judge.verdict import Contender, Race, Verdict, check_runtimes, gates_on_select, read_test, run_race
from compress.models import load_model
from compress.pipeline.estimate import Measured, estimate
from compress.pipeline.pairing import pairings
from compress.pipeline.run_directory import place_bundle, seconds_by_digest, settle_execution
from compress.progress import Reporter
from compress.quantization.plan import Mode
from compress.recipe import Recipe, Teacher
from compress.report import page as report_page
from compress.report import views as reporting
from compress.stage import Context, Execution, Member, Recorder, Stage, Unrecorded
from compress.stages.create import Adopt, Create
from compress.stages.quantize import Quantize
from compress.store.artifact import Artifact, Store, hash_values, writable, write_atomically
from compress.tasks import Signature
from compress.tracking import Run, Tracker, tracked_headline

SMOKE_SAMPLES = 512
TEACHER = "teacher"  # where a run may stop besides its stages
MAX_THREADS = 64  # that a stored teacher is looked for
UNRECORDED = Unrecorded()
PLANS = ("plan.json", "quant_plan.json", "quant_curve.json")  # what a stage decided, recorded also when it is reused
RIVALS: dict[str, Mode] = {"teacher-static": "static", "teacher-dynamic": "dynamic"}


@dataclass(frozen=True)
class Options:
    """How to run a recipe, apart from what is in it.

    Attributes:
        store: the store's directory.
        code: the user's Python files that may be run.
        threads: training threads; None for all cores that the process may use.
        from_stage: start at this stage; what comes before must be in the store.
        until_stage: stop after this stage, or after ``teacher``; nothing is raced or judged.
        force: stages to run again although the store has their output.
        smoke: a few steps of everything in a store of its own; gates are not judged, and no advice is given.
        strict: a warning of the advice ends the run before anything is distilled.
        judged: whether test is read for a verdict; without it the gates are looked at on select, as choices are.
        label: the pipeline's name in MLflow; empty takes the recipe's.
        tags: of the pipeline's tracked run.
        reporter: progress and notices.
        interrupted: says whether to checkpoint and stop.
        checkpoint_every_s: seconds between checkpoints inside training.
    """

    store: Path
    code: Sequence[Path] = ()
    threads: int | None = None
    from_stage: str | None = None
    until_stage: str | None = None
    force: Sequence[str] = ()
    smoke: bool = False
    judged: bool = True
    label: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    reporter: Reporter = field(default_factory=Reporter)
    interrupted: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a pipeline run came to.

    Attributes:
        passed: whether every gate holds, on test, or on select when test was not read; None when none was judged.
        report: the result document, as in ``report.json``.
        run_dir: recipe, report, tables, picture, and the bundle when there is one.
        shipped: the last artifact.
        race: what was measured; None when the run stopped before.
    """

    passed: bool | None
    report: dict[str, Any]
    run_dir: Path
    shipped: Artifact
    race: Race | None


@dataclass(frozen=True)
class Step:
    """A row of the pipeline: what was made or reused, its scores on select, its tracked run, the loss if it has one.

    Its role is ``teacher``, ``ensemble``, ``baseline`` or ``stage``.
    """

    title: str
    role: str
    artifact: Artifact
    scores: Scores
    reused: bool
    run: Run
    seconds: float
    loss_fingerprint: str | None


def run(recipe: Recipe, options: Options, *, raced: Race | None = None) -> Outcome:
    """Run a recipe from its teacher to its verdict, reusing what the store has.

    Args:
        recipe: what to do.
        options: how.
        raced: of an earlier run; files that it measured are not measured again.

    Raises:
        CompressError: see ``errors.py``; everything committed before stays.
        KeyboardInterrupt: when interrupted; the same call continues.
    """
    real = recipe
    recipe, options, data = prepared(recipe, options)
    if options.until_stage is None:
        check_runtimes(recipe)
    store = Store.open(options.store)
    run_dir = store.root / "runs" / run_name(recipe, data)
    started_s = time.monotonic()
    shared = {  # MLflow filters runs by their own tags alone, so stages have those of their pipeline
        "compress.pipeline_id": run_dir.name,
        "compress.recipe_sha256": hash_values(recipe.model_dump(mode="json")),
        "compress.hw": describe(seed=recipe.seed)["cpu_model"],
    }
    with (
        store.lock(f"run-{run_dir.name}", wait=None),
        Tracker.open(store.root, uri=recipe.tracking.uri, required=recipe.tracking.required) as tracker,
        tracker.run(
            options.label or recipe.name,
            experiment=experiment_name(recipe, data),
            key=run_dir.name,
            tags={"compress.role": "pipeline", **shared, **options.tags},
        ) as parent,
    ):
        execution = settle_execution(run_dir, threads=options.threads)
        context = context_of(recipe, data, options, store=store, execution=execution, recorder=parent)
        options.reporter.say(reporting.data_line(reporting.data_section(data, context.task)))
        loop = Loop(recipe, options, tracker, parent, shared)
        student = loop.student(context)
        teacher = loop.teacher(recipe.teacher, context)
        colleagues = loop.ensemble(context, teacher)
        context = replace(context, teacher=teacher.artifact, ensemble=members(recipe, colleagues))
        if options.until_stage != TEACHER and not options.smoke:
            loop.warn(context)
        baselines = [] if options.until_stage else loop.baselines(context, teacher)
        steps: list[Step] = []
        stages = recipe.stages if options.until_stage != TEACHER else ()
        for stage in stages:
            source = steps[-1].artifact if steps else student or teacher.artifact
            steps.append(loop.step(stage, source, context, teacher=teacher.scores))
            if stage.title == options.until_stage:
                break
        rows = [teacher, *colleagues, *baselines, *steps]
        variants = loop.other_variants(rows[-1], context, teacher=teacher.scores)
        race, verdict, gates = None, None, ()
        if not options.until_stage:
            contenders = [Contender(row.title, row.artifact, row.scores) for row in rows]
            contenders[-1:-1] = variants
            race = raced
            if race is None or not race.is_of(contenders):
                race = run_race(recipe, context, contenders, rivals=tuple(RIVALS), work=run_dir)
            gates = gates_on_select(recipe, contenders, race)
            verdict = read_test(recipe, context, contenders, race) if options.judged else None
        earlier_s = seconds_by_digest(run_dir.parent, say=options.reporter.say)
        made_s = earlier_s | {row.artifact.digest: row.seconds for row in rows if not row.reused}
        report = _report(recipe, context, rows, variants, verdict, made_s=made_s, started_s=started_s)
        if race is not None:
            report |= {"benchmark": race.document, "gates_on_select": [asdict(gate) for gate in gates]}
        if options.smoke and race is not None:
            measured = {
                row.title: Measured(
                    made_s.get(row.artifact.digest, row.seconds), row.artifact.facts, row.scores.facts["size_bytes"]
                )
                for row in rows
            }
            full = real.data.load(code=options.code)
            report["estimate"] = estimate(
                real, full, smoke_select=len(data.select), rows=measured, num_raced=len(race.document["rows"])
            )
        with writable(run_dir):
            loop.publish(report, race, verdict, rows, run_dir)
    passed = all(gate.passed for gate in gates) if gates and not options.judged else verdict and verdict.passed
    return Outcome(None if options.smoke else passed, report, run_dir, rows[-1].artifact, race)


@dataclass(frozen=True)
class Loop:
    """The moves of the loop: each finds or makes an artifact, scores what it reads back, records it."""

    recipe: Recipe
    options: Options
    tracker: Tracker
    parent: Run
    shared_tags: Mapping[str, str]

    def step(
        self,
        stage: Stage,
        source: Artifact | None,
        context: Context,
        *,
        teacher: Scores | None,
        title: str = "",
        role: str = "stage",
    ) -> Step:
        """Run one stage, or reuse its output, and score the result on select."""
        title = title or stage.title
        started_s = time.monotonic()
        loss = stage.guided_loss(context).fingerprint
        tags = {"compress.role": role, "compress.stage": title, "compress.loss": loss, **self.shared_tags}
        with self.tracker.run(title, parent=self.parent, tags=tags) as run:
            run.params({title: stage.model_dump(mode="json", exclude={"name", "verb"})})
            artifact, reused = self.made(stage, source, replace(context, recorder=run), title=title)
            for name in PLANS:
                if (artifact.path / name).exists():
                    run.artifact(artifact.path / name)
            scores = score(artifact, context, role="select", teacher=teacher)
            run.tags({"compress.key": artifact.key, "compress.cache": "hit" if reused else "miss"})
            run.headline(_headline(scores, teacher))
            self.tracker.flush(timeout_s=0)
        seconds = time.monotonic() - started_s
        self.options.reporter.say(
            f"{title:<22}{'reused' if reused else f'{seconds:.1f} s':>9}   "
            f"{100 * scores.accuracy:6.2f}% on select   {scores.facts['size_bytes'] / 1e3:9,.1f} kB"
        )
        return Step(title, role, artifact, scores, reused, run, seconds, loss if "loss" in stage.needs else None)

    def made(self, stage: Stage, source: Artifact | None, context: Context, *, title: str) -> tuple[Artifact, bool]:
        """Return a stage's output, and whether the store had it.

        Raises:
            StageError: when the stage changed nothing, or ``from_stage`` asks for an output that is not there.
        """
        context = context.reading(source)
        key = stage.key(source, context)
        with context.store.lock(key, wait=context.reporter.say):
            if title in self.options.force:
                context.store.discard(key)
            found = context.store.find(key, verify=True)
            if found is not None:
                return found, True
            if context.interrupted():
                raise KeyboardInterrupt
            if self._must_exist(title):
                raise StageError(
                    f"{title} comes before {self.options.from_stage} and is not in the store",
                    where=context.store.root,
                    hint="run without --from once",
                )
            artifact = stage.run(source, context)  # pyright: ignore[reportArgumentType] # Create alone takes None
        if source is not None and artifact.digest == source.digest:
            raise StageError("the stage changed nothing", where=title, hint="remove it, or ask more of it")
        return artifact, False

    def _must_exist(self, title: str) -> bool:
        if self.options.from_stage is None:
            return False
        titles = [stage.title for stage in self.recipe.stages]
        return title not in titles[titles.index(self.options.from_stage) :]

    def teacher(
        self, given: Teacher, context: Context, *, title: str = "teacher", reference: Scores | None = None
    ) -> Step:
        """Return a teacher: given weights, or created and trained.

        Raises:
            ModelError: when its accuracy is not the expected one.
        """
        create = teacher_origin(given)
        role = "teacher" if reference is None else "ensemble"
        if given.train is None:
            step = self.step(create, None, context, teacher=reference, title=title, role=role)
            self._check(step.artifact, context, title=title)
        else:
            created, _ = self.made(create, None, context, title=title)
            self._check(created, context, title=title)
            # Scoring exports it: a teacher that cannot be exported fails before it is trained.
            score(created, context, role="select", teacher=None)
            step = self.step(given.train, created, context, teacher=reference, title=title, role=role)
        given.check(step.scores.accuracy)
        return step

    def ensemble(self, context: Context, teacher: Step) -> list[Step]:
        """Return the further teachers."""
        return [
            self.teacher(colleague.teacher, context, title=title, reference=teacher.scores)
            for title, colleague in self.recipe.ensemble.items()
        ]

    def student(self, context: Context) -> Artifact | None:
        """Return the fresh student that the first stage starts from; None when that is a copy of the teacher.

        It is scored at once, so that one that cannot be exported fails before anything is trained.
        """
        if self.recipe.student == "teacher":
            return None
        created, _ = self.made(Create(model=self.recipe.student), None, context, title="student")
        self._check(created, context, title="student")
        score(created, context, role="select", teacher=None)
        return created

    def _check(self, artifact: Artifact, context: Context, *, title: str) -> None:
        """Let every stage refuse the model that the first one starts from, and taps, before anything is trained."""
        if title not in (TEACHER, "student"):
            return
        module, first = load_model(artifact.path, code=context.code), self.recipe.student
        if title == (TEACHER if first == "teacher" else "student"):
            for stage in self.recipe.stages:
                stage.check(module, context.reading(artifact))
        if title == TEACHER:
            student = module
            if first != "teacher":
                created, _ = self.made(Create(model=first), None, context, title="student")
                student = load_model(created.path, code=context.code)
            pairings(self.recipe.stages, context, student=student, teacher=load_model(artifact.path, code=context.code))

    def baselines(self, context: Context, teacher: Step) -> list[Step]:
        """Return the teacher with quantization only, static and dynamic, and the models trained alone."""
        rows = []
        for title, mode in RIVALS.items():
            stage = Quantize.unbounded(mode=mode)
            rows.append(
                self.step(stage, teacher.artifact, context, teacher=teacher.scores, title=title, role="baseline")
            )
        for title, baseline in self.recipe.baselines.items():
            created, _ = self.made(Create(model=baseline.model), None, context, title=title)
            rows.append(
                self.step(baseline.train, created, context, teacher=teacher.scores, title=title, role="baseline")
            )
        return rows

    def warn(self, context: Context) -> None:
        """Say what the cheap probes warn of, before anything is distilled.

        Raises:
            AdviceError: when they warn and the options are strict.
        """
        advice = advise(self.recipe, context)
        for warning in advice.warnings:
            self.options.reporter.say(f"warning: {warning}")
        if self.options.strict:
            advice.refuse()

    def other_variants(self, shipped: Step, context: Context, *, teacher: Scores) -> list[Contender]:
        """Return the files of a bundle besides its primary one, scored on select like everything else."""
        if shipped.artifact.kind != "bundle":
            return []
        names = [name for name in shipped.artifact.facts["variants"] if name != shipped.artifact.facts["primary"]]
        return [
            Contender(
                f"{shipped.title}:{name}",
                shipped.artifact,
                score(shipped.artifact, context, role="select", teacher=teacher, variant=name),
                name,
            )
            for name in names
        ]

    def publish(
        self,
        report: dict[str, Any],
        race: Race | None,
        verdict: Verdict | None,
        rows: Sequence[Step],
        run_dir: Path,
    ) -> None:
        """Write the report and its views, record them and the bundle; register the student when its gates pass."""
        texts = {
            "report.json": json.dumps(report, indent=1) + "\n",
            "report.md": reporting.markdown(report),
            "report.csv": reporting.csv_text(report),
            "report.html": report_page.page(report),
            "recipe.yaml": self.recipe.to_yaml(),
            "plan.json": json.dumps([_planned(row) for row in rows], indent=1) + "\n",
        }
        for name, text in texts.items():
            write_atomically(run_dir / name, text)
        names = [*texts]
        shipped = rows[-1]
        if race is not None:
            reporting.waterfall(report).savefig(run_dir / "waterfall.png", dpi=130)
            names.append("waterfall.png")
            self._record_race(race, verdict, rows)
        for name in names:
            self.parent.artifact(run_dir / name)
        self.parent.params(self.recipe.parameters())
        if shipped.artifact.kind == "bundle":
            bundle = place_bundle(shipped.artifact.path, run_dir)
            self.parent.artifact(bundle)
            if verdict is not None and verdict.passed and not self.options.smoke:
                self._register(bundle, verdict)

    def _record_race(self, race: Race, verdict: Verdict | None, rows: Sequence[Step]) -> None:
        primary = race.document["profiles"][0]
        by_name = {row["name"]: row for row in race.document["rows"]}
        tests = {row["name"]: row["accuracy"]["value"] for row in verdict.test} if verdict is not None else {}
        measured = race.document["comparisons"][0]["measurements"]
        for row in rows:
            found = by_name[row.title]
            values = {"latency_p50_ms": found["latency_ms"].get(primary), "test_accuracy": tests.get(row.title)}
            if row.title in measured:
                values |= _resources(measured[row.title])
            if primary in found["speedup"]:
                values["speedup_x"] = found["speedup"][primary]["value"]
            known = {key: value for key, value in values.items() if value is not None}
            row.run.headline(known)
            row.run.metrics(_other_profiles(found, race.document["profiles"][1:]), step=0)
            if row is rows[-1]:
                self.parent.headline(known | _headline(row.scores, rows[0].scores))

    def _register(self, bundle: Path, verdict: Verdict) -> None:
        manifest = json.loads((bundle / "bundle.json").read_text())
        signature = Signature.model_validate(manifest["signature"])
        inputs, outputs = (
            [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
            for tensors in (signature.inputs, signature.outputs)
        )
        with np.load(bundle / "reference.npz") as archive:
            example = {name: archive[f"input/{name}"][:1] for name, _, _ in inputs}
        self.parent.register_onnx(
            bundle / manifest["primary"],
            name=self.recipe.name,
            inputs=inputs,
            outputs=outputs,
            example=example,
            tags={"test_accuracy": verdict.test[-1]["accuracy"]["value"]},
        )


def members(recipe: Recipe, colleagues: Sequence[Step]) -> tuple[Member, ...]:
    """Return the further teachers with their weights."""
    weights = [colleague.weight for colleague in recipe.ensemble.values()]
    return tuple(Member(step.artifact, weight) for step, weight in zip(colleagues, weights, strict=True))


def run_name(recipe: Recipe, data: Data) -> str:
    """Return the name of a recipe's run directory: the same recipe on the same data continues there."""
    return f"{recipe.name}-{hash_values([recipe.model_dump(mode='json'), data.digest])[:10]}"


def experiment_name(recipe: Recipe, data: Data) -> str:
    """Return the tracked experiment of a pipeline: what is measured alike is compared in one, whatever the recipe."""
    judged = hash_values({"data": data.digest, "judge": recipe.data.judge.model_dump(mode="json")})
    return recipe.tracking.experiment or f"{recipe.data.source.title}-{judged[:8]}"


def teacher_origin(given: Teacher) -> Create | Adopt:
    """Return the stage that a teacher begins with."""
    if given.artifact is not None:
        return Adopt(artifact=given.artifact)
    assert given.model is not None
    return Create(model=given.model, weights=given.weights)


def context_of(
    recipe: Recipe,
    data: Data,
    options: Options,
    *,
    store: Store,
    execution: Execution,
    recorder: Recorder = UNRECORDED,
) -> Context:
    """Return what the stages of a recipe are handed, before there is a teacher.

    Args:
        recipe: as it is run; see `prepared`.
        data: its samples.
        options: how it is run.
        store: where artifacts are committed.
        execution: threads and precision.
        recorder: the tracked run.
    """
    return Context(
        task=recipe.task(data),
        data=data,
        loss=recipe.loss,
        teacher=None,
        store=store,
        seed=recipe.seed,
        execution=execution,
        recorder=recorder,
        reporter=options.reporter,
        code=options.code,
        interrupted=options.interrupted,
        checkpoint_every_s=options.checkpoint_every_s,
    )


def stored_teacher(given: Teacher, context: Context) -> Artifact | None:
    """Return the teacher that a run with this context would reuse, if the store has it."""
    origin = context.store.find(teacher_origin(given).key(None, context))
    if origin is None or given.train is None:
        return origin
    return context.store.find(given.train.key(origin, context))


def any_teacher(given: Teacher, context: Context) -> Artifact:
    """Return a stored teacher, whatever number of threads it was trained with, or make it."""
    for threads in range(1, MAX_THREADS + 1):
        there = replace(context, execution=replace(context.execution, threads=threads))
        found = stored_teacher(given, there)
        if found is not None:
            return found
    origin = teacher_origin(given).run(None, context)
    return origin if given.train is None else given.train.run(origin, context)


def prepared(recipe: Recipe, options: Options) -> tuple[Recipe, Options, Data]:
    """Return what really runs: the recipe and its data, or for a smoke run little of both, in a store of its own."""
    faults = [f"{recipe.stages[index].title}: {message}" for index, message in recipe.misfits()]
    faults += [f"{'.'.join(path)}: {message}" for path, message in (*recipe.unshipped(), *recipe.untimed())]
    if faults:  # a recipe that was read from a file has been told so already, with its places
        raise RecipeError("\n".join([f"the recipe has {len(faults)} fault(s):", *faults]))
    if not options.smoke:
        return recipe, options, recipe.data.load(code=options.code)
    data = subset(recipe.data.load(code=options.code), per_role=SMOKE_SAMPLES)
    return recipe.smoke(), replace(options, store=options.store / "smoke"), data


def _headline(scores: Scores, teacher: Scores | None) -> dict[str, float]:
    values = tracked_headline(scores.facts)
    if teacher is not None:
        values["delta_accuracy"] = scores.accuracy - teacher.accuracy
        values["compression_x"] = teacher.facts["size_bytes"] / scores.facts["size_bytes"]
    return values


def _resources(measurement: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what a file takes under the primary profile."""
    peaks = [peak for peak in measurement["memory_bytes"].values() if peak is not None]
    return {
        "throughput_per_s": measurement["throughput_per_s"],
        "memory_peak_mb": max(peaks) / 1e6 if peaks else None,
    }


def _other_profiles(found: Mapping[str, Any], profiles: Sequence[str]) -> dict[str, float]:
    """Return what a row's file did under the profiles besides the primary one, which has the headline."""
    values = {}
    for profile in profiles:
        if profile in found["latency_ms"]:
            values[f"profile.{profile}/latency_p50_ms"] = found["latency_ms"][profile]
        if profile in found["speedup"]:
            values |= {f"profile.{profile}/speedup_{end}": found["speedup"][profile][end] for end in ("low", "high")}
    return values


def _planned(row: Step) -> dict[str, str]:
    return {"name": row.title, "action": "reused" if row.reused else "run", "key": row.artifact.key}


def _report(
    recipe: Recipe,
    context: Context,
    rows: Sequence[Step],
    variants: Sequence[Contender],
    verdict: Verdict | None,
    *,
    made_s: Mapping[str, float],
    started_s: float,
) -> dict[str, Any]:
    return {
        "schema": reporting.SCHEMA,
        "recipe": recipe.name,
        "recipe_sha256": hash_values(recipe.model_dump(mode="json")),
        "recipe_yaml": recipe.to_yaml(),
        "command": reporting.command(context),
        "task": {"problem": context.task.problem, "measure": context.task.measure},
        "loss": {"fields": recipe.loss.model_dump(), "fingerprint": recipe.loss.fingerprint},
        "execution": {"threads": context.execution.threads, "precision": context.execution.precision},
        "data": reporting.data_section(context.data, context.task),
        "stages": [
            {
                "name": row.title,
                "role": row.role,
                "key": row.artifact.key,
                "digest": row.artifact.digest,
                "kind": row.artifact.kind,
                "reused": row.reused,
                "made_s": made_s.get(row.artifact.digest),
                "loss_fingerprint": row.loss_fingerprint,
                "facts": row.artifact.facts,
                "scores": row.scores.facts,
                "layers": [asdict(layer) for layer in layer_sizes(row.scores.onnx_path)],
            }
            for row in rows
        ],
        "variants": {entry.name: entry.scores.facts for entry in variants},
        "estimate": None,
        "benchmark": None,
        "gates_on_select": [],
        "verdict": None if verdict is None else reporting.verdict_section(verdict),
        "environment": describe(seed=recipe.seed),
        "seconds": round(time.monotonic() - started_s, 1),
    }
