"""The verdict: the files raced against each other, test read once, gates judged on interval bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.benchmark import report as benchmark_report
from compress.benchmark.accuracy import doubt
from compress.benchmark.compare import PRESETS, Comparison, Preset, compare, unmeasured
from compress.benchmark.measure import Profile
from compress.benchmark.process import HERE, Worker, WorkerError, check_usable, usable_runtime
from compress.benchmark.runtimes.worker import LENGTHS
from compress.data import Samples
from compress.errors import EnvironmentFault, StageError
from compress.export.feed import Feed, arrays
from compress.judge.mistakes import Mistakes, mistakes
from compress.judge.remedy import Quantity, moves, remedy
from compress.judge.scores import Scores, against, score
from compress.measures.intervals import Estimate, agreement, measured, measured_changes, sign_test
from compress.progress import Reporter
from compress.recipe import Limits, Recipe
from compress.stage import Host, Work
from compress.stages.export import Variant
from compress.store.artifact import Artifact, writable
from compress.tasks import Task

RACED_SAMPLES = 256  # of select, which the race rotates through
SOFTWARE_SAMPLES = (
    128  # of select, which a software adapter scores: it shows that a runtime is right, not what it gives
)
ELSEWHERE_BATCH = 32  # a slow device answers so many within the worker's time limit
SCORED = ("ort-cpu", HERE)  # where `scoring` runs files
QUANTITIES: dict[str, Quantity] = {"max_accuracy_drop": "accuracy", "max_size_mb": "size"}  # speed otherwise


@dataclass(frozen=True)
class Contender:
    """One file in the race.

    Attributes:
        name: row name.
        artifact: what the file is the ONNX form of.
        scores: its scores on select.
        variant: of a bundle; None for its primary one, and for everything else.
    """

    name: str
    artifact: Artifact
    scores: Scores
    variant: Variant | None = None


@dataclass(frozen=True)
class GateResult:
    """One gate.

    Attributes:
        name: the recipe's field, with the profile behind a point for a latency; behind the variant's name and a colon
            for a file that is not the primary one.
        limit: the recipe's value.
        estimate: the measured value.
        judged: the interval bound that was compared with the limit.
        passed: whether the gate holds.
        profile: that it was timed under; empty for what is not timed.
        remedy: of a missed gate, what to change first, and what each stage bought and cost.
    """

    name: str
    limit: float
    estimate: float
    judged: float
    passed: bool
    profile: str = ""
    remedy: str = ""

    @property
    def field(self) -> str:
        """The recipe's field alone."""
        return self.name.rpartition(": ")[2].partition(".")[0]

    @property
    def at_least(self) -> bool:
        """Whether the limit is a lower one."""
        return self.field == "min_speedup"

    @property
    def gap(self) -> str:
        """What is missing, in words."""
        relation = "at least" if self.at_least else "at most"
        judged = f"{self.judged:.4g} at the interval's bound ({self.estimate:.4g} measured)"
        return f"{self.name}: {relation} {self.limit:g} asked, {judged}"


@dataclass(frozen=True)
class Verdict:
    """What the shipped file came to.

    Attributes:
        document: the benchmark's result document.
        test: rows of the test role: the teacher, the teacher with quantization only, the shipped file.
        rival: name of the teacher-with-quantization row that is faster.
        over_rival: speed of the shipped file over it.
        over_rival_measurable: whether that stands out of the noise.
        gates: judged gates; empty when the recipe has none.
        mistakes: on test, of the shipped file against the teacher; None where no single class is decided.
    """

    document: dict[str, Any]
    test: list[dict[str, Any]]
    rival: str
    over_rival: Estimate
    over_rival_measurable: bool
    gates: tuple[GateResult, ...]
    mistakes: Mistakes | None

    @property
    def passed(self) -> bool | None:
        """Whether every gate holds; None without gates."""
        return all(gate.passed for gate in self.gates) if self.gates else None


