"""Paired comparison of several models: all workers alive, short blocks interleaved, one ratio per round.

Machine noise that lasts longer than a round slows every model of that round alike and leaves the ratio.
The reference runs twice, in two workers: the ratio of the twins is the noise floor of the comparison. All workers of a
round share their cores, and each launch starts them anew, since a process keeps the memory layout it was born with.
"""

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np

from compress.benchmark.environment import Noise, NoiseProbe
from compress.benchmark.measure import Measurement, Profile, Subject
from compress.benchmark.process import Worker
from compress.benchmark.runtimes.worker import batches
from compress.errors import CompressError, InputError, ModelError
from compress.measures.intervals import RATIO_CONFIDENCE, Estimate, estimate_ratio, half_width
from compress.progress import Reporter

SILENT = Reporter(quiet=True)
_TWIN = "\0twin"  # no model can be called that
NOISY_FLOOR = 1.10
# One process of the same file may be so much faster than another, for as long as both live: where its memory lies, and
# what its core does besides. A single launch cannot see that.
ONE_LAUNCH_FLOOR = 1.10
OVERRUN = 1.25  # a block ends with a call, or with a server's next query
CHECKED_SAMPLES = 32  # of every file on another runtime than ONNX Runtime's CPU provider
MAX_RELATIVE = 0.05  # half precision stays below 1% of the largest output, other int8 kernels below a few steps of it
MIN_AGREEMENT = 0.95  # one decision of the 32 may be a tie

RankedBy = Literal["median latency", "p99 latency", "throughput"]
SpeedVerdict = Literal["faster", "slower", "no measurable difference", "not ranked"]


