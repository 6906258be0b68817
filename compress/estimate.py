"""How long and how large the real run will be, from what a smoke run measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.benchmark.compare import PRESETS
from compress.data import Data
from compress.recipe import Recipe
from compress.training import Optimization

FORWARD_SHARE = 1 / 3  # of a training step: one forward pass, and a backward pass twice as dear
WARM_UP_SHARE = 1.3  # a worker's start and warm-up, over its timed blocks


@dataclass(frozen=True)
class Measured:
    """What the smoke run knows of one row.

    Attributes:
        seconds: wall time, scoring included.
        facts: of the artifact; ``images_per_s`` where it was trained.
        size_bytes: of its ONNX form.
    """

    seconds: float
    facts: Mapping[str, Any]
    size_bytes: int


def estimate(recipe: Recipe, data: Data, *, smoke_select: int, rows: Mapping[str, Measured]) -> dict[str, Any]:
    """Predict the real run.

    Training scales with epochs and samples at the measured throughput, which a few steps understate; the teacher's
    outputs cost its forward passes; everything else scales with the select role.

    Args:
        recipe: the real one.
        data: the real samples.
        smoke_select: select samples of the smoke run.
        rows: what was measured, by row name.

    Returns:
        ``seconds`` by part, ``hours`` in total, ``disk_bytes``.
    """
    trained: dict[str, Optimization] = {
        stage.title: stage for stage in recipe.stages if isinstance(stage, Optimization)
    }
    trained |= {name: baseline.train for name, baseline in recipe.baselines.items()}
    if recipe.teacher.train is not None:
        trained["teacher"] = recipe.teacher.train
    samples, scale = len(data.train), len(data.select) / smoke_select
    seconds = {name: row.seconds * scale for name, row in rows.items() if name not in trained}
    for name, optimization in trained.items():
        seconds[name] = optimization.epochs * samples / rows[name].facts["images_per_s"]
    views = 1 if recipe.data.augment is None else recipe.data.augment.views
    teacher_rate = rows["teacher"].facts.get("images_per_s")
    if teacher_rate and recipe.loss.needs_teacher:
        seconds["teacher outputs"] = views * samples * FORWARD_SHARE / teacher_rate
    preset = PRESETS[recipe.benchmark.preset]
    timed_s = (len(rows) + 1) * preset.rounds * preset.block_ms / 1e3
    seconds["benchmark"] = len(recipe.benchmark.measured()) * timed_s * WARM_UP_SHARE
    outputs = 4 * len(data.classes) * (views * samples + (len(rows) + 3) * len(data.select))
    return {
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "hours": sum(seconds.values()) / 3600,
        # Each row is stored as an artifact, as a scored probe, and once more in MLflow or the run directory.
        "disk_bytes": outputs + 3 * sum(row.size_bytes for row in rows.values()),
    }


def sentence(predicted: Mapping[str, Any]) -> str:
    """Return the prediction in one line."""
    longest: Sequence[tuple[str, float]] = sorted(predicted["seconds"].items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in longest)
    disk = predicted["disk_bytes"] / 1e6
    return f"the real run: about {predicted['hours']:.2f} h ({parts}), {disk:,.0f} MB in the store"