@dataclass(frozen=True)
class Race:
    """Every file measured against the others; nothing of the test role.

    Attributes:
        document: the benchmark's result document.
        comparisons: one per profile, the primary one first.
        rival: name of the teacher-with-quantization row that is faster.
        digests: of what was raced, in order.
    """

    document: dict[str, Any]
    comparisons: Sequence[Comparison]
    rival: str
    digests: tuple[str, ...]

    @property
    def primary(self) -> Comparison:
        """The comparison under the primary profile."""
        return self.comparisons[0]

    def is_of(self, contenders: Sequence[Contender]) -> bool:
        """Return whether these very files were raced."""
        return self.digests == tuple(entry.artifact.digest for entry in contenders)

    def latency_ms(self, name: str, *, profile: str) -> Estimate:
        """Return a row's latency under a profile."""
        return next(found for found in self.comparisons if found.profile.name == profile).latency_ms(name)


def judge(
    recipe: Recipe, work: Work, host: Host, contenders: Sequence[Contender], *, rivals: Sequence[str], directory: Path
) -> Verdict:
    """Race the files, read test once and judge the gates; see ``run_race`` and ``read_test``."""
    race = run_race(recipe, work, host, contenders, rivals=rivals, directory=directory)
    return read_test(recipe, work, host, contenders, race)


def run_race(
    recipe: Recipe, work: Work, host: Host, contenders: Sequence[Contender], *, rivals: Sequence[str], directory: Path
) -> Race:
    """Measure the files against each other.

    Args:
        recipe: benchmark profiles and gates.
        work: task, data.
        host: store, execution, reporter.
        contenders: the teacher first, the shipped file last.
        rivals: names of the rows that are the teacher with quantization only.
        directory: where the sample inputs are written.

    Raises:
        StageError: when one that the verdict is about could not be measured.
        KeyboardInterrupt: when ``host.interrupted`` says so, between two profiles or two files.
    """
    teacher = contenders[0]
    inputs = write_samples(contenders, work, directory)
    needed = needed_rows(recipe, contenders, rivals=rivals)
    comparisons = raced(recipe, host, contenders, needed=needed, inputs=inputs)
    accuracy = runtime_accuracy(contenders, comparisons, work, host, inputs=inputs, seed=recipe.seed)
    document = benchmark_report.build(
        [
            benchmark_report.Entry(
                name=entry.name,
                path=entry.scores.onnx_path,
                num_params=entry.scores.facts["parameters"],
                tally=entry.scores.tally,
                decisions=work.task.decisions(entry.scores.logits),
                macs=entry.scores.facts["macs"],
                runtime_accuracy=accuracy.get(entry.name, {}),
            )
            for entry in contenders
        ],
        comparisons,
        reference=teacher.name,
        seed=recipe.seed,
        title=f"{recipe.name}: what each stage bought and cost ({work.task.measure} on select)",
    )
    primary = comparisons[0]
    rival = max(rivals, key=lambda name: primary.speedup(name, over=teacher.name).value)
    return Race(document, comparisons, rival, tuple(entry.artifact.digest for entry in contenders))


def read_test(recipe: Recipe, work: Work, host: Host, contenders: Sequence[Contender], race: Race) -> Verdict:
    """Read test, for the teacher, the faster rival and the files that have gates, and judge the gates on it.

    Raises:
        StageError: when a file's outputs are not finite.
    """
    teacher, shipped = contenders[0], contenders[-1]
    rival = next(entry for entry in contenders if entry.name == race.rival)
    gated = [*_gated(recipe, contenders), shipped]
    test = test_rows([teacher, rival, *gated], work, host, seed=recipe.seed)
    changes = {entry.name: row["change"] for entry, row in zip(gated, test[2:], strict=True)}
    over_rival = race.primary.speedup(shipped.name, over=race.rival)
    return Verdict(
        document=race.document,
        test=test,
        rival=race.rival,
        over_rival=over_rival,
        over_rival_measurable=race.primary.is_measurable(over_rival),
        gates=_judged(recipe, contenders, race, changes=changes),
        mistakes=_mistakes(teacher, shipped, work, host),
    )


def gates_on_select(recipe: Recipe, contenders: Sequence[Contender], race: Race) -> tuple[GateResult, ...]:
    """Judge the gates by the change of accuracy on select: what a choice between pipelines may look at."""
    changes = {row["name"]: row["accuracy_change"] for row in race.document["rows"]}
    return _judged(recipe, contenders, race, changes=changes)


