"""Running a pipeline: its nodes made or found and scored, the race and the verdict, the report."""

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.advice.advise import advise
from compress.advice.rules import judge
from compress.benchmark.environment import describe
from compress.config.discretion import Discretion
from compress.config.user_code import telling_users
from compress.data import Data
from compress.data.roles import subset
from compress.data.teacher_labels import leave_open
from compress.errors import ArtifactError, CompressError, InputError, RecipeError, StageError
from compress.judge.contenders import Contender
from compress.judge.gates import fit_files, judge_on_select
from compress.judge.primary import choose_primary
from compress.judge.race import Race, check_runtimes, run_race
from compress.judge.scores import Scores, score
from compress.judge.simplest import Fitted, fit_simplest
from compress.judge.verdict import read_test
from compress.models import load_model, load_structure
from compress.pipeline.acceptance import accept
from compress.pipeline.answer import Question
from compress.pipeline.estimate import Measured, estimate
from compress.pipeline.leads import measure_simplest, measure_writing
from compress.pipeline.nodes import RIVALS, TEACHER, Node, begin, nodes, origins
from compress.pipeline.pairing import pairings
from compress.pipeline.processes import begin_together, execution_here, follow, lead, refuse_sizes, run_stage
from compress.pipeline.publish import build_report, describe_data, headline, publish
from compress.pipeline.run_directory import Asked, decide_execution, entitle, seconds_by_digest, settle_execution
from compress.pipeline.step import Step
from compress.pipeline.teacher_labels import label_by_teacher
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.recipe.permission import check_allowed
from compress.report.answer import describe_fit
from compress.report.document import FileFit, Report
from compress.report.words import data_line, note_lines
from compress.stage import (
    BatchSize,
    Execution,
    Group,
    Host,
    Member,
    Precision,
    Recorder,
    Reduction,
    Unrecorded,
    Work,
)
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.store.disk import writable
from compress.store.document import OtherSchemaError, load
from compress.store.store import Store
from compress.tasks.naive import refuse_naive
from compress.tracking import Run, Tracker

SMOKE_SAMPLES = 512
MOST_TOLD = 160  # characters of why a comparison is left out
UNRECORDED = Unrecorded()
PARTS = "parts"  # of the store: reports of runs that stopped early, where a whole one is in their place
PLANS = ("plan.json", "quant_plan.json", "quant_curve.json")  # what a stage decided, recorded also when it is reused


@dataclass(frozen=True)
class Options:
    """How to run a recipe, apart from what is in it.

    Attributes:
        store: the store's directory.
        code: the user's Python files that may be run, and folders of them.
        threads: training threads; None, here and below, is what the recipe says, else all cores that the process may
            use.
        device: where models are trained and run, as torch names it; None for the best there is.
        group: the processes that share what trains; each of them makes the same call.
        reduction: how they add gradients; None for exactly on a CPU, and fast elsewhere.
        batch_size: of a pass in training: ``asked`` of the stage, or ``auto``, as much of that as fits the device.
        compile: whether what is trained goes through torch's compiler.
        precision: of training's forward passes; None for the fastest that the device computes in hardware.
        reproduce: whether the same bits are asked for: threads and device are in the keys.
        from_stage: start at this stage; what comes before must be in the store.
        until_stage: stop after this stage, or after ``teacher``; nothing is raced or judged.
        force: stages to run again although the store has their output.
        smoke: a few steps of everything in a store of its own; gates are not judged, and no advice is given.
        strict: a warning of the advice ends the run before anything is distilled.
        again: measure and judge anew what an earlier run has answered, and record it as another run.
        force_teacher: go on with a teacher that is no better than an answer that needs no model.
        directory: of the recipe: paths in what is published start there.
        allow: what else of the recipe may be done: launchers, interpreters, addresses of tracking servers, by name.
        judged: whether test is read for a verdict; without it the gates are looked at on select, as choices are.
        label: the pipeline's name in MLflow; empty takes the recipe's and what sets it apart from others of that name.
        tags: of the pipeline's tracked run.
        reporter: progress and notices.
        interrupted: says whether to checkpoint and stop.
        checkpoint_every_s: seconds between checkpoints inside training.
    """

    store: Path
    code: Sequence[Path] = ()
    threads: int | None = None
    device: str | None = None
    precision: Precision | None = None
    reproduce: bool = False
    group: Group = field(default_factory=Group)
    reduction: Reduction | None = None
    batch_size: BatchSize | None = None
    compile: bool | None = None
    from_stage: str | None = None
    until_stage: str | None = None
    force: Sequence[str] = ()
    smoke: bool = False
    judged: bool = True
    label: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    again: bool = False
    force_teacher: bool = False
    directory: Path = Path()
    allow: Sequence[str] = ()
    reporter: Reporter = field(default_factory=Reporter)
    interrupted: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 30.0

    @property
    def is_whole(self) -> bool:
        """Whether everything of the recipe is run, as far as it goes."""
        return self.until_stage is None and not self.smoke

    def asked(self, recipe: Recipe) -> Asked:
        """Return what of the execution is asked for: here, else by the recipe."""
        wished = recipe.execution
        return Asked(
            self.threads or wished.threads,
            self.device or wished.device,
            self.precision or wished.precision,
            self.reproduce,
            self.group,
            self.reduction or wished.reduction,
            self.batch_size or wished.batch_size,
            wished.compile if self.compile is None else self.compile,
        )


