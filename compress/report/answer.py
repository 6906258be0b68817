"""The answer of a run: its verdict, what ships against the teacher in one sentence, and which file to take.

The page opens with it and the terminal ends with it, from here, so that they cannot say two things.
"""

from dataclasses import dataclass
from typing import Literal

from compress.benchmark.document import BenchmarkResult, Row
from compress.benchmark.runtimes import find
from compress.benchmark.tables import doubts
from compress.measures.intervals import Estimate
from compress.measures.units import format_factor
from compress.report.document import FileFit, GateResult, Report, Verdict

Outcome = Literal["passed", "disturbed", "missed", "unjudged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a run came to.

    Attributes:
        outcome: ``disturbed`` where every gate holds and something disturbed the measurement.
        title: the same in words, such as ``Passed on a disturbed machine: every gate holds``.
        size: of the shipped file against the teacher's, in words; empty, as the three below, without a benchmark.
        speed: over the teacher, with its interval; empty where times rank nothing.
        change: of the task's measure, with its interval.
        where: runtime, batch, threads, hardware and day of the times.
        rival: the same against the teacher with quantization only; empty where test was not read, or there is none.
        file: which file to ship, and why, or that the one that was judged is none to ship; empty without a bundle.
        ships: whether it is one to ship: there is one, and no gate is missed.
    """

    outcome: Outcome
    title: str
    size: str = ""
    speed: str = ""
    change: str = ""
    where: str = ""
    rival: str = ""
    file: str = ""
    ships: bool = False

    @property
    def sentence(self) -> str:
        """What ships against the teacher; empty without a benchmark."""
        if not self.size:
            return ""
        claims = f"{self.size} and {self.speed}" if self.speed else self.size
        return f"The shipped file is {claims}; {self.change}. {self.where}"


def answer(report: Report) -> Answer:
    """Return the answer of a report."""
    outcome, title = _judge(report)
    benchmark = report.benchmark
    if benchmark is None:
        return Answer(outcome=outcome, title=title)
    shipped, verdict = benchmark.shipped, report.verdict
    file = _file(report)
    change, role = (shipped.accuracy_change, "select") if verdict is None else (verdict.shipped.change, "test")
    return Answer(
        outcome=outcome,
        title=title,
        size=_size(benchmark.row(benchmark.reference), shipped, "the teacher"),
        speed=_speed(benchmark),
        change=f"{report.task.measure} on {role} changed by {_points(change)}",
        where=_where(report, benchmark),
        rival=_rival(benchmark, verdict),
        file=file,
        ships=bool(file) and not _missed(report),
    )


def find_doubts(report: Report) -> list[str]:
    """Return what disturbed the times that the answer rests on: the primary profile's, and those of its gates."""
    if report.benchmark is None:
        return []
    by_profile = report.benchmark.by_profile
    names = dict.fromkeys([report.benchmark.primary, *(gate.profile for gate in _gates(report))])
    found = [doubt for name in names if name in by_profile for doubt in doubts(by_profile[name])]
    return list(dict.fromkeys(found))


def describe_fit(fit: FileFit) -> str:
    """Return how a file of the bundle stands to the gates on select."""
    if fit.missed:
        return f"{fit.variant} misses {', '.join(fit.missed)}"
    if fit.room is None:
        return f"{fit.variant} loses nothing that a gate limits"
    return f"{fit.variant} has {format_factor(fit.room)}x of room at its tightest gate, {fit.tightest}"


def _judge(report: Report) -> tuple[Outcome, str]:
    verdict = report.verdict
    if report.benchmark is None:
        return "unjudged", f"Not judged: the run stopped after {report.stages[-1].name}"
    if report.estimate is not None:
        return "unjudged", "Not judged: a smoke run shows only that everything works"
    if verdict is None:
        return "unjudged", "Not judged: a variant of a sweep, for which test was not read"
    if verdict.passed is None:
        return "unjudged", "Not judged: the recipe has no gates"
    disturbed = " on a disturbed machine" if find_doubts(report) else ""
    if not verdict.passed:
        return "missed", f"Missed{disturbed}: {', '.join(_missed(report))}"
    return ("disturbed" if disturbed else "passed"), f"Passed{disturbed}: every gate holds"


def _gates(report: Report) -> tuple[GateResult, ...]:
    return report.gates_on_select if report.verdict is None else report.verdict.gates


def _missed(report: Report) -> list[str]:
    return [gate.name for gate in _gates(report) if not gate.passed]


def _size(other: Row, shipped: Row, name: str) -> str:
    factor = other.size_bytes / shipped.size_bytes
    if factor > 1:
        return f"{format_factor(factor)} times smaller than {name}"
    return f"{format_factor(1 / factor)} times as large as {name}"


def _speed(benchmark: BenchmarkResult) -> str:
    shipped, primary = benchmark.shipped, benchmark.primary
    return _times(shipped.speedup.get(primary), measurable=shipped.measurable.get(primary, False))


def _times(speedup: Estimate | None, *, measurable: bool) -> str:
    if speedup is None:
        return ""
    word = "as fast"
    if speedup.value < 1:
        speedup, word = Estimate(1 / speedup.value, 1 / speedup.high, 1 / speedup.low), "slower"
    value, low, high = map(format_factor, speedup)
    return f"{'' if measurable else '~'}{value} times {word} [{low}, {high}]"


def _rival(benchmark: BenchmarkResult, verdict: Verdict | None) -> str:
    if verdict is None or verdict.rival is None:
        return ""
    size = _size(benchmark.row(verdict.rival), benchmark.shipped, f"{verdict.rival} (quantized, nothing else)")
    speed = _times(verdict.speedup_over_rival, measurable=verdict.over_rival_measurable)
    return f"It is {size} and {speed}." if speed else f"It is {size}."


def _points(change: Estimate | None) -> str:
    if change is None:
        return "nothing that is known"
    value, low, high = (100 * bound for bound in change)
    return f"{value:+.2f} points [{low:+.2f}, {high:+.2f}]"


def _where(report: Report, benchmark: BenchmarkResult) -> str:
    if not benchmark.comparisons:
        return "Nothing was timed."
    profile, environment = benchmark.comparisons[0].profile, report.environment
    threads = f"{profile.threads} thread{'s' * (profile.threads != 1)}"
    what = f"Timed with {profile.runtime}, batch {profile.batch_size}, {threads}"
    if profile.scenario != "single_stream":
        what += f", {profile.scenario.replace('_', ' ')}"
    # Only this machine's processor is known, and it is not what computes elsewhere.
    if profile.place.launcher:
        return f"{what}, on {profile.place.name}, {environment.day}."
    if find(profile.runtime).on_device:
        return f"{what}, on its device beside {environment.cpu_model}, {environment.day}."
    return f"{what}, on {environment.cpu_model}, {environment.day}."


def _file(report: Report) -> str:
    """Return which file to ship; another than was judged only where it serves the gates better on select."""
    primary = report.stages[-1].facts.get("primary")
    if report.estimate is not None or not primary:
        return ""
    lead = "Do not ship" if _missed(report) else "Ship"
    shipped = next((fit for fit in report.files if fit.name == report.stages[-1].name), None)
    if shipped is None:
        return f"{lead} {primary}."
    others = [fit for fit in report.files if fit is not shipped]
    better = [fit for fit in others if fit.best]
    if better:
        then = ", or" if lead == "Ship" else ";"
        return (
            f"{lead} {shipped.variant}{then} try {better[0].variant}: on select {describe_fit(shipped)}, "
            f"{describe_fit(better[0])}; `primary: auto` under `export` has it judged."
        )
    told = "; ".join(map(describe_fit, (shipped, *others)))
    return f"{lead} {shipped.variant}: on select {told}." if others else f"{lead} {shipped.variant}."
