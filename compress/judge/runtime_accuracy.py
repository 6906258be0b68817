"""What each file scores on select in the very runtime that was timed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.benchmark.accuracy import doubt
from compress.benchmark.compare import Comparison
from compress.benchmark.document import RuntimeAccuracy
from compress.benchmark.measure import Profile
from compress.benchmark.process import HERE, Worker, WorkerError
from compress.data import Samples
from compress.export.feed import Feed
from compress.judge.contenders import Contender
from compress.judge.scores import against
from compress.measures.intervals import measure, measure_changes, sign_test
from compress.stage import Host, Work
from compress.tasks import Task

SOFTWARE_SAMPLES = (
    128  # of select, which a software adapter scores: it shows that a runtime is right, not what it gives
)
ELSEWHERE_BATCH = 32  # a slow device answers so many within the worker's time limit
SCORED = ("ort-cpu", HERE)  # where `scoring` runs files


def score_in_runtimes(
    contenders: Sequence[Contender],
    comparisons: Sequence[Comparison],
    work: Work,
    host: Host,
    *,
    inputs: Mapping[str, Path],
    seed: int,
) -> dict[str, dict[str, RuntimeAccuracy]]:
    """Return what each file scores on select in the very runtime that was timed, by row and profile.

    ONNX Runtime on this machine's CPU has scored every file before, so under its profiles nothing runs again. Torch is
    left out: parity has compared its modules. A software adapter, which takes seconds where a device takes none,
    scores the first ``SOFTWARE_SAMPLES`` of select. The first contender is the reference.

    Raises:
        KeyboardInterrupt: when ``host.interrupted`` says so, between two files.
    """
    select, teacher = work.data.select, contenders[0].name
    found: dict[str, dict[str, RuntimeAccuracy]] = {entry.name: {} for entry in contenders}
    here: dict[str, RuntimeAccuracy] = {}
    for comparison in comparisons:
        profile = comparison.profile
        if not profile.takes_files:
            continue
        if is_ours(profile):
            here = here or _score_rows(contenders, _read_logits, work, host, select, teacher=teacher, seed=seed)
            scored = here
        else:
            samples = select if comparison.ranked else select.take(np.arange(min(SOFTWARE_SAMPLES, len(select))))
            run = partial(_run, profile=profile, work=work, host=host, samples=samples, inputs=inputs)
            timed = [entry for entry in contenders if entry.name in comparison.measurements]
            with host.reporter.bar(f"scored in {profile.name}", len(timed)) as bar:
                scored = _score_rows(timed, run, work, host, samples, teacher=teacher, seed=seed, done=bar.advance)
        for name in comparison.measurements:
            found[name][profile.name] = scored[name]
    return found


def _score_rows(
    entries: Sequence[Contender],
    outputs: Callable[[Contender], NDArray[np.float32]],
    work: Work,
    host: Host,
    samples: Samples,
    *,
    teacher: str,
    seed: int,
    done: Callable[[], object] = lambda: None,
) -> dict[str, RuntimeAccuracy]:
    """Return ``score_in_runtime`` by row, or why a file could not be run; the teacher comes first if it is there."""
    found: dict[str, RuntimeAccuracy] = {}
    reference, reading = None, work.task.deployed
    for entry in entries:
        if host.interrupted():
            raise KeyboardInterrupt
        try:
            logits = outputs(entry)
        except WorkerError as fault:
            found[entry.name] = RuntimeAccuracy(failure=fault.message)
            continue
        finally:
            done()
        task = entry.scores.task
        found[entry.name] = score_in_runtime(logits, reference, task, samples, reading=reading, seed=seed)
        reference = logits if entry.name == teacher else reference
    return found


def _read_logits(entry: Contender) -> NDArray[np.float32]:
    return entry.scores.logits


def _run(
    entry: Contender, *, profile: Profile, work: Work, host: Host, samples: Samples, inputs: Mapping[str, Path]
) -> NDArray[np.float32]:
    """Return a file's outputs on samples where the profile runs, float32 [units, C]."""
    task = work.reading(entry.artifact).task.deployed
    names = [tensor.name for tensor in task.signature.inputs]
    with Worker(profile.place) as worker:
        worker.load(
            runtime=profile.runtime, model=entry.scores.onnx_path, inputs=inputs[entry.name],
            threads=profile.threads, code=host.code,
        )  # fmt: skip
        feed = Feed(task, samples, threads=host.execution.threads, batch_size=ELSEWHERE_BATCH)
        return feed.through(lambda *given: worker.outputs(dict(zip(names, given, strict=True))))


def score_in_runtime(
    logits: NDArray[np.floating],
    teacher: NDArray[np.floating] | None,
    task: Task,
    samples: Samples,
    *,
    reading: Task,
    seed: int,
) -> RuntimeAccuracy:
    """Return what outputs score, and against the teacher's in the same runtime; its own row has no teacher.

    ``doubt`` says when the samples are too few to tell a gate's points apart. ``reading`` is the teacher's task.
    """
    tally = task.tally(logits, samples)
    accuracy, few = measure({"": tally}, seed=seed)[""], doubt(tally.num_samples)
    if teacher is None:
        return RuntimeAccuracy(samples=tally.num_samples, accuracy=accuracy, doubt=few)
    theirs = reading.tally(teacher, samples)
    return RuntimeAccuracy(
        samples=tally.num_samples,
        accuracy=accuracy,
        doubt=few,
        change=measure_changes({"": tally}, {"": theirs}, seed=seed)[""],
        mcnemar_p=sign_test(tally, theirs),
        **against(teacher, logits, task, reading=reading),
    )


def is_ours(profile: Profile) -> bool:
    """Whether this process has used the runtime already, to score files."""
    return (profile.runtime, profile.place) == SCORED
