"""Paired comparison of several models: all workers alive, short blocks interleaved, one ratio per round.

Machine noise that lasts longer than a round slows every model of that round alike and leaves the ratio.
The reference runs twice, in two workers: the ratio of the twins is the noise floor of the comparison.
"""

import contextlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.benchmark.environment import Noise, NoiseProbe
from compress.benchmark.measure import Measurement, Profile, Subject
from compress.benchmark.process import Worker, WorkerError
from compress.benchmark.statistics import Estimate, geometric_mean_ratio
from compress.errors import InputError

_TWIN = "\0twin"  # no model can be called that
NOISY_FLOOR = 1.10


@dataclass(frozen=True, slots=True)
class Preset:
    """How long to measure. Per model and profile about rounds * block_ms, plus warm-up and 0.2 s to start."""

    name: str
    rounds: int
    block_ms: float
    """Shortest block; a model slower than that runs once a block."""
    warm_up_limit_ms: float


QUICK = Preset(name="quick", rounds=15, block_ms=40.0, warm_up_limit_ms=400.0)
STANDARD = Preset(name="standard", rounds=40, block_ms=150.0, warm_up_limit_ms=3_000.0)
STRICT = Preset(name="strict", rounds=120, block_ms=400.0, warm_up_limit_ms=15_000.0)
PRESETS = {preset.name: preset for preset in (QUICK, STANDARD, STRICT)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several models measured in the same rounds under one profile."""

    profile: Profile
    preset: Preset
    reference: str
    seed: int
    measurements: dict[str, Measurement]
    failures: dict[str, str]
    """Why a model has no measurement; the others are complete."""
    noise_floor: Estimate | None
    """Speed of the reference over its own twin, 1 without noise; None when the reference failed."""
    noise: Noise
    degraded: list[str]
    """What disturbed all models of this comparison."""

    def speedup(self, model: str, *, over: str) -> Estimate:
        """How many times faster `model` is than `over`: geometric mean over the rounds, with its interval.

        Raises:
            KeyError: when either has no measurement.
        """
        return _speedup(self.measurements[model], over=self.measurements[over], seed=self.seed)

    def is_measurable(self, speedup: Estimate) -> bool:
        """Whether a speedup's interval excludes 1 and its size exceeds the noise floor."""
        if self.noise_floor is None:
            return False
        floor = max(abs(math.log(self.noise_floor.low)), abs(math.log(self.noise_floor.high)))
        return (speedup.low > 1 or speedup.high < 1) and abs(math.log(speedup.value)) > floor


def compare(
    models: Mapping[str, Path],
    *,
    reference: str,
    inputs: Path,
    profile: Profile,
    preset: Preset = STANDARD,
    seed: int = 0,
    code: Sequence[Path] = (),
    load_limit_s: float = 120.0,
    reply_limit_s: float = 60.0,
) -> Comparison:
    """Measure models against each other. A model that fails is reported and the rest goes on.

    Args:
        models: ONNX file (or artifact directory, for torch) by name. All are in memory at once.
        reference: the model that gives the noise floor; one of `models`.
        inputs: .npz of real samples, one array per model input.
        profile: runtime, batch size and threads.
        preset: how long.
        seed: of the order in each round and of the bootstrap.
        code: the user's Python files that torch may run to build a model.
        load_limit_s: longest wait for a model's load and first run.
        reply_limit_s: longest wait for a block beyond the time asked for.

    Raises:
        InputError: when `reference` is not among the models, or a path does not exist.
    """
    _check(models, reference=reference, inputs=inputs)
    paths = {**models, _TWIN: models[reference]}
    failures: dict[str, str] = {}
    probe = NoiseProbe()
    with contextlib.ExitStack() as workers:
        subjects: dict[str, Subject] = {}
        for name, path in paths.items():
            running = Worker(
                runtime=profile.runtime, model=path, inputs=inputs, batch_size=profile.batch_size,
                threads=profile.threads, code=code, load_limit_s=load_limit_s, reply_limit_s=reply_limit_s,
            )  # fmt: skip
            workers.enter_context(running)
            with _noting(failures, name):
                subjects[name] = Subject(running, path=path, profile=profile)
                subjects[name].warm_up(block_ms=preset.block_ms, limit_ms=preset.warm_up_limit_ms)
        _run_rounds(subjects, failures, preset=preset, seed=seed)
        measurements: dict[str, Measurement] = {}
        for name, subject in subjects.items():
            if name not in failures:
                with _noting(failures, name):
                    measurements[name] = subject.measurement()
    noise = probe.noise()
    floor = _noise_floor(measurements, reference=reference, seed=seed)
    degraded = noise.reasons()
    if floor is not None and max(floor.high, 1 / floor.low) > NOISY_FLOOR:
        degraded.append(f"the reference differs from itself by up to {max(floor.high, 1 / floor.low) - 1:.0%}")
    return Comparison(
        profile=profile,
        preset=preset,
        reference=reference,
        seed=seed,
        measurements={name: found for name, found in measurements.items() if name != _TWIN},
        failures={name: reason for name, reason in failures.items() if name != _TWIN},
        noise_floor=floor,
        noise=noise,
        degraded=degraded,
    )


def _check(models: Mapping[str, Path], *, reference: str, inputs: Path) -> None:
    if reference not in models:
        raise InputError("the reference is not measured", expected=", ".join(models), got=reference)
    missing = [str(path) for path in (*models.values(), inputs) if not path.exists()]
    if missing:
        raise InputError("nothing to measure there", got=", ".join(missing))


@contextlib.contextmanager
def _noting(failures: dict[str, str], name: str):  # noqa: ANN202 - a context manager's iterator says nothing
    """Turn a worker's fault into the failure of its model."""
    try:
        yield
    except WorkerError as fault:
        failures[name] = fault.message


def _run_rounds(subjects: dict[str, Subject], failures: dict[str, str], *, preset: Preset, seed: int) -> None:
    order = random.Random(seed)
    for _ in range(preset.rounds):
        alive = [name for name in subjects if name not in failures]
        for name in order.sample(alive, len(alive)):
            with _noting(failures, name):
                subjects[name].run_block(block_ms=preset.block_ms)


def _noise_floor(measurements: dict[str, Measurement], *, reference: str, seed: int) -> Estimate | None:
    if reference not in measurements or _TWIN not in measurements:
        return None
    return _speedup(measurements[reference], over=measurements[_TWIN], seed=seed)


def _speedup(model: Measurement, *, over: Measurement, seed: int) -> Estimate:
    return geometric_mean_ratio(np.log(over.block_median_ms) - np.log(model.block_median_ms), seed=seed)