def needed_rows(recipe: Recipe, contenders: Sequence[Contender], *, rivals: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the rows that the verdict needs timed, by profile."""
    judged = [*_gated(recipe, contenders), contenders[-1]]
    primary = recipe.benchmark.measured()[0].name
    found = {primary: [contenders[0].name, *rivals, *(entry.name for entry in judged)]}
    for entry in judged:
        for profile in _limits(recipe, entry, contenders[-1]).max_latency_ms:
            found.setdefault(profile, []).append(entry.name)
    return found


def _gated(recipe: Recipe, contenders: Sequence[Contender]) -> list[Contender]:
    """Return the files besides the primary one that have gates of their own."""
    return [entry for entry in contenders if entry.variant in recipe.gates.variants]


def _limits(recipe: Recipe, entry: Contender, shipped: Contender) -> Limits:
    return recipe.gates if entry is shipped else recipe.gates.variants[entry.variant]  # pyright: ignore[reportArgumentType]


def _judged(
    recipe: Recipe, contenders: Sequence[Contender], race: Race, *, changes: Mapping[str, dict[str, float]]
) -> tuple[GateResult, ...]:
    teacher, shipped = contenders[0], contenders[-1]
    gates: list[GateResult] = []
    for entry in [*_gated(recipe, contenders), shipped]:
        limits = _limits(recipe, entry, shipped)
        found = judge_gates(
            limits,
            change=changes[entry.name],
            size_bytes=entry.scores.facts["size_bytes"],
            speedup=race.primary.speedup(entry.name, over=teacher.name),
            latency_ms={name: race.latency_ms(entry.name, profile=name) for name in limits.max_latency_ms},
            primary=race.primary.profile.name,
            variant=entry.variant,
        )
        gates += [
            gate if gate.passed else replace(gate, remedy=_remedy(gate, entry, recipe, contenders, race))
            for gate in found
        ]
    return tuple(gates)


def _remedy(gate: GateResult, entry: Contender, recipe: Recipe, contenders: Sequence[Contender], race: Race) -> str:
    """Return what a missed gate of a file asks for."""
    float_file = entry.variant is not None and entry.variant.startswith("fp")
    stages = [stage for stage in recipe.stages if not (float_file and stage.produces == "quantized")]
    rows = {row["name"]: row for row in race.document["rows"]}
    rows |= {"teacher": rows[contenders[0].name], stages[-1].title: rows[entry.name]}
    facts = {found.name: found.artifact.facts for found in contenders}
    return remedy(
        QUANTITIES.get(gate.field, "speed"),
        moves(stages, rows, facts, gate.profile or race.primary.profile.name),
        missing=gate.judged / gate.limit if gate.at_least else gate.limit / gate.judged,
        float_file=float_file,
        measured_passes=gate.estimate >= gate.limit if gate.at_least else gate.estimate <= gate.limit,
    )


def _mistakes(teacher: Contender, shipped: Contender, work: Work, host: Host) -> Mistakes | None:
    """Compare two of the rows that were read on test, from what is stored of them."""
    reference = score(teacher.artifact, work, host, role="test", teacher=None, variant=teacher.variant)
    scores = score(shipped.artifact, work, host, role="test", teacher=reference, variant=shipped.variant)
    return mistakes(reference, scores, work.task, work.data.test)


def write_samples(contenders: Sequence[Contender], work: Work, directory: Path) -> dict[str, Path]:
    """Write the samples that a race rotates through; return the file of each contender, by its name.

    All read the same samples; those with a tokenizer of their own read them as other numbers.
    """
    files: dict[str, Path] = {}
    found: dict[str, Path] = {}
    with writable(directory):
        for entry in contenders:
            here = work.reading(entry.artifact)
            own = "" if here.task is work.task else f"-{here.task.digest[:12]}"
            if own not in files:
                files[own] = directory / f"inputs{own}.npz"
                np.savez(files[own], allow_pickle=False, **raced_samples(here))
            found[entry.name] = files[own]
    return found


def raced_samples(work: Work) -> dict[str, NDArray[Any]]:
    """Return the first samples of select by input, with their lengths where those vary."""
    samples = work.data.select
    batch = work.task.batch(samples, torch.arange(min(RACED_SAMPLES, len(samples))))
    found = dict(zip([tensor.name for tensor in work.task.signature.inputs], arrays(batch), strict=True))
    return found if batch.mask is None else found | {LENGTHS: batch.mask.sum(dim=1).numpy()}


def runtime_accuracy(
    contenders: Sequence[Contender],
    comparisons: Sequence[Comparison],
    work: Work,
    host: Host,
    *,
    inputs: Mapping[str, Path],
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what each file scores on select in the very runtime that was timed, by row and profile.

    ONNX Runtime on this machine's CPU has scored every file before, so under its profiles nothing runs again. Torch is
    left out: parity has compared its modules. A software adapter, which takes seconds where a device takes none,
    scores the first ``SOFTWARE_SAMPLES`` of select. The first contender is the reference.

    Raises:
        KeyboardInterrupt: when ``host.interrupted`` says so, between two files.
    """
    select, teacher = work.data.select, contenders[0].name
    found: dict[str, dict[str, dict[str, Any]]] = {entry.name: {} for entry in contenders}
    here: dict[str, dict[str, Any]] = {}
    for comparison in comparisons:
        profile = comparison.profile
        if not profile.takes_files:
            continue
        if _is_ours(profile):
            here = here or _judged_rows(contenders, _scored_logits, work, host, select, teacher=teacher, seed=seed)
            judged = here
        else:
            samples = select if comparison.ranked else select.take(np.arange(min(SOFTWARE_SAMPLES, len(select))))
            run = partial(_logits, profile=profile, work=work, host=host, samples=samples, inputs=inputs)
            timed = [entry for entry in contenders if entry.name in comparison.measurements]
            with host.reporter.bar(f"scored in {profile.name}", len(timed)) as bar:
                judged = _judged_rows(timed, run, work, host, samples, teacher=teacher, seed=seed, done=bar.advance)
        for name in comparison.measurements:
            found[name][profile.name] = judged[name]
    return found


def _judged_rows(
    entries: Sequence[Contender],
    outputs: Callable[[Contender], NDArray[np.float32]],
    work: Work,
    host: Host,
    samples: Samples,
    *,
    teacher: str,
    seed: int,
    done: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Return ``judged_in_runtime`` by row, or why a file could not be run; the teacher comes first if it is there."""
    found: dict[str, dict[str, Any]] = {}
    reference = None
    for entry in entries:
        if host.interrupted():
            raise KeyboardInterrupt
        try:
            logits = outputs(entry)
        except WorkerError as fault:
            found[entry.name] = {"failure": fault.message}
            continue
        finally:
            done()
        found[entry.name] = judged_in_runtime(logits, reference, work.task, samples, seed=seed)
        reference = logits if entry.name == teacher else reference
    return found


def _scored_logits(entry: Contender) -> NDArray[np.float32]:
    return entry.scores.logits


def _logits(
    entry: Contender, *, profile: Profile, work: Work, host: Host, samples: Samples, inputs: Mapping[str, Path]
) -> NDArray[np.float32]:
    """Return a file's outputs on samples where the profile runs, float32 [units, C]."""
    work = work.reading(entry.artifact)
    names = [tensor.name for tensor in work.task.signature.inputs]
    with Worker(profile.place) as worker:
        worker.load(
            runtime=profile.runtime, model=entry.scores.onnx_path, inputs=inputs[entry.name], threads=profile.threads
        )
        feed = Feed(work.task, samples, threads=host.execution.threads, batch_size=ELSEWHERE_BATCH)
        return feed.through(lambda *given: worker.outputs(dict(zip(names, given, strict=True))))


def judged_in_runtime(
    logits: NDArray[np.floating],
    teacher: NDArray[np.floating] | None,
    task: Task,
    samples: Samples,
    *,
    seed: int,
) -> dict[str, Any]:
    """Return samples, accuracy, and against the teacher in the same runtime change, mcnemar_p, agreement and KL.

    ``doubt`` says when the samples are too few to tell a gate's points apart. The teacher's own row has no teacher.
    """
    tally = task.tally(logits, samples)
    row: dict[str, Any] = {
        "samples": tally.num_samples,
        "accuracy": asdict(measured({"": tally}, seed=seed)[""]),
        "doubt": doubt(tally.num_samples),
    }
    if teacher is not None:
        theirs = task.tally(teacher, samples)
        row["change"] = asdict(measured_changes({"": tally}, {"": theirs}, seed=seed)[""])
        row["mcnemar_p"] = sign_test(tally, theirs)
        row |= against(teacher, logits, task)
    return row


def raced(
    recipe: Recipe,
    host: Host,
    contenders: Sequence[Contender],
    *,
    needed: Mapping[str, Sequence[str]],
    inputs: Mapping[str, Path],
) -> list[Comparison]:
    """Return one comparison per profile, the primary one first.

    Args:
        recipe: profiles, preset and seed.
        host: reporter, the user's code, and whether to stop.
        contenders: the rows.
        needed: names of the rows that must have a measurement, by profile.
        inputs: .npz of real samples, by name of the row.

    Raises:
        StageError: when one of them has none.
        KeyboardInterrupt: when ``host.interrupted`` says so, between two profiles.
    """
    preset, profiles = PRESETS[recipe.benchmark.preset], recipe.benchmark.measured()
    comparisons: list[Comparison] = []
    for profile in profiles:
        if host.interrupted():
            raise KeyboardInterrupt
        why = "" if profile.name in needed or _is_ours(profile) else _unusable(profile)
        if why:
            names = _raceable(contenders, profile)
            reference, seed = contenders[0].name, recipe.seed
            found = unmeasured(names, reference=reference, profile=profile, preset=preset, seed=seed, why=why)
        else:
            found = race(
                contenders,
                profile=profile,
                preset=preset,
                inputs=inputs,
                seed=recipe.seed,
                code=host.code,
                reporter=host.reporter,
            )
        if profile.name in needed:
            _check_measured(found, needed[profile.name])
        comparisons.append(found)
    return comparisons


def check_runtimes(recipe: Recipe) -> None:
    """Refuse, before anything is trained, a runtime that the verdict rests on and that does not work.

    Raises:
        EnvironmentFault: with the reason, and what to install.
    """
    limits = [recipe.gates, *recipe.gates.variants.values()]
    judged = {name for limit in limits for name in limit.max_latency_ms}
    first, *others = recipe.benchmark.measured()
    for profile in [first, *(other for other in others if other.name in judged)]:
        if _is_ours(profile):
            continue
        doubt = check_usable(profile.runtime, profile.place)
        if doubt:
            raise EnvironmentFault(
                f"the verdict would rest on {profile.name}, which is {doubt}",
                hint="put a profile of real hardware first, and gates on such profiles only",
            )


def _is_ours(profile: Profile) -> bool:
    """Whether this process has used the runtime already, to score files."""
    return (profile.runtime, profile.place) == SCORED


def _unusable(profile: Profile) -> str:
    """Why a profile cannot be measured, and what to do; empty when it can."""
    found = usable_runtime(profile.runtime, profile.place)
    return "" if found["usable"] else f"{found['why']}; next: {found['install']}"


def _check_measured(found: Comparison, needed: Sequence[str]) -> None:
    if not found.ranked:
        raise StageError(
            "the verdict cannot rest on a software adapter, whose times say nothing about a device",
            where=f"benchmark, profile {found.profile.name}",
            hint="put a profile of real hardware first, and gates on such profiles only",
        )
    for name in needed:
        if name not in found.measurements:
            raise StageError(
                f"{name} could not be measured, and the verdict is about it",
                expected="a latency",
                got=found.failures.get(name, "not run by this runtime"),
                where=f"benchmark, profile {found.profile.name}",
                hint="run the same command again; every stage is saved",
            )


def race(
    contenders: Sequence[Contender],
    *,
    profile: Profile,
    preset: Preset,
    inputs: Mapping[str, Path],
    seed: int,
    code: Sequence[Path] = (),
    reporter: Reporter,
) -> Comparison:
    """Measure all contenders under one profile, interleaved; torch runs only the ones that torch can load.

    Args:
        contenders: the rows; the first is the reference.
        profile: runtime, batch size and threads.
        preset: how long.
        inputs: .npz of real samples, by name of the row.
        seed: of the order and the intervals.
        code: the user's Python files that torch may run to build a model.
        reporter: shows a bar.
    """
    models = _raceable(contenders, profile)
    own = {name: inputs[name] for name in models}
    return compare(
        models,
        reference=contenders[0].name,
        inputs=own,
        profile=profile,
        preset=preset,
        seed=seed,
        code=code,
        reporter=reporter,
    )


def _raceable(contenders: Sequence[Contender], profile: Profile) -> dict[str, Path]:
    """Return what the profile's runtime runs of each row that it can run."""
    if profile.takes_files:
        return {entry.name: entry.scores.onnx_path for entry in contenders}
    return {entry.name: entry.artifact.path for entry in contenders if entry.artifact.kind == "model"}


def test_rows(judged: Sequence[Contender], work: Work, host: Host, *, seed: int) -> list[dict[str, Any]]:
    """Return every measure with its interval and its paired change against the first row, on the test role.

    ``accuracy`` and ``change`` are of the task's own measure, which gates are about.
    """
    rows: list[dict[str, Any]] = []
    teacher: Scores | None = None
    for entry in judged:
        scores = score(entry.artifact, work, host, role="test", teacher=teacher, variant=entry.variant)
        measures = measured(scores.measures, seed=seed)
        row: dict[str, Any] = {
            "name": entry.name,
            "samples": scores.tally.num_samples,
            "accuracy": asdict(measures[work.task.measure]),
            "measures": {name: asdict(estimate) for name, estimate in measures.items()},
        }
        if teacher is None:
            teacher = scores
        else:
            changes = measured_changes(scores.measures, teacher.measures, seed=seed)
            row["change"] = asdict(changes[work.task.measure])
            row["changes"] = {name: asdict(estimate) for name, estimate in changes.items()}
            row["mcnemar_p"] = sign_test(scores.tally, teacher.tally)
            ours, theirs = (work.task.decisions(found.logits) for found in (scores, teacher))
            row["agreement"] = None if ours is None or theirs is None else asdict(agreement(ours, theirs))
        rows.append(row)
    return rows


def judge_gates(
    gates: Limits,
    *,
    change: dict[str, float],
    size_bytes: int,
    speedup: Estimate,
    latency_ms: Mapping[str, Estimate],
    primary: str,
    variant: str | None = None,
) -> list[GateResult]:
    """Judge each gate that the recipe names; accuracy and times on the unfavourable bound of their interval.

    Args:
        gates: the limits.
        change: accuracy of the shipped file minus the teacher's on test: value, low, high, as shares.
        size_bytes: of the shipped file.
        speedup: of the shipped file over the teacher under the primary profile.
        latency_ms: of the shipped file, by profile that has a limit.
        primary: name of the primary profile.
        variant: named in front of each gate; None for the primary file.
    """
    prefix = "" if variant is None else f"{variant}: "
    found: list[GateResult] = []
    if gates.max_accuracy_drop is not None:
        limit, drop, judged = gates.max_accuracy_drop, -change["value"], -change["low"]
        found.append(GateResult(f"{prefix}max_accuracy_drop", limit, drop, judged, judged <= limit))
    if gates.max_size_mb is not None:
        limit, size_mb = gates.max_size_mb, size_bytes / 1e6
        found.append(GateResult(f"{prefix}max_size_mb", limit, size_mb, size_mb, size_mb <= limit))
    if gates.min_speedup is not None:
        limit = gates.min_speedup
        found.append(
            GateResult(f"{prefix}min_speedup", limit, speedup.value, speedup.low, speedup.low >= limit, primary)
        )
    for profile, limit in gates.max_latency_ms.items():
        name, took = f"{prefix}max_latency_ms.{profile}", latency_ms[profile]
        found.append(GateResult(name, limit, took.value, took.high, took.high <= limit, profile))
    return found