@dataclass(frozen=True)
class Outcome:
    """What a pipeline run came to.

    Attributes:
        passed: whether every gate holds, on test, or on select when test was not read; None when none was judged.
        report: what was found out, as in ``report.json``.
        run_dir: recipe, report, tables, picture, and the bundle when there is one. Of a run that stopped early it is
            another directory where an earlier one came to its end: that one's report stays.
        shipped: the last artifact.
        race: what was measured; None when the run stopped before, or an earlier one has answered.
    """

    passed: bool | None
    report: Report
    run_dir: Path
    shipped: Artifact
    race: Race | None


def run(recipe: Recipe, options: Options, *, raced: Race | None = None) -> Outcome:
    """Run a recipe from its teacher to its verdict, reusing what the store has.

    While nothing that decides it has changed since a run that came to its end, that run's outcome is returned.

    Args:
        recipe: what to do.
        options: how.
        raced: of an earlier run; files that it measured are not measured again.

    Raises:
        CompressError: see ``errors.py``; everything committed before stays.
        LostProcessError: when another process of the group has ended.
        KeyboardInterrupt: when interrupted; the same call continues.
    """
    with lead(options.group):
        return _run(recipe, options, raced)


def help_run(recipe: Recipe, options: Options) -> None:
    """Share what trains in a run that the first process of the group does, until that has come to its end.

    Args:
        recipe: as the first process has it.
        options: as the first process has them, but for the group.

    Raises:
        CompressError: see ``errors.py``; the first process finds that this one has ended.
    """
    told = options.group.tell()
    if told is None:  # an earlier run has answered, or this one is given up
        return
    recipe, options, data = prepare(recipe, options)
    work, store = work_of(recipe, data), Store(options.store.expanduser().absolute())
    host = host_of(options, store=store, execution=execution_here(Execution(**told), options.group))
    follow(recipe, work, host, options.group, until=options.until_stage)


