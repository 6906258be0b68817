"""What several views of a report say alike: lines of words, and the cells of their tables."""

from collections.abc import Iterable, Mapping, Sequence

from compress.benchmark import tables
from compress.measures.intervals import Estimate
from compress.measures.units import format_bytes, format_ms
from compress.report.document import DataSection, GateResult, Report, SimplestModel, TestRow, Verdict
from compress.tasks.contrast import Contrast

LISTED_CLASSES = 5  # with more, the recall of each is on the page only
TEST_HEAD = ("model", "accuracy %", "change in points", "agreement with the teacher")


def data_line(section: DataSection) -> str:
    """Return the data section in one line."""
    dropped = section.dropped_duplicates
    return f"data: {_by_role(section.samples)}; {dropped:,} duplicates dropped from train{truncation(section)}"


def note_lines(notes: Iterable[str]) -> list[str]:
    """Return what a user should know of how samples were read and chosen, to follow the line of the data."""
    return [f"data: {note}" for note in notes]


def truncation(section: DataSection) -> str:
    """Return how many samples of a data section are cut in which roles, to follow what there are; empty for none."""
    return f"; cut at max_length: {_by_role(section.truncated)}" if section.truncated else ""


def loss_line(report: Report) -> str:
    """Return the fingerprint of the pipeline's loss, and of each stage that uses another."""
    own = report.loss.fingerprint
    others = [
        f"{stage.name} uses {stage.loss_fingerprint}"
        for stage in report.stages
        if stage.loss_fingerprint not in (None, own)
    ]
    return "; ".join([f"loss: {own}", *others])


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return the comparison with the rival and each gate, in words."""
    if verdict.speedup_over_rival is None:
        return gate_lines(verdict.gates)
    value, low, high = verdict.speedup_over_rival
    sure = "" if verdict.over_rival_measurable else "~"
    over = f"{sure}{value:.2f}x [{low:.2f}, {high:.2f}] as fast as {verdict.rival}"
    return [over, *gate_lines(verdict.gates)]


def describe_simplest(model: SimplestModel, *, train: int) -> str:
    """Return what the simplest model is and takes.

    Args:
        model: fitted on some of train, perhaps not all.
        train: how many samples there are.
    """
    some = f"{model.samples:,}" if model.samples == train else f"{model.samples:,} of {train:,}"
    return (
        f"{model.title} ({format_bytes(model.size_bytes)}, {format_ms(model.sample_ms)} ms a sample, "
        f"fitted on {some} samples in {model.fit_s:.1f} s)"
    )


def simplest_lines(report: Report) -> list[str]:
    """Return what the simplest model is and reaches, and who is ahead of it by how much; nothing without one."""
    test = None if report.verdict is None else report.verdict.simplest
    standing, role = (report.simplest_on_select, "select") if test is None else (test, "test")
    if report.simplest is None or standing is None:
        return []
    reached = f"{100 * standing.reached.value:.2f}% {report.task.measure} on {role}"
    ahead = {"the teacher": standing.teacher, "what ships" if report.benchmark else "the last stage": standing.shipped}
    told = "; ".join(f"{name} {describe_lead(lead)}" for name, lead in ahead.items())
    what = describe_simplest(report.simplest, train=report.data.samples["train"])
    return [f"simplest: {what} reaches {reached}; {told}"]


def describe_lead(lead: Estimate) -> str:
    """Return how far ahead of the simplest model one is, in points, in words that begin with a verb."""
    word = "is ahead by" if lead.low > 0 else "LOSES to it by" if lead.high < 0 else "is not surely ahead:"
    value, low, high = (100 * bound for bound in lead)
    if lead.high < 0:
        value, low, high = -value, -high, -low
    return f"{word} {value:.2f} points [{low:.2f}, {high:.2f}]"


def absent_lines(report: Report) -> list[str]:
    """Return each row that could not be made, with the reason."""
    return [f"no {name}: {why}" for name, why in report.absent.items()]


def price_rows(report: Report, *, price_per_hour: float) -> tuple[list[str], list[list[str]]]:
    """Return head and cells of what a million predictions of each file cost, by profile; no rows without a benchmark.

    Args:
        report: of a run.
        price_per_hour: of the machine, in any currency.
    """
    if report.benchmark is None:
        return ["model"], []
    compared = report.benchmark.by_profile
    by_profile = {
        name: tables.prices(found, price_per_hour=price_per_hour)
        for name, found in compared.items()
        if found.ranked and found.profile.arrivals_per_s is None
    }
    rows = [[row.name, *(costs.get(row.name, "-") for costs in by_profile.values())] for row in report.benchmark.rows]
    return ["model", *by_profile], rows


def price_note(price_per_hour: float) -> str:
    """Return what the costs of `price_rows` are of."""
    return (
        f"A million predictions at {price_per_hour:g} an hour, in the currency of that price, on a machine that runs "
        "one process with the profile's threads; one that runs several at once costs each its share."
    )


def text_lines(report: Report) -> list[str]:
    """Return how many texts of select are answered otherwise than by the teacher, and some of them; perhaps nothing."""
    found = report.texts
    if found is None or not found.differing:
        return []
    return [
        contrast_line(found),
        *(
            f"  {name}: {text}"
            for example in found.examples
            for name, text in (
                (f"text {example.sample}", example.source), ("  right", example.reference),
                ("  teacher", example.teacher), ("  student", example.student),
            )
        ),
    ]  # fmt: skip


def contrast_line(found: Contrast) -> str:
    """Return in how many texts teacher and student differ."""
    return (
        f"texts of select: the student answers {found.differing:,} of {found.samples:,} otherwise than the teacher, "
        f"who alone is right in {found.lost:,}"
    )


def gate_lines(gates: Iterable[GateResult]) -> list[str]:
    """Return each gate in words; a missed one with what to change next."""
    lines = []
    for gate in gates:
        lines.append(f"gate {'passed' if gate.passed else 'MISSED'}  {gate.gap}")
        lines += [f"  next: {gate.remedy}"] if gate.remedy else []
    return lines


def fill_test_cells(row: TestRow) -> Sequence[str]:
    """Return a row of the test role under `TEST_HEAD`."""
    agreement = "" if row.agreement is None else f"{100 * row.agreement.value:.2f}%"
    return row.name, _points(row.accuracy, sign=""), _points(row.change, sign="+"), agreement


def other_measures(verdict: Verdict) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return heads and rows of what was measured on test besides the judged measure, teacher and shipped file.

    Of many classes the page has the recalls, and a table of them would hide the rest.
    """
    teacher, shipped = verdict.teacher, verdict.shipped
    _, *names = shipped.measures
    recalls = [name for name in names if name.startswith("recall of ")]
    if len(recalls) > LISTED_CLASSES:
        names = [name for name in names if name not in recalls]
    rows: list[Sequence[str]] = [
        (name, *map(_number, (teacher.measures[name], shipped.measures[name], shipped.changes[name]))) for name in names
    ]
    return ("measure", teacher.name, shipped.name, "change"), rows


def _by_role(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{role} {count:,}" for role, count in counts.items())


def _number(estimate: Estimate) -> str:
    value, low, high = estimate
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _points(estimate: Estimate | None, *, sign: str) -> str:
    if estimate is None:
        return ""
    value, low, high = (100 * bound for bound in estimate)
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
