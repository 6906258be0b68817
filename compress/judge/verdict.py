"""The verdict: test is read once, and the gates are judged on it."""

from collections.abc import Sequence

from compress.judge.contenders import Contender, find_gated
from compress.judge.gates import judge_gates
from compress.judge.mistakes import mistakes
from compress.judge.race import Race
from compress.judge.scores import Scores, score
from compress.judge.simplest import Fitted
from compress.measures.intervals import agreement, measure, measure_changes, sign_test
from compress.recipe import Recipe
from compress.report.document import TestRow, Verdict
from compress.stage import Host, Work
from compress.tasks import Task


def read_test(
    recipe: Recipe, work: Work, host: Host, contenders: Sequence[Contender], race: Race, *, fitted: Fitted | None
) -> Verdict:
    """Read test, for the teacher, the faster rival and the files that have gates, and judge the gates on it.

    Args:
        recipe: that is run.
        work: of the run.
        host: of the run.
        contenders: all files, the shipped one last.
        race: of all files.
        fitted: the simplest model of the task, which is read beside them; None where there is none.

    Raises:
        StageError: when a file's outputs are not finite.
    """
    shipped = contenders[-1]
    rivals = [entry for entry in contenders if entry.name == race.rival]
    entries = [contenders[0], *rivals, *find_gated(recipe, contenders), shipped]
    scores = _score_test(entries, work, host)
    test = read_rows(entries, scores, work.task.deployed, seed=recipe.seed)
    changes = {row.name: row.change for row in test[1 + len(rivals) :] if row.change is not None}
    over_rival = None if race.rival is None else race.primary.speedup(shipped.name, over=race.rival)
    gates = judge_gates(recipe, contenders, race, changes=changes)
    return Verdict(
        test=tuple(test),
        rival=race.rival,
        speedup_over_rival=over_rival,
        over_rival_measurable=over_rival is not None and race.primary.is_measurable(over_rival),
        change_from_rival=measure_changes({"": scores[-1].tally}, {"": scores[1].tally}, seed=recipe.seed)[""]
        if rivals
        else None,
        gates=gates,
        passed=all(gate.passed for gate in gates) if gates else None,
        mistakes=mistakes(
            scores[0], scores[-1], work.task.deployed, work.data.test, quote=recipe.data.quote is not False
        ),
        simplest=None if fitted is None else fitted.stand(scores[0], scores[-1], "test"),
    )


def _score_test(entries: Sequence[Contender], work: Work, host: Host) -> list[Scores]:
    """Return the scores of files on test, against the first one."""
    found: list[Scores] = []
    for entry in entries:
        teacher = found[0] if found else None
        found.append(score(entry.artifact, work, host, role="test", teacher=teacher, variant=entry.variant))
    return found


def read_rows(entries: Sequence[Contender], scores: Sequence[Scores], task: Task, *, seed: int) -> list[TestRow]:
    """Return every measure of files with its interval and its paired change against the first one.

    ``accuracy`` and ``change`` are of the task's own measure, which gates are about.
    """
    return [
        _row(entry.name, found, scores[0] if index else None, task, seed=seed)
        for index, (entry, found) in enumerate(zip(entries, scores, strict=True))
    ]


def _row(name: str, scores: Scores, teacher: Scores | None, task: Task, *, seed: int) -> TestRow:
    measures = measure(scores.measures, seed=seed)
    samples, accuracy = scores.tally.num_samples, measures[task.measure]
    if teacher is None:
        return TestRow(name=name, samples=samples, accuracy=accuracy, measures=measures, changes={})
    changes = measure_changes(scores.measures, teacher.measures, seed=seed)
    ours, theirs = scores.decisions, teacher.decisions
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