def _run(recipe: Recipe, options: Options, raced: Race | None) -> Outcome:
    question = None
    if options.is_whole:
        question = Question.ask(recipe, store=options.store, code=options.code, allow=options.allow)
        if (known := _find_outcome(question, recipe, options)) is not None:
            return known
    real, full = read(recipe, options)
    recipe, options, data = choose_little(real, options, full)
    refuse_sizes(recipe, data, options.group, until=options.until_stage)
    if options.until_stage is None:
        check_runtimes(recipe, code=options.code)
    store = Store.open(options.store, say=options.reporter.say)
    run_dir = store.root / "runs" / run_name(recipe, data)
    started_s = time.monotonic()
    shared = {  # MLflow filters runs by their own tags alone, so stages have those of their pipeline
        "compress.pipeline_id": run_dir.name,
        "compress.recipe_sha256": recipe.sha256,
        "compress.hw": describe(seed=recipe.seed).cpu_model,
    }
    with (
        store.lock(f"run-{run_dir.name}", wait=None),
        Tracker.open(store.root, uri=recipe.tracking.uri, required=recipe.tracking.required) as tracker,
        tracker.run(
            options.label or entitle(recipe, store.root / "runs", run_dir.name, discretion_of(options)),
            experiment=experiment_name(recipe, data),
            key=run_dir.name,
            tags={"compress.role": "pipeline", **shared, **options.tags},
        ) as parent,
    ):
        execution = settle_execution(run_dir, options.asked(recipe), say=options.reporter.say)
        work, host = work_of(recipe, data), host_of(options, store=store, execution=execution, recorder=parent)
        formula = [f"input: {work.task.input_formula}"] if work.task.input_formula else []
        told = (data_line(describe_data(data, work.task)), *note_lines(data.notes), *formula, f"training: {execution}")
        for line in told:
            options.reporter.say(line)
        begin_together(options.group, execution)
        loop = Loop(recipe, options, tracker, parent, shared, host)
        work = loop.walk(work)
        rows = list(loop.steps.values())
        teacher, fitted = rows[0], loop.fit_simplest(work)
        variants = loop.other_variants(rows[-1], work, teacher=teacher.scores)
        race, led, verdict, gates, files = None, None, None, (), ()
        if not options.until_stage:
            contenders = [Contender(row.title, row.artifact, row.scores) for row in rows]
            contenders[-1:-1] = variants
            race = raced
            if race is None or not race.is_of(contenders):
                rivals = [row.title for row in rows if row.title in RIVALS]
                race = run_race(recipe, work, host, contenders, rivals=rivals, directory=run_dir)
            contenders, led = choose_primary(recipe, contenders, race)
            files = fit_files(recipe, contenders, led)
            rows[-1], variants = settle_primary(
                rows[-1], contenders, teacher=teacher, files=files, say=options.reporter.say
            )
            gates = judge_on_select(recipe, contenders, led)
            verdict = read_test(recipe, work, host, contenders, led, fitted=fitted) if options.judged else None
        earlier_s = seconds_by_digest(run_dir.parent, say=options.reporter.say)
        made_s = earlier_s | {row.artifact.digest: row.seconds for row in rows if not row.reused}
        prediction = None
        if options.smoke and race is not None:
            measured = {row.title: measure_cost(row, made_s) for row in rows}
            prediction = estimate(
                real, full, smoke_select=len(data.select), rows=measured, num_raced=len(race.result.rows)
            )
        report = build_report(
            recipe,
            work,
            host,
            rows,
            variants,
            absent={node.name: why for node, why in loop.absent.items() if node.is_row},
            discretion=discretion_of(options),
            race=led,
            gates_on_select=gates,
            files=files,
            verdict=verdict,
            prediction=prediction,
            fitted=fitted,
            made_s=made_s,
            started_s=started_s,
        )
        written_to = choose_place(run_dir, options)
        with writable(run_dir), options.reporter.bar("report"):
            publish(
                report,
                rows,
                written_to,
                recipe=recipe,
                discretion=discretion_of(options),
                run=parent,
                register=not options.smoke,
            )
    if question is not None:
        question.note_answer(run_dir)
    return Outcome(_decide(report, options), report, written_to, rows[-1].artifact, race)


def choose_place(run_dir: Path, options: Options) -> Path:
    """Return where the report is written: not over that of a run that came to its end by one that stops early."""
    earlier = run_dir / "report.json"
    if options.until_stage is None or not earlier.exists():
        return run_dir
    try:
        whole = load(Report, earlier).benchmark is not None
    except OtherSchemaError:  # of another version, it may be of a whole run
        whole = True
    except ArtifactError:  # damaged, so there is nothing to leave
        return run_dir
    return run_dir.parents[1] / PARTS / run_dir.name if whole else run_dir


