"""What scored models say before a student is paid for: how far each teacher is ahead, and how it writes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.advice.measures import Measure
from compress.advice.written import measure_choice, measure_gap, measure_texts
from compress.data import Samples
from compress.export.feed import Feed
from compress.export.program_file import open_program
from compress.judge.scores import Scores, score
from compress.judge.simplest import Fitted
from compress.pipeline.nodes import TEACHER, nodes
from compress.recipe import Recipe
from compress.stage import Host, Work
from compress.store.artifact import Artifact
from compress.tasks import TransductionTask
from compress.tasks.naive import lead_over_naive, nearest

BEAMS = 5  # of a model that writes greedily, for comparison
REWRITTEN = 256  # samples of select that are written a second time, in the other way


def measure_naive(recipe: Recipe, work: Work, host: Host) -> list[Measure]:
    """Measure how far each teacher is ahead of the nearest answer that needs no model, on all of select."""
    found: list[Measure] = []
    for name, scores, reads in _teachers(recipe, work, host):
        leads = lead_over_naive(scores.logits, reads.task.deployed, work.data.select)
        if (rival := nearest(leads)) is not None:
            told = f"{100 * scores.accuracy:.1f}% {reads.task.measure}, over {rival}"
            found.append(Measure("lead", leads[rival], name, told))
    return found


def measure_simplest(recipe: Recipe, work: Work, host: Host, fitted: Fitted) -> list[Measure]:
    """Measure how far each teacher is ahead of the simplest model, on all of select."""
    reached = f"{100 * fitted.tally('select').value:.1f}% is reached by {fitted}"
    return [
        Measure(
            "simplest",
            fitted.lead(scores, "select"),
            name,
            f"{100 * scores.accuracy:.1f}% {work.task.measure} on select; {reached}",
        )
        for name, scores, _ in _teachers(recipe, work, host)
    ]


def measure_writing(recipe: Recipe, work: Work, host: Host, *, student: Artifact | None = None) -> list[Measure]:
    """Measure how models write on select: what a beam gains, lengths, what does not end, errors by length.

    Args:
        recipe: whose labels drop what teachers write wrongly.
        work: with the teachers; without any nothing is measured.
        host: store, execution.
        student: the trained one, where there is one: what is left after its training is measured likewise.

    Returns:
        Nothing for tasks that do not write.
    """
    if work.task.deployed.problem != "written":
        return []
    rows = [*_teachers(recipe, work, host)]
    found = [one for row in rows for one in _of_texts(*row, host)]
    for stage in recipe.stages if rows else ():
        if stage.training is not None and stage.training.writing is not None:
            _, scores, reads = rows[0]
            assert isinstance(reads.task, TransductionTask)
            texts, select = np.asarray(scores.logits), work.data.select
            found += measure_choice(reads.task, texts, select, stage.training.writing, stage.title)
    if student is not None and rows:
        scores = score(student, work, host, role="select", teacher=rows[0][1])
        found += _of_texts("the trained student", scores, work.reading(student), host)
    return found


def _of_texts(name: str, scores: Scores, reads: Work, host: Host) -> list[Measure]:
    """Measure the texts that were scored, and some of them written again: greedily where that was a beam's, else so."""
    task, select = reads.task, reads.data.select
    assert isinstance(task, TransductionTask)
    texts = np.asarray(scores.logits)
    few = select.take(np.arange(min(REWRITTEN, len(select))))
    beams, others = _write_otherwise(scores, task, few, host)
    pair = (others, texts[: len(few)]) if beams == 1 else (texts[: len(few)], others)
    return [measure_gap(task, *pair, few, name), *measure_texts(task, texts, select, name)]


def _write_otherwise(scores: Scores, task: TransductionTask, samples: Samples, host: Host) -> tuple[int, NDArray[Any]]:
    """Return what a scored program writes greedily, or with a beam where it is greedy, and how many it follows then."""
    session = open_program(scores.onnx_path, threads=host.execution.threads)
    how = session.decoder.writing
    other = replace(how, beams=BEAMS if how.beams == 1 else 1)
    inputs = {"rewritten": scores.artifact.digest, "samples": samples.digest, "beams": other.beams}

    def write(directory: Path) -> dict[str, Any]:
        decoder = replace(session.decoder, writing=other)
        feed = Feed(task.deployed, samples, threads=host.execution.threads)
        np.save(directory / "texts.npy", feed.through(lambda *arrays: decoder.write(*arrays)[:2]))
        return {"samples": len(samples)}

    found = host.store.commit(inputs, kind="outputs", rounding=host.execution.rounding, write=write)
    return other.beams, np.load(found.path / "texts.npy")


def _teachers(recipe: Recipe, work: Work, host: Host) -> Iterator[tuple[str, Scores, Work]]:
    """Yield the row of each teacher, its scores on select, and the work as it reads samples."""
    rows = [node.name for node in nodes(recipe, until=TEACHER) if node.given is not None]
    for name, member in zip(rows[: len(work.teachers)], work.teachers, strict=True):
        yield name, score(member.artifact, work, host, role="select", teacher=None), work.reading(member.artifact)
