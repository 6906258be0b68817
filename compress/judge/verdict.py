"""The verdict: test is read once, and the gates are judged on it."""

from collections.abc import Sequence

from compress.judge.contenders import Contender, find_gated
from compress.judge.gates import judge_gates
from compress.judge.mistakes import mistakes
from compress.judge.race import Race
from compress.judge.scores import Scores, score
from compress.measures.intervals import agreement, measured, measured_changes, sign_test
from compress.recipe import Recipe
from compress.report.document import Mistakes, TestRow, Verdict
from compress.stage import Host, Work
from compress.tasks import Task


def read_test(recipe: Recipe, work: Work, host: Host, contenders: Sequence[Contender], race: Race) -> Verdict:
    """Read test, for the teacher, the faster rival and the files that have gates, and judge the gates on it.

    Raises:
        StageError: when a file's outputs are not finite.
    """
    teacher, shipped = contenders[0], contenders[-1]
    rival = next(entry for entry in contenders if entry.name == race.rival)
    gated = [*find_gated(recipe, contenders), shipped]
    test = read_rows([teacher, rival, *gated], work, host, seed=recipe.seed)
    changes = {row.name: row.change for row in test[2:] if row.change is not None}
    over_rival = race.primary.speedup(shipped.name, over=race.rival)
    gates = judge_gates(recipe, contenders, race, changes=changes)
    return Verdict(
        test=tuple(test),
        rival=race.rival,
        speedup_over_rival=over_rival,
        over_rival_measurable=race.primary.is_measurable(over_rival),
        gates=gates,
        passed=all(gate.passed for gate in gates) if gates else None,
        mistakes=_compare_decisions(teacher, shipped, work, host),
    )


def read_rows(entries: Sequence[Contender], work: Work, host: Host, *, seed: int) -> list[TestRow]:
    """Return every measure of files with its interval and its paired change against the first one, on the test role.

    ``accuracy`` and ``change`` are of the task's own measure, which gates are about.
    """
    teacher = score(entries[0].artifact, work, host, role="test", teacher=None, variant=entries[0].variant)
    rows = [_row(entries[0].name, teacher, None, work.task, seed=seed)]
    for entry in entries[1:]:
        scores = score(entry.artifact, work, host, role="test", teacher=teacher, variant=entry.variant)
        rows.append(_row(entry.name, scores, teacher, work.task, seed=seed))
    return rows


def _row(name: str, scores: Scores, teacher: Scores | None, task: Task, *, seed: int) -> TestRow:
    measures = measured(scores.measures, seed=seed)
    samples, accuracy = scores.tally.num_samples, measures[task.measure]
    if teacher is None:
        return TestRow(name=name, samples=samples, accuracy=accuracy, measures=measures, changes={})
    changes = measured_changes(scores.measures, teacher.measures, seed=seed)
    ours, theirs = (task.decisions(found.logits) for found in (scores, teacher))
    return TestRow(
        name=name,
        samples=samples,
        accuracy=accuracy,
        measures=measures,
        change=changes[task.measure],
        changes=changes,
        mcnemar_p=sign_test(scores.tally, teacher.tally),
        agreement=None if ours is None or theirs is None else agreement(ours, theirs),
    )


def _compare_decisions(teacher: Contender, shipped: Contender, work: Work, host: Host) -> Mistakes | None:
    """Compare two of the rows that were read on test, from what is stored of them."""
    reference = score(teacher.artifact, work, host, role="test", teacher=None, variant=teacher.variant)
    scores = score(shipped.artifact, work, host, role="test", teacher=reference, variant=shipped.variant)
    return mistakes(reference, scores, work.task, work.data.test)