def measure_cost(row: Step, made_s: Mapping[str, float]) -> Measured:
    """Return what a row took in a smoke run, from which the real run's costs are foretold."""
    seconds = made_s.get(row.artifact.digest, row.seconds)
    return Measured(seconds, row.artifact.facts, row.scores.facts.size_bytes)


def settle_primary(
    step: Step,
    contenders: Sequence[Contender],
    *,
    teacher: Step,
    files: Sequence[FileFit],
    say: Callable[[str], object],
) -> tuple[Step, list[Contender]]:
    """Return the shipped row with the scores of the file that leads, and the bundle's other files.

    Args:
        step: of the bundle, with the scores of the file that it was written for.
        contenders: all files, the one that leads last.
        teacher: that it is compared with.
        files: how they serve the gates.
        say: told when the leading file is another one.
    """
    others = [entry for entry in contenders[:-1] if entry.variant is not None]
    if contenders[-1].variant is None:
        return step, others
    say(f"primary: auto takes {contenders[-1].variant}; on select {'; '.join(map(describe_fit, reversed(files)))}")
    step = replace(step, scores=contenders[-1].scores, primary=contenders[-1].variant)
    step.run.headline(headline(step.scores, teacher.scores))
    return step, others


def _find_outcome(question: Question, recipe: Recipe, options: Options) -> Outcome | None:
    """Return what an earlier run has answered, if it is all that the options ask for."""
    if options.again or options.reproduce or options.strict or options.from_stage or options.force:
        return None
    found = question.find_answer()
    if found is None:
        return None
    report, run_dir = found
    shipped = Store(question.root).find(report.stages[-1].key)
    how, asked = report.execution, options.asked(recipe)
    same = (asked.threads or how.threads, asked.device or how.device, asked.precision or how.precision)
    if shipped is None or same != (how.threads, how.device, how.precision):
        return None
    if options.judged and report.verdict is None:
        return None
    options.reporter.say(
        f"nothing has changed since {report.environment.date}: this is what was found then; --again measures anew"
    )
    return Outcome(_decide(report, options), report, run_dir, shipped, None)


def _decide(report: Report, options: Options) -> bool | None:
    """Return whether every gate holds, on test, or on select where test is not read; None when none was judged."""
    if options.smoke:
        return None
    if options.judged:
        return None if report.verdict is None else report.verdict.passed
    return all(gate.passed for gate in report.gates_on_select) if report.gates_on_select else None


