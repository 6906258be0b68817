"""The race: every file measured against the others, under every profile; nothing of the test role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.benchmark import report as benchmark_report
from compress.benchmark.compare import PRESETS, Comparison, Preset, compare, make_unmeasured
from compress.benchmark.document import BenchmarkResult
from compress.benchmark.measure import Profile
from compress.benchmark.process import check_usable, usable_runtime
from compress.benchmark.runtimes.worker import LENGTHS
from compress.errors import EnvironmentFault, StageError
from compress.export.feed import arrays
from compress.export.program_file import is_program
from compress.judge.contenders import Contender, find_needed_rows
from compress.judge.runtime_accuracy import is_ours, score_in_runtimes
from compress.measures.intervals import Estimate
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Host, Work
from compress.store.disk import writable

RACED_SAMPLES = 256  # of select, which the race rotates through


@dataclass(frozen=True)
class Race:
    """Every file measured against the others.

    Attributes:
        result: of the benchmark.
        rival: name of the teacher-with-quantization row that is faster; None where the teacher has no int8 form.
        digests: of what was raced, in order.
    """

    result: BenchmarkResult
    rival: str | None
    digests: tuple[str, ...]

    @property
    def primary(self) -> Comparison:
        """The comparison under the primary profile."""
        return self.result.comparisons[0]

    def is_of(self, contenders: Sequence[Contender]) -> bool:
        """Return whether these very files were raced."""
        return self.digests == tuple(entry.artifact.digest for entry in contenders)

    def latency_ms(self, name: str, *, profile: str) -> Estimate:
        """Return a row's latency under a profile."""
        return self.result.by_profile[profile].latency_ms(name)


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
    needed = find_needed_rows(recipe, contenders, rivals=rivals)
    comparisons = measure(recipe, host, contenders, needed=needed, inputs=inputs)
    accuracy = score_in_runtimes(contenders, comparisons, work, host, inputs=inputs, seed=recipe.seed)
    result = benchmark_report.build(
        [
            benchmark_report.Entry(
                name=entry.name,
                path=entry.scores.onnx_path,
                num_params=entry.scores.facts.parameters,
                tally=entry.scores.tally,
                decisions=entry.scores.decisions,
                macs=entry.scores.facts.macs,
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
    rival = max(rivals, key=lambda name: primary.speedup(name, over=teacher.name).value, default=None)
    return Race(result, rival, tuple(entry.artifact.digest for entry in contenders))


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
                np.savez(files[own], allow_pickle=False, **sample_select(here))
            found[entry.name] = files[own]
    return found


def sample_select(work: Work) -> dict[str, NDArray[Any]]:
    """Return the first samples of select by input, with their lengths where batches are as long as their longest."""
    samples, task = work.data.select, work.task.deployed
    batch = task.batch(samples, torch.arange(min(RACED_SAMPLES, len(samples))))
    inputs = task.signature.inputs
    found = dict(zip([tensor.name for tensor in inputs], arrays(batch), strict=True))
    if batch.mask is None or not isinstance(inputs[0].shape[1], str):  # all are padded to one length
        return found
    return found | {LENGTHS: batch.mask.sum(dim=1).numpy()}


def measure(
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
    preset, profiles = PRESETS[recipe.benchmark.preset], recipe.benchmark.list_profiles()
    comparisons: list[Comparison] = []
    for profile in profiles:
        if host.interrupted():
            raise KeyboardInterrupt
        why = "" if profile.name in needed or is_ours(profile) else _unusable(profile, host.code)
        if is_program(contenders[0].scores.onnx_path) and not profile.takes_files:
            why = "programs are driven by ONNX Runtime alone"
        if why:
            names = _raceable(contenders, profile)
            reference, seed = contenders[0].name, recipe.seed
            found = make_unmeasured(names, reference=reference, profile=profile, preset=preset, seed=seed, why=why)
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


def check_runtimes(recipe: Recipe, *, code: Sequence[Path] = ()) -> None:
    """Refuse, before anything is trained, a runtime that the verdict rests on and that does not work.

    Args:
        recipe: names the runtimes.
        code: the user's Python files that may be run.

    Raises:
        EnvironmentFault: with the reason, and what to install.
    """
    limits = [recipe.gates, *recipe.gates.variants.values()]
    judged = {name for limit in limits for name in limit.max_latency_ms}
    first, *others = recipe.benchmark.list_profiles()
    for profile in [first, *(other for other in others if other.name in judged)]:
        if is_ours(profile):
            continue
        doubt = check_usable(profile.runtime, profile.place, code=code)
        if doubt:
            raise EnvironmentFault(
                f"the verdict would rest on {profile.name}, which is {doubt}",
                hint="put a profile of real hardware first, and gates on such profiles only",
            )


def _unusable(profile: Profile, code: Sequence[Path]) -> str:
    """Why a profile cannot be measured, and what to do; empty when it can."""
    found = usable_runtime(profile.runtime, profile.place, code=code)
    return "" if found.usable else f"{found.why}; next: {found.install}"


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
