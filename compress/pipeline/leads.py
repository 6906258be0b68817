"""How far each teacher is ahead of answers that need no model, and of the simplest model."""

from collections.abc import Iterator

from compress.advice.measures import Measure
from compress.judge.scores import Scores, score
from compress.judge.simplest import Fitted
from compress.pipeline.nodes import TEACHER, nodes
from compress.recipe import Recipe
from compress.stage import Host, Work
from compress.tasks.naive import lead_over_naive, nearest


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


def _teachers(recipe: Recipe, work: Work, host: Host) -> Iterator[tuple[str, Scores, Work]]:
    """Yield the row of each teacher, its scores on select, and the work as it reads samples."""
    rows = [node.name for node in nodes(recipe, until=TEACHER) if node.given is not None]
    for name, member in zip(rows[: len(work.teachers)], work.teachers, strict=True):
        yield name, score(member.artifact, work, host, role="select", teacher=None), work.reading(member.artifact)