@dataclass(frozen=True)
class Loop:
    """Folds over the nodes of a pipeline: each is found or made, scored by what it reads back, and recorded.

    Attributes:
        recipe: as it is run.
        options: how.
        tracker: of all runs.
        parent: the pipeline's tracked run.
        shared_tags: of every tracked run.
        host: where it happens.
        steps: the rows so far.
        made: the output of every node so far, and whether the store had it.
        absent: nodes that stand for a comparison alone and could not be made, with the reason.
    """

    recipe: Recipe
    options: Options
    tracker: Tracker
    parent: Run
    shared_tags: Mapping[str, str]
    host: Host
    steps: dict[Node, Step] = field(default_factory=dict)
    made: dict[Node, tuple[Artifact, bool]] = field(default_factory=dict)
    absent: dict[Node, str] = field(default_factory=dict)

    def walk(self, work: Work) -> Work:
        """Go through all nodes; return the work with its teachers.

        Raises:
            CompressError: when a stage refuses a model or data, before anything is trained.
            ModelError: when a teacher's accuracy is not the expected one, or no better than an answer without a model.
        """
        steps = nodes(self.recipe, until=self.options.until_stage)
        self.check(steps, work)
        for node in (node for node in steps if not node.is_taught):
            self.visit(node, work)
        rows = [node for node in self.steps if node.role in ("teacher", "ensemble")]
        members = (Member(self.steps[node].artifact, work.task, node.weight) for node in rows)
        work = replace(work, teachers=tuple(members))
        if self.is_for_students:
            self.warn(work)
        for node in (node for node in steps if node.is_taught):
            self.visit(node, work)
        return work

    @property
    def is_for_students(self) -> bool:
        """Whether a budget is spent on students that advice is worth having for."""
        return self.options.until_stage != TEACHER and not self.options.smoke

    def fit_simplest(self, work: Work) -> Fitted | None:
        """Return the simplest model of the task; None where there is none, and nothing is held against it."""
        return fit_simplest(work, self.host) if self.is_for_students else None

    def check(self, steps: tuple[Node, ...], work: Work) -> None:
        """Let every stage refuse the model that the first one starts from, and taps, before anything is trained."""
        first = begin(steps, "teacher")
        assert first is not None
        teacher = self.find_or_make(first, work)
        fresh = begin(steps, "student")
        student = teacher if fresh is None else self.find_or_make(fresh, work)
        large, small = (load_model(artifact.path, code=self.host.code) for artifact in (teacher, student))
        if self.recipe.teacher.train is not None:
            self.recipe.teacher.train.check(large, work.reading(teacher))
        for node in origins(steps, "ensemble"):
            given, made = self.recipe.ensemble[node.name].teacher, self.find_or_make(node, work)
            if given.train is not None:
                given.train.check(load_model(made.path, code=self.host.code), work.reading(made))
        reading, family = work.reading(student), load_structure(student.path).model
        for position, stage in enumerate(self.recipe.stages):
            accept(stage, small, family, reading, self.host, after=self.recipe.stages[:position])
        pairings(self.recipe, work, student=small, teacher=large)

    def visit(self, node: Node, work: Work) -> None:
        """Make or find a node, and score it on select; a row is recorded too.

        A fresh model is scored as well: what cannot be exported fails before it is trained. What is there only to be
        compared with does not end a run when it cannot be made: it is left out, with the reason.

        Raises:
            CompressError: when its stage refuses it, and it is more than a comparison.
            ModelError: when it is a teacher whose accuracy is not the expected one, or that has learnt nothing.
        """
        if node.source in self.absent:
            self.leave_out(node, self.absent[node.source])
            return
        try:
            with telling_users():
                self._visit(node, work)
        except (StageError, InputError) as error:
            if not node.is_comparison or self._must_exist(node):
                raise
            self.leave_out(node, explain(error))

    def leave_out(self, node: Node, why: str) -> None:
        """Go on without a node, and say so where it would have been a row."""
        self.absent[node] = why
        if node.is_row:
            self.options.reporter.say(f"{node.name:<22}{'none':>9}   {why}")

    def _visit(self, node: Node, work: Work) -> None:
        if not node.is_row:
            score(self.find_or_make(node, work), work, self.host, role="select", teacher=None)
            return
        step = self.record(node, work)
        self.steps[node] = step
        if node.given is not None:
            node.given.check(step.scores.accuracy)
            if not (self.options.smoke or self.options.force_teacher):
                reads = work.reading(step.artifact).task.deployed
                refuse_naive(step.scores.logits, reads, work.data.select, name=node.name)

    def record(self, node: Node, work: Work) -> Step:
        """Make or find a row inside a tracked run, and score it on select."""
        started_s, stage = time.monotonic(), node.stage
        teacher = next((step.scores for step in self.steps.values()), None)
        loss = stage.guided_loss(work.loss).fingerprint
        tags = {"compress.role": node.role, "compress.stage": node.name, "compress.loss": loss, **self.shared_tags}
        tags["compress.recovered"] = "no" if stage.cuts and stage.training is None else "yes"
        # Charts of several pipelines tell runs apart by their names alone.
        with self.tracker.run(f"{node.name} of {self.parent.record.name}", parent=self.parent, tags=tags) as run:
            fields = stage.model_dump(mode="json", exclude={"name", "verb"})
            run.params({node.name: discretion_of(self.options).tell(fields)})
            artifact = self.find_or_make(node, work, recorder=run)
            reused = self.made[node][1]
            for name in PLANS:
                if (artifact.path / name).exists():
                    run.artifact(artifact.path / name)
            scores = score(artifact, work, self.host, role="select", teacher=teacher)
            run.tags({"compress.key": artifact.key, "compress.cache": "hit" if reused else "miss"})
            run.headline(headline(scores, teacher))
            self.tracker.flush(timeout_s=0)
        seconds = time.monotonic() - started_s
        self.options.reporter.say(
            f"{node.name:<22}{'reused' if reused else f'{seconds:.1f} s':>9}   "
            f"{100 * scores.accuracy:6.2f}% on select   {scores.facts.size_bytes / 1e3:9,.1f} kB"
        )
        told = loss if "loss" in stage.needs else None
        return Step(node.name, node.role, artifact, scores, reused, run, seconds, told)

    def find_or_make(self, node: Node, work: Work, *, recorder: Recorder | None = None) -> Artifact:
        """Return a node's output, whose source was visited before.

        Raises:
            StageError: when the stage changed nothing, or ``from_stage`` asks for an output that is not there.
        """
        if node not in self.made:
            source = None if node.source is None else self.made[node.source][0]
            host = self.host if recorder is None else replace(self.host, recorder=recorder)
            self.made[node] = self._find_or_make(node, source, work.reading(source), host)
        return self.made[node][0]

    def _find_or_make(self, node: Node, source: Artifact | None, work: Work, host: Host) -> tuple[Artifact, bool]:
        key = node.stage.key(source, work, host)
        with host.reporter.bar(node.name), host.store.lock(key, wait=host.reporter.say):
            if node.name in self.options.force:
                host.store.discard(key)
            found = host.store.find(key, verify=True)
            if found is not None:
                return found, True
            if host.interrupted():
                raise KeyboardInterrupt
            if self._must_exist(node):
                raise StageError(
                    f"{node.name} comes before {self.options.from_stage} and is not in the store",
                    where=host.store.root,
                    hint="run without --from once",
                )
            artifact = run_stage(node, source, work, host, self.options.group)
        if source is not None and artifact.digest == source.digest:
            raise StageError("the stage changed nothing", where=node.name, hint="remove it, or ask more of it")
        return artifact, False

    def _must_exist(self, node: Node) -> bool:
        """Whether ``from_stage`` asks for a stored output; of a teacher with quantization only there may be none."""
        if self.options.from_stage is None or node.name in RIVALS:
            return False
        titles = [stage.title for stage in self.recipe.stages]
        return node.name not in titles[titles.index(self.options.from_stage) :]

    def warn(self, work: Work) -> None:
        """Say what the cheap probes warn of, before anything is distilled.

        Raises:
            AdviceError: when they warn and the options are strict.
        """
        fitted = self.fit_simplest(work)
        first = [] if fitted is None else judge(measure_simplest(self.recipe, work, self.host, fitted)).findings
        for finding in first:
            self.options.reporter.say(f"{finding.title}: {finding.measured} ahead; {finding.detail}")
        with self.host.reporter.bar("advice"):
            advice = advise(self.recipe, work, self.host, also=measure_writing(self.recipe, work, self.host))
        advice = replace(advice, findings=[*first, *advice.findings])
        for warning in advice.warnings:
            self.options.reporter.say(f"warning: {warning}")
        if self.options.strict:
            advice.refuse()

    def other_variants(self, shipped: Step, work: Work, *, teacher: Scores) -> list[Contender]:
        """Return the files of a bundle besides its primary one, scored on select like everything else."""
        artifact = shipped.artifact
        if artifact.kind != "bundle":
            return []
        return [
            Contender(
                f"{shipped.title}:{name}",
                artifact,
                score(artifact, work, self.host, role="select", teacher=teacher, variant=name),
                name,
            )
            for name in artifact.facts["variants"]
            if name != artifact.facts["primary"]
        ]


