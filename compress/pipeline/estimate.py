"""How long and how large the real run will be, from what a smoke run measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.benchmark.compare import PRESETS
from compress.data import Data
from compress.pipeline.nodes import nodes
from compress.recipe import Recipe
from compress.report.document import Prediction
from compress.stage import Writing

FORWARD_SHARE = 1 / 3  # of a training step: one forward pass, and a backward pass twice as dear
WORKER_START_S = 0.5
WARM_UP_BLOCKS = 4  # three are the fewest that can be stable


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


def estimate(
    recipe: Recipe, data: Data, *, smoke_select: int, rows: Mapping[str, Measured], num_raced: int
) -> Prediction:
    """Predict the real run.

    Training scales with epochs and samples at the measured throughput, which a few steps understate, and in which are
    the passes of teachers that are run in every step; stored outputs of a teacher cost its forward passes; what it
    writes costs as much a symbol as in the smoke run, and is as long as train's texts; everything else scales with the
    select role.

    Args:
        recipe: the real one.
        data: the real samples.
        smoke_select: select samples of the smoke run.
        rows: what was measured, by row name; a comparison that could not be made is not there.
        num_raced: files in the benchmark.
    """
    trainings = {
        node.name: (node.stage.training, node.role)
        for node in nodes(recipe)
        if node.name in rows and node.is_row and node.stage.training is not None
    }
    learning = [node.stage for node in nodes(recipe) if node.is_row and "teacher" in node.stage.needs]
    stores = any(
        stage.guided_loss(recipe.loss).needs_teacher
        and stage.guided_loss(recipe.loss).on_policy is None
        and stage.training is not None
        and not stage.training.live
        for stage in learning
    )
    task, scale = recipe.task(data), len(data.select) / smoke_select
    learnt = {name: _count_learnt(data, training.writing) for name, (training, _) in trainings.items()}
    own_rate = {name for name, (training, _) in trainings.items() if not training.within}
    seconds = {name: row.seconds * scale for name, row in rows.items() if name not in own_rate}
    student = [name for name, (training, role) in trainings.items() if role == "stage" and not training.within]
    student.sort(key=lambda name: trainings[name][0].live)  # what trains within a stage reads stored outputs, too
    student += ["teacher"] if recipe.student == "teacher" else []
    # The smoke run leaves out what trains within a stage, so that it measures no rate of its own.
    student_rate = next((rate for name in student if (rate := rows[name].facts.get("images_per_s"))), None)
    unknown: list[str] = []
    for name, (training, _) in trainings.items():
        part = f"{name}, recovery" if training.within else name
        rate = student_rate if training.within else rows[name].facts.get("images_per_s")
        if rate:
            seconds[part] = training.epochs * learnt[name] / rate
        else:
            unknown.append(part)
        if training.writing is not None:
            written = rows[name].facts["label"]
            symbols = _count_sources(data, training.writing) * training.writing.rows * task.units(data.train).mean()
            seconds[f"{name}, labels"] = symbols * written["seconds"] / written["symbols"]
    views = len(task.views(mixup=recipe.loss.mixup))
    teacher_rate = rows["teacher"].facts.get("images_per_s")
    samples = max([len(data.train), *learnt.values()])
    if teacher_rate and stores:
        seconds["teacher outputs"] = views * samples * FORWARD_SHARE / teacher_rate
    preset = PRESETS[recipe.benchmark.preset]
    blocks = preset.rounds + preset.launches * WARM_UP_BLOCKS
    raced_s = (num_raced + 1) * (blocks * preset.block_ms / 1e3 + preset.launches * WORKER_START_S)
    seconds["benchmark"] = len(recipe.benchmark.list_profiles()) * raced_s
    units = [float(task.units(role).mean()) for role in (data.train, data.select)]
    kept = (views * samples * units[0] * stores, (len(rows) + 3) * len(data.select) * units[1])
    outputs = round(4 * len(task.classes) * sum(kept))
    return Prediction(
        seconds={name: round(value, 1) for name, value in seconds.items()},
        hours=sum(seconds.values()) / 3600,
        # Each row is stored as an artifact, as a scored probe, and once more in MLflow or the run directory.
        disk_bytes=outputs + 3 * sum(row.size_bytes for row in rows.values()),
        unknown=tuple(unknown),
    )


def _count_sources(data: Data, writing: Writing) -> int:
    """Return how many sources teachers read."""
    return len(set(data.train.array)) + writing.further


def _count_learnt(data: Data, writing: Writing | None) -> int:
    """Return how many samples an epoch has."""
    if writing is None:
        return len(data.train)
    return _count_sources(data, writing) * writing.texts + writing.given * len(data.train)


def sentence(predicted: Prediction) -> str:
    """Return the prediction in one line."""
    longest: Sequence[tuple[str, float]] = sorted(predicted.seconds.items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in longest)
    disk = predicted.disk_bytes / 1e6
    unknown = f"; without {', '.join(predicted.unknown)}, not measured here" if predicted.unknown else ""
    return f"the real run: about {predicted.hours:.2f} h ({parts}), {disk:,.0f} MB in the store{unknown}"
