"""What judging takes of time and memory with many samples and classes.

Usage: python benchmarks/measures_scale.py [--samples 50000] [--classes 1000] [--rounds 3]

Random logits of a teacher and a student, right about four times in five, of single classes and of several labels, go
through what a scoring and a verdict compute from them: all measures, their intervals, the paired intervals of the
student's change, mistakes class by class, and the divergence. The time is the median of the rounds on one thread; the
peak is what a step allocates besides the logits, from a round of its own. Writes
``benchmarks/results/measures_scale.json`` and ``.md``.
"""

import argparse
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray

from compress.benchmark.environment import describe
from compress.data import Samples
from compress.judge.mistakes import mistakes
from compress.judge.scores import Scores
from compress.measures.divergence import kl_nats
from compress.measures.intervals import measure, measure_changes
from compress.measures.judge import multi_label
from compress.store.artifact import Artifact
from compress.tasks import ImageClassification, Tally

RIGHT = 4.1  # added to the right logit: the largest of 1,000 others is smaller four times in five
LABELS = 3  # of a sample, on average, where it has several
Tallies = dict[str, Tally]


@dataclass(frozen=True)
class Cost:
    """What a step takes."""

    step: str
    seconds: list[float]
    peak_bytes: int


def cost(step: str, work: Callable[[], object], *, rounds: int) -> Cost:
    """Time a step, and then see what it allocates, which slows it down."""
    work()
    seconds = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_s)
    tracemalloc.start()
    work()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = Cost(step, seconds, peak_bytes)
    print(asdict(found), flush=True)
    return found


def of_tallies(kind: str, tallies: Callable[[int], Tallies], *, rounds: int) -> list[Cost]:
    """Return what measures and intervals take; ``tallies`` are the teacher's (0) and the student's (1)."""
    sides = [tallies(0), tallies(1)]
    return [
        cost(f"{kind}: all measures", lambda: [tally.value for tally in tallies(1).values()], rounds=rounds),
        cost(f"{kind}: their intervals", lambda: measure(sides[1], seed=0), rounds=rounds),
        cost(f"{kind}: paired intervals of the change", lambda: measure_changes(*sides[::-1], seed=0), rounds=rounds),
    ]


def single(samples: int, classes: int, *, rounds: int) -> list[Cost]:
    """Return what is computed where each sample is of one class."""
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=samples)
    logits = [generator.standard_normal((samples, classes), np.float32) for _ in range(2)]
    for side in logits:
        side[np.arange(samples), labels] += RIGHT
    task = ImageClassification(tuple(map(str, range(classes))), shape=(1, 1, 1), scale=1.0, mean=(0.0,), std=(1.0,))
    role = Samples(np.zeros((samples, 1, 1, 1), np.uint8), labels)
    teacher, student = (scores(side, task, role) for side in logits)
    return [
        *of_tallies("one class", lambda side: dict(task.tallies(logits[side], role)), rounds=rounds),
        cost("one class: mistakes", lambda: mistakes(teacher, student, task, role), rounds=rounds),
        cost("one class: divergence", lambda: kl_nats(*logits), rounds=rounds),
    ]


def scores(logits: NDArray[np.float32], task: ImageClassification, role: Samples) -> Scores:
    """Return logits as if a file had given them."""
    measures = task.tallies(logits, role)
    nowhere = Artifact(Path(), "scores", key="", digest="", inputs={}, facts={})
    return Scores(artifact=nowhere, logits=logits, tally=measures[task.measure], measures=measures, task=task)


def several(samples: int, classes: int, *, rounds: int) -> list[Cost]:
    """Return what is computed where each sample has any of the labels."""
    generator = np.random.default_rng(1)
    labels = (generator.random((samples, classes), np.float32) < LABELS / classes).astype(np.uint8)
    sides = [labels ^ (generator.random(labels.shape, np.float32) < 0.4 / classes) for _ in range(2)]
    decided = [side.astype(bool) for side in sides]
    return of_tallies("several labels", lambda side: multi_label(decided[side], labels), rounds=rounds)


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["| step | seconds | peak MB |", "|---|---:|---:|"]
    lines += [
        f"| {found['step']} | {np.median(found['seconds']):.3f} | {found['peak_bytes'] / 1e6:,.0f} |"
        for found in result["costs"]
    ]
    environment = result["environment"]
    lines += [
        "",
        f"{result['samples']:,} samples, {result['classes']:,} classes; medians of {result['rounds']} rounds on one "
        f"thread; the peak is besides logits, decisions and labels. {environment['cpu_model']}; "
        f"numpy {environment['versions']['numpy']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every step and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results")
    arguments = parser.parse_args()
    sizes = {"samples": arguments.samples, "classes": arguments.classes, "rounds": arguments.rounds}
    costs = [found for kind in (single, several) for found in kind(**sizes)]
    result = sizes | {"costs": [asdict(found) for found in costs], "environment": asdict(describe(seed=0))}
    stem = arguments.output / "measures_scale"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