def explain(error: CompressError) -> str:
    """Return an error in one line of at most `MOST_TOLD` characters."""
    told = error.message if error.got is None else f"{error.message}: {error.got}"
    return textwrap.shorten(told, MOST_TOLD, placeholder=" ...")


def run_name(recipe: Recipe, data: Data) -> str:
    """Return the name of a recipe's run directory: the same recipe on the same data continues there."""
    return f"{recipe.name}-{hash_values([recipe.identity, data.digest])[:10]}"


def discretion_of(options: Options) -> Discretion:
    """Return how paths are told in what is published."""
    return Discretion(options.directory.absolute(), options.store.expanduser().absolute())


def experiment_name(recipe: Recipe, data: Data) -> str:
    """Return the tracked experiment of a pipeline: what is measured alike is compared in one, whatever the recipe."""
    judged = hash_values({"data": data.digest, "judge": recipe.data.judge.model_dump(mode="json")})
    return recipe.tracking.experiment or f"{recipe.data.source.title}-{judged[:8]}"


def work_of(recipe: Recipe, data: Data) -> Work:
    """Return what decides the results of a recipe's stages, before there is a teacher.

    Args:
        recipe: as it is run; see `prepare`.
        data: its samples.
    """
    return Work(task=recipe.task(data), data=data, loss=recipe.loss, seed=recipe.seed)