@dataclass(frozen=True, slots=True)
class Preset:
    """How long to measure. Per model and profile about rounds * block_ms, and per launch a start and a warm-up."""

    name: str
    rounds: int
    """In all launches together. Many short ones: a neighbour's burst spoils one, and a median leaves it out."""
    block_ms: float
    """Shortest block; a model slower than that runs once a block."""
    warm_up_limit_ms: float
    launches: int = 1
    """Fresh processes per model, one after another. With one, differences below `ONE_LAUNCH_FLOOR` count as none."""
    least_rounds: int | None = None
    """What blocks leave of them that take longer than block_ms, so that the whole takes as long; None: all."""
    strict: bool = False
    """Refuse a session that leaves nodes to the CPU although its runtime is for another device."""

    def __post_init__(self) -> None:
        for rounds in (self.rounds, self.rounds if self.least_rounds is None else self.least_rounds):
            if rounds % self.launches or rounds < 2 * self.launches:
                raise ValueError(
                    f"{rounds} rounds do not split evenly over {self.launches} launches, 2 or more in each"
                )

    def fit(self, mean_block_ms: float) -> Self:
        """The preset with as many rounds as fit in its time, at least least_rounds, when blocks take so long."""
        if self.least_rounds is None:
            return self
        share = min(1.0, OVERRUN * self.block_ms / mean_block_ms)
        fitting = round(self.rounds // self.launches * share) * self.launches
        return replace(self, rounds=max(self.least_rounds, fitting))


SMOKE = Preset(name="smoke", rounds=3, block_ms=4.0, warm_up_limit_ms=40.0)  # shows that it runs; proves nothing
QUICK = Preset(name="quick", rounds=15, block_ms=40.0, warm_up_limit_ms=400.0)
STANDARD = Preset(name="standard", rounds=160, block_ms=40.0, warm_up_limit_ms=3_000.0, launches=8, least_rounds=40)
STRICT = Preset(
    name="strict", rounds=480, block_ms=200.0, warm_up_limit_ms=15_000.0, launches=8, least_rounds=80, strict=True
)
PRESETS = {preset.name: preset for preset in (SMOKE, QUICK, STANDARD, STRICT)}


@dataclass(frozen=True, slots=True)
class Difference:
    """A model's first output here against ONNX Runtime's on the CPU, for the first samples."""

    max_abs: float
    agreement: float
    """Share (0 to 1) of rows whose largest output is at the same place."""
    max_relative: float
    """max_abs over the largest output on the CPU, whatever its sign; at most 1."""

    @property
    def disagrees(self) -> bool:
        """Whether it is more than another order of summation, half precision or another int8 kernel explains."""
        return self.max_relative > MAX_RELATIVE or self.agreement < MIN_AGREEMENT


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several models measured in the same rounds under one profile."""

    profile: Profile
    preset: Preset
    """With the rounds that were run."""
    reference: str
    seed: int
    measurements: dict[str, Measurement]
    failures: dict[str, str]
    """Why a model has no measurement; the others are complete."""
    noise_floor: Estimate | None
    """Speed of the reference over its own twin, 1 without noise; None when either of them failed."""
    noise: Noise | None
    """None for another machine, whose noise is not seen from here, and where nothing ran."""
    degraded: list[str]
    """What disturbed all models of this comparison."""
    against_cpu: dict[str, Difference] = field(default_factory=dict)
    """For files on other runtimes than ONNX Runtime's CPU provider."""
    unchecked: dict[str, str] = field(default_factory=dict)
    """Why such a file was not compared with it."""
    ranked_by: RankedBy = "median latency"
    """What ratios are of: of each round the median query or, offline, samples a second; of each half launch the 99th
    percentile of a server's queries, where all models have enough of them."""
    confidence: float = RATIO_CONFIDENCE
    """Of speedups and the noise floor."""
    wall_s: float = 0.0
    """What the comparison took."""
    model_s: float = 0.0
    """What of it the models took, the twin included: loads, first runs, warm-ups and blocks. The rest is ours."""

    def rename(self, names: Mapping[str, str]) -> Self:
        """Return the same with other names of models, from old to new; others keep theirs."""
        return replace(
            self,
            reference=names.get(self.reference, self.reference),
            measurements={names.get(name, name): found for name, found in self.measurements.items()},
            failures={names.get(name, name): why for name, why in self.failures.items()},
            against_cpu={names.get(name, name): found for name, found in self.against_cpu.items()},
            unchecked={names.get(name, name): why for name, why in self.unchecked.items()},
        )

    @property
    def ranked(self) -> bool:
        """Whether times say which model is faster; those of a software adapter do not."""
        return not any(found.on_software for found in self.measurements.values())

    @property
    def floor(self) -> float | None:
        """The smallest speedup that counts, as a natural logarithm (0.01 is one percent).

        Half the width of the A/A interval, or how far the twins are apart where that interval leaves out 1; of a single
        launch at least `ONE_LAUNCH_FLOOR`.
        """
        found = self.noise_floor
        if found is None:
            return None
        least = math.log(ONE_LAUNCH_FLOOR) if self.preset.launches == 1 else 0.0
        return max(half_width(found), abs(math.log(found.value)), least)

    def speedup(self, model: str, *, over: str) -> Estimate:
        """How many times faster `model` is than `over` by `ranked_by`, with its interval; see `estimate_ratio`.

        Raises:
            KeyError: when either has no measurement.
        """
        ours, theirs = self.measurements[model], self.measurements[over]
        return _speedup(ours, over=theirs, by=self.ranked_by, seed=self.seed, launches=self.preset.launches)

    def latency_ms(self, model: str) -> Estimate:
        """A model's latency: of each launch the median of its blocks' medians, and their geometric mean.

        Raises:
            KeyError: when it has no measurement.
        """
        medians_ms = self.measurements[model].block_median_ms
        # A ratio to one millisecond.
        return estimate_ratio(np.log(medians_ms), seed=self.seed, launches=self.preset.launches)

    def is_measurable(self, speedup: Estimate) -> bool:
        """Whether a speedup's interval excludes 1 and its size exceeds the noise floor, on real hardware.

        Without a noise floor nothing is: an interval alone does not see what differs between two processes.
        """
        if self.floor is None or not self.ranked:
            return False
        return (speedup.low > 1 or speedup.high < 1) and abs(math.log(speedup.value)) > self.floor

    def verdict(self, model: str, *, over: str) -> SpeedVerdict:
        """What may be said of the speed of `model` over `over`.

        Raises:
            KeyError: when either has no measurement.
        """
        speedup = self.speedup(model, over=over)
        if not self.ranked:
            return "not ranked"
        if not self.is_measurable(speedup):
            return "no measurable difference"
        return "faster" if speedup.value > 1 else "slower"


def compare(
    models: Mapping[str, Path],
    *,
    reference: str,
    inputs: Path | Mapping[str, Path],
    profile: Profile,
    preset: Preset = STANDARD,
    seed: int = 0,
    code: Sequence[Path] = (),
    load_limit_s: float = 120.0,
    reply_limit_s: float = 60.0,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Measure models against each other. A model that fails is reported and the rest goes on.

    Args:
        models: ONNX file (or artifact directory, for torch) by name. All are in memory at once.
        reference: the model that gives the noise floor; one of `models`.
        inputs: .npz of real samples, one array per model input; see `runtimes.worker.batches`. One for all models, or
            one for each by its name, where they read the same samples differently.
        profile: runtime, batch size, threads, scenario and place.
        preset: how long.
        seed: of the order in each round and of the bootstrap.
        code: the user's Python files that may be run: by torch to build a model, or as a runtime.
        load_limit_s: longest wait for a model's load and first run.
        reply_limit_s: longest wait for a block beyond the time asked for.
        reporter: shows a bar of starts and blocks.

    Raises:
        InputError: when `reference` is not among the models, or a path does not exist.
    """
    own = dict.fromkeys(models, inputs) if isinstance(inputs, Path) else dict(inputs)
    _check(models, reference=reference, inputs=own)
    subjects = {name: Subject(path, profile, inputs=own[name]) for name, path in models.items()}
    subjects[_TWIN] = Subject(models[reference], profile, inputs=own[reference])
    failures: dict[str, str] = {}
    order = random.Random(seed)
    against_cpu: dict[str, Difference] = {}
    unchecked: dict[str, str] = {}
    start = partial(Worker, profile.place, load_limit_s=load_limit_s, reply_limit_s=reply_limit_s)
    probe, started = NoiseProbe(), time.perf_counter()
    with reporter.bar(f"comparing, {profile.name}", len(subjects) * (preset.launches + preset.rounds)) as bar:
        for launch in range(preset.launches):
            with contextlib.ExitStack() as stack:
                begin = partial(_begin, start=start, stack=stack, preset=preset, code=code)
                _each(_shuffle(subjects, order), failures, begin, after=bar.advance)
                block = partial(Subject.run_block, block_ms=preset.block_ms)
                least = (preset.least_rounds or preset.rounds) // preset.launches
                for _ in range(least):
                    _each(_shuffle(subjects, order), failures, block, after=bar.advance)
                if launch == 0 and len(failures) < len(subjects):
                    running = [subject for name, subject in subjects.items() if name not in failures]
                    preset = preset.fit(float(np.mean([subject.typical_block_ms for subject in running])))
                    bar.expect(len(subjects) * (preset.launches + preset.rounds))
                for _ in range(preset.rounds // preset.launches - least):
                    _each(_shuffle(subjects, order), failures, block, after=bar.advance)
                _each(subjects, failures, Subject.end)
                if launch == preset.launches - 1 and profile.takes_files and profile.runtime != "ort-cpu":
                    timed = {name: path for name, path in models.items() if name not in failures}
                    against_cpu, unchecked = _against_cpu(timed, subjects, inputs=own, profile=profile)
    wall_s = time.perf_counter() - started
    noise = None if profile.place.launcher else probe.noise()
    measurements = {name: subject.measurement() for name, subject in subjects.items() if name not in failures}
    ranked_by = _choose_ranking(profile, list(measurements.values()), launches=preset.launches)
    floor = None
    if reference in measurements and _TWIN in measurements:
        ours, twins = measurements[reference], measurements[_TWIN]
        floor = _speedup(ours, over=twins, by=ranked_by, seed=seed, launches=preset.launches)
    return Comparison(
        profile=profile,
        preset=preset,
        reference=reference,
        seed=seed,
        measurements={
            name: replace(found, degraded=[*found.degraded, *_doubts(name, against_cpu, unchecked)])
            for name, found in measurements.items()
            if name != _TWIN
        },
        failures={name: reason for name, reason in failures.items() if name != _TWIN},
        noise_floor=floor,
        noise=noise,
        degraded=_list_disturbances(noise, floor, failed=failures.get(reference) or failures.get(_TWIN)),
        against_cpu=against_cpu,
        unchecked=unchecked,
        ranked_by=ranked_by,
        wall_s=wall_s,
        model_s=sum(subject.model_s for subject in subjects.values()),
    )


def make_unmeasured(
    models: Iterable[str], *, reference: str, profile: Profile, preset: Preset, seed: int, why: str
) -> Comparison:
    """The comparison of models under a profile that does not work: a failure of each, for the same reason."""
    return Comparison(
        profile=profile,
        preset=preset,
        reference=reference,
        seed=seed,
        measurements={},
        failures=dict.fromkeys(models, why),
        noise_floor=None,
        noise=None,
        degraded=[],
    )


def _check(models: Mapping[str, Path], *, reference: str, inputs: Mapping[str, Path]) -> None:
    if reference not in models:
        raise InputError("the reference is not measured", expected=", ".join(models), got=reference)
    missing = [str(path) for path in (*models.values(), *inputs.values()) if not path.exists()]
    if missing:
        raise InputError("nothing to measure there", got=", ".join(missing))


@contextlib.contextmanager
def _noting(failures: dict[str, str], name: str):  # noqa: ANN202 - a context manager's iterator says nothing
    """Turn a fault of a worker or a file into the failure of its model."""
    try:
        yield
    except CompressError as fault:
        failures[name] = fault.message


def _each(
    subjects: Mapping[str, Subject],
    failures: dict[str, str],
    act: Callable[[Subject], None],
    *,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Act on all that have not failed; `after` is called for every one."""
    for name, subject in subjects.items():
        if name not in failures:
            with _noting(failures, name):
                act(subject)
        after()


def _shuffle(subjects: Mapping[str, Subject], order: random.Random) -> dict[str, Subject]:
    return {name: subjects[name] for name in order.sample([*subjects], len(subjects))}


def _begin(
    subject: Subject,
    *,
    start: Callable[[], Worker],
    stack: contextlib.ExitStack,
    preset: Preset,
    code: Sequence[Path],
) -> None:
    """Load and warm up a model in a fresh worker, which lives as long as the stack."""
    subject.launch(stack.enter_context(start()), first_core=os.getpid(), strict=preset.strict, code=code)
    subject.warm_up(block_ms=preset.block_ms, limit_ms=preset.warm_up_limit_ms)


def _list_disturbances(noise: Noise | None, floor: Estimate | None, *, failed: str | None) -> list[str]:
    """What disturbed all models of a comparison; `failed` is why there is no noise floor."""
    found = ["the noise of the other machine is not seen from here"] if noise is None else noise.reasons()
    if floor is None:
        found.append(f"the noise floor could not be measured, so no difference counts: {failed}")
    elif max(floor.high, 1 / floor.low) > NOISY_FLOOR:
        found.append(f"the reference differs from itself by up to {max(floor.high, 1 / floor.low) - 1:.0%}")
    return found


def _against_cpu(
    models: Mapping[str, Path], subjects: Mapping[str, Subject], *, inputs: Mapping[str, Path], profile: Profile
) -> tuple[dict[str, Difference], dict[str, str]]:
    """Compare the running models' outputs with the CPU's; the second is why one could not be compared."""
    found: dict[str, Difference] = {}
    unchecked: dict[str, str] = {}
    for name, path in models.items():
        with _noting(unchecked, name):
            found[name] = _difference(path, subjects[name], inputs=inputs[name], profile=profile)
    return found, unchecked


def _difference(model: Path, running: Subject | Worker, *, inputs: Path, profile: Profile) -> Difference:
    """Compare a running model's first outputs with those of the CPU provider here.

    Raises:
        WorkerError: when one of the two does not give them.
        ModelError: when their shapes differ.
    """
    given = batches(inputs, batch_size=profile.batch_size)[: -(-CHECKED_SAMPLES // profile.batch_size)]
    with Worker() as cpu:
        cpu.load(runtime="ort-cpu", model=model, inputs=inputs, batch_size=profile.batch_size)
        pairs = [(cpu.outputs(batch)[0].astype(np.float64), running.outputs(batch)[0]) for batch in given]
    for expected, got in pairs:
        if expected.shape != got.shape:
            raise ModelError("the outputs have another shape than on the CPU", expected=expected.shape, got=got.shape)
    apart = max(float(np.abs(expected - got).max()) for expected, got in pairs)
    largest = max(float(np.abs(expected).max()) for expected, _ in pairs)
    same = np.concatenate([(expected.argmax(-1) == got.argmax(-1)).ravel() for expected, got in pairs])
    return Difference(
        max_abs=apart, agreement=float(same.mean()), max_relative=apart / max(apart, largest) if apart else 0.0
    )


def _doubts(name: str, against_cpu: Mapping[str, Difference], unchecked: Mapping[str, str]) -> list[str]:
    """What the comparison with the CPU says against a model's numbers: of another model nobody asked for the speed."""
    if name in unchecked:
        return [f"not compared with the CPU: {unchecked[name]}"]
    found = against_cpu.get(name)
    if found is None or not found.disagrees:
        return []
    return [
        f"its outputs are up to {found.max_relative:.0%} of the largest off the CPU's, and {found.agreement:.0%} of "
        "the decisions agree"
    ]


def _choose_ranking(profile: Profile, measurements: Sequence[Measurement], *, launches: int) -> RankedBy:
    if profile.scenario == "offline":
        return "throughput"
    # Two halves of a single launch would say nothing about launches, and little about themselves.
    if profile.scenario == "server" and launches > 1 and all(found.half_launch_p99_ms for found in measurements):
        return "p99 latency"
    return "median latency"


def _ranking_ms(found: Measurement, by: RankedBy) -> list[float]:
    if by == "throughput":
        return found.block_mean_ms
    return found.half_launch_p99_ms if by == "p99 latency" else found.block_median_ms


def _speedup(model: Measurement, *, over: Measurement, by: RankedBy, seed: int, launches: int) -> Estimate:
    log_ratios = np.log(_ranking_ms(over, by)) - np.log(_ranking_ms(model, by))
    return estimate_ratio(log_ratios, seed=seed, launches=launches)