def host_of(options: Options, *, store: Store, execution: Execution, recorder: Recorder = UNRECORDED) -> Host:
    """Return where the stages of a recipe happen.

    Args:
        options: how it is run.
        store: where artifacts are committed.
        execution: threads and precision.
        recorder: the tracked run.
    """
    return Host(
        store=store,
        execution=execution,
        code=options.code,
        recorder=recorder,
        reporter=options.reporter,
        interrupted=options.interrupted,
        checkpoint_every_s=options.checkpoint_every_s,
    )


def prepare(recipe: Recipe, options: Options) -> tuple[Recipe, Options, Data]:
    """Return what really runs: the recipe and its data, or for a smoke run little of both, in a store of its own.

    Raises:
        RecipeError: when it asks for what the options do not allow, or something in it does not fit.
    """
    recipe, data = read(recipe, options)
    return choose_little(recipe, options, data)


def read(recipe: Recipe, options: Options) -> tuple[Recipe, Data]:
    """Return the resolved recipe and all of its data; raises as ``prepare`` does."""
    recipe = recipe.resolve(code=options.code)
    check_allowed(recipe, allow=options.allow, store=options.store)
    faults = [f"{recipe.stages[index].title}: {message}" for index, message in recipe.misfits()]
    faults += [f"{'.'.join(path)}: {message}" for path, message in recipe.list_faults()]
    if faults:  # a recipe that was read from a file has been told so already, with its places
        raise RecipeError("\n".join([f"the recipe has {len(faults)} fault(s):", *faults]))
    with options.reporter.bar("reading the data"):
        data = recipe.data.load(code=options.code, store=options.store, reporter=options.reporter)
    return recipe, data if recipe.data.labels is None else _ask_teacher(recipe, data, options)


def _ask_teacher(recipe: Recipe, data: Data, options: Options) -> Data:
    """Return the data with the labels that the recipe's teacher gives them."""
    store = Store(options.store.expanduser().absolute())
    execution = decide_execution(store.root, options.asked(recipe), say=options.reporter.say)
    host = host_of(options, store=store, execution=replace(execution, precision="float32"))
    teacher = begin(nodes(recipe, until=TEACHER), "teacher")
    assert teacher is not None
    return label_by_teacher(data, teacher, work_of(recipe, leave_open(data)), host)


def choose_little(recipe: Recipe, options: Options, data: Data) -> tuple[Recipe, Options, Data]:
    """Return everything as it is, or for a smoke run a few steps on few samples, in a store of its own."""
    if not options.smoke:
        return recipe, options, data
    return recipe.smoke(), replace(options, store=options.store / "smoke"), subset(data, per_role=SMOKE_SAMPLES)
