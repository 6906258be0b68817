"""When a measured value is a warning, what to do then, and what evidence the threshold has."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import Any, Literal

from rich.console import Console

from compress.advice.measures import Measure
from compress.benchmark.fitting import fitted_table
from compress.errors import AdviceError
from compress.progress import fold
from compress.tasks.naive import CAUSES

Evidence = Literal["calibrated", "rule of thumb", "exact"]
Side = Literal["above", "below", "outside", "not above"]
HEADS = ("probe", "measured, interval", "warns", "", "threshold is")
FIRST = ("lead", "simplest")  # probes whose warnings begin what is shown: they are about all the rest


@dataclass(frozen=True)
class Rule:
    """What one probe's value means.

    Attributes:
        side: on which side of the threshold it warns; ``outside`` warns above it and below one over it, ``not above``
            unless the whole interval is above it.
        threshold: in the probe's unit. Calibrated ones are replaced by those of ``thresholds.json``.
        unit: of the value: ``%`` shows shares as percentages, else it is shown behind the number.
        means: what is measured, in a few words.
        advice: what to do when it warns.
        settings: what to type for that, each after ``--set``: a line of the recipe by its path, with a value to begin
            with. A path of stages names the usual one.
        evidence: ``exact`` where no sample and no threshold is in doubt.
    """

    side: Side
    threshold: float
    unit: str
    means: str
    advice: str
    settings: tuple[str, ...]
    evidence: Evidence = "rule of thumb"

    def warns(self, measure: Measure) -> bool:
        """Return whether the whole interval lies beyond the threshold: what samples may explain is no warning."""
        above, below = measure.value.low > self.threshold, measure.value.high < self.threshold
        if self.side == "not above":
            return not above
        if self.side == "outside":
            return bool(above or measure.value.high < 1 / self.threshold)
        return bool(above if self.side == "above" else below)


RULES: dict[str, Rule] = {
    "lead": Rule(
        "not above",
        0.0,
        "%",
        "teacher's measure on select less that of the nearest answer that needs no model",
        f"the teacher has nothing to teach, and `run` stops after it: look for {CAUSES}",
        (
            "data.normalize={mean: [0.5], std: [0.25]}",
            "teacher.expected_accuracy=0.9",
        ),
        "exact",
    ),
    "simplest": Rule(
        "below",
        0.0,
        "%",
        "teacher's measure on select less that of the simplest model",
        "a model without a network does better than this teacher, and than its student will: use that model, or train "
        "a better teacher first (longer, with another learning rate, from better published weights)",
        (
            "teacher.train.epochs=40",
            "teacher.train.learning_rate=0.03",
        ),
        "exact",
    ),
    "capacity": Rule(
        "below",
        0.01,
        "",
        "student's parameters over the teacher's",
        "expect the student not to reach the teacher: widen it, distil in steps through a model between, or measure "
        "with --pilot what it can learn",
        (
            "student={cnn: {widths: [32, 64, 64], strides: [1, 2, 1]}}",
            "teacher={artifact: compress-store/artifacts/KEY}",
        ),
    ),
    "logits-only": Rule(
        "below",
        0.05,
        "",
        "the same, where the loss reads logits alone",
        "add a term on features, such as hidden or last_feature, and compare it with the logits alone",
        (
            "loss.last_feature={}",
            "loss.hidden={}",
        ),
    ),
    "shift": Rule(
        "above",
        0.7,
        "",
        "AUC of a classifier that tells the distillation data from what the teacher knows",
        "distil on data like those that the teacher was trained on, or train the teacher further on these first",
        (
            "data.source={table: {path: mine.csv, text: text, label: label}}",
            "teacher.weights=teacher.safetensors",
        ),
    ),
    "calibration": Rule(
        "above",
        0.05,
        "",
        "teacher's expected calibration error, 15 bins",
        "its probabilities are not to be taken as they are: try temperatures around the fitted one times the recipe's, "
        "or train the teacher with augmentation",
        (
            "loss.kl.temperature=2",
            "data.augment={flip: true}",
        ),
    ),
    "fitted-temperature": Rule(
        "above",
        1.5,
        "",
        "temperature under which the teacher is calibrated",
        "the teacher is over-confident: use a temperature above this one, or augment its training",
        (
            "loss.kl.temperature=8",
            "data.augment={flip: true}",
        ),
    ),
    "confidence-gap": Rule(
        "above",
        0.05,
        "",
        "teacher's mean confidence on train less on held-out data",
        "the teacher knows the distillation data by heart: augment them, hold some out from its training, or cross-fit",
        (
            "data.augment={crop_padding: 4}",
            "data.split.calibration=0.2",
        ),
    ),
    "confidence-drop": Rule(
        "above",
        0.05,
        "",
        "teacher's mean confidence on what it knows less on the distillation data",
        "the teacher is unsure of these data: check their preprocessing, or train it further on them",
        (
            "data.normalize={mean: [0.5], std: [0.25]}",
            "teacher.weights=teacher.safetensors",
        ),
    ),
    "accuracy-drop": Rule(
        "above",
        0.05,
        "%",
        "teacher's accuracy on select less on the distillation data",
        "the teacher is worse on the distillation data: check their preprocessing and labels, or train it on them",
        (
            "data.normalize={mean: [0.5], std: [0.25]}",
            "teacher.weights=teacher.safetensors",
        ),
    ),
    "filtered": Rule(
        "below",
        0.2,
        "",
        "teacher's errors on train over its errors on select",
        "train looks filtered to what the teacher gets right: put the other samples back, its errors teach too",
        ("data.source={table: {path: mine.csv, text: text, label: label}}",),
    ),
    "non-target-mass": Rule(
        "below",
        0.01,
        "",
        "probability of the classes that the teacher does not decide for",
        "the teacher is nearly one-hot at this temperature and says little more than labels: raise it",
        ("loss.kl.temperature=8",),
    ),
    "conformance": Rule(
        "below",
        1.0,
        "%",
        "declared properties of the loss term that hold",
        "the term's reduction or scaling is wrong: sum over classes, one value per sample, temperature squared; see "
        "compress.testing",
        ("loss=hinton",),
        "exact",
    ),
    "gradient-ratio": Rule(
        "outside",
        100.0,
        "x",
        "length of the term's gradient over the labels', at step 0",
        "one of the two drowns the other: look for a sum over the batch, a mean over classes, a missing temperature "
        "squared or a wrong weight",
        (
            "loss.kl.weight=0.5",
            "loss.hard.weight=0.5",
        ),
    ),
    "gradient-cosine": Rule(
        "below",
        -0.3,
        "",
        "cosine of the term's gradient with the labels', at step 0",
        "the teacher points elsewhere than the labels: check its classes' order and preprocessing, then try a "
        "lower temperature or a better teacher",
        (
            "loss.kl.temperature=1",
            "data.normalize={mean: [0.5], std: [0.25]}",
        ),
    ),
    "pair-similarity": Rule(
        "below",
        0.05,
        "",
        "linear CKA of two layers that the loss compares",
        "the two layers have nothing in common: name another pair, or compare last features or relations",
        (
            "loss.hidden.pairs={layers.1: layers.2}",
            "loss.last_feature={}",
        ),
    ),
    "best-pairs": Rule(
        "below",
        0.05,
        "",
        "linear CKA of the most similar layers, where the loss compares none",
        "no two layers have anything in common: terms on features are unlikely to help",
        ("loss=hinton",),
    ),
    "beam-gap": Rule(
        "above",
        0.01,
        "%",
        "measure on select with a beam less that of greedy writing",
        "greedy writing loses that: have the student learn what the teacher writes with a beam, which brings the two "
        "together, or give it a beam and pay for it",
        (
            "stages.distill.label=sequence",
            "student={transducer: {beams: 4}}",
        ),
    ),
    "length-ratio": Rule(
        "outside",
        1.1,
        "x",
        "symbols that are written over those that are right, on select",
        "texts are cut or run on: look at max_length and written_limit, and train longer; of a beam, try another "
        "length_penalty",
        (
            "data.written_limit={symbols: 8, per_source_symbol: 1.5}",
            "teacher.train.epochs=40",
        ),
    ),
    "runaway": Rule(
        "above",
        0.01,
        "%",
        "texts on select that did not come to their end",
        "the model repeats itself, or what is right is longer than it may write: labels without an end are dropped, "
        "and every such text costs its whole limit",
        (
            "data.written_limit={symbols: 8, per_source_symbol: 1.5}",
            "teacher.train.epochs=40",
        ),
    ),
    "long-texts": Rule(
        "above",
        0.1,
        "%",
        "error rate on the quarter with the longest right texts less that on the others",
        "errors grow with length, as they do where a model never saw what follows its own mistakes (exposure bias): "
        "learn on the student's own texts, or on longer ones",
        (
            "loss=gkd",
            "stages.distill.label=sequence",
        ),
    ),
    "correct-only": Rule(
        "below",
        0.8,
        "%",
        "texts on select that the label would keep of what the teacher writes",
        "the student would never see the sources that the teacher finds hard: keep what is known to be right of them, "
        "or allow some errors",
        (
            "stages.distill.label={max_error_rate: 0.0, keep_given: true}",
            "stages.distill.label={max_error_rate: 0.3}",
        ),
    ),
    "memorised-agreement": Rule(
        "below",
        0.95,
        "%",
        "agreement with the teacher on few samples learnt by heart",
        "the student cannot say what the teacher says even there: widen it, train it harder, or distil in steps",
        (
            "student={cnn: {widths: [32, 64, 64], strides: [1, 2, 1]}}",
            "stages.distill.epochs=40",
        ),
    ),
    "margin": Rule(
        "below",
        0.01,
        "%",
        "teacher's accuracy over the student's alone after a short run",
        "there is little to learn from this teacher: train a better one, or the student alone",
        (
            "teacher.train.epochs=40",
            "baselines.alone={model: {cnn: {widths: [16, 32], strides: [1, 2]}}}",
        ),
    ),
    "margin-at-end": Rule(
        "below",
        0.0,
        "%",
        "teacher's accuracy over the student's alone, extrapolated to the whole budget",
        "the student alone is likely to reach this teacher: train a better one, or the student alone",
        (
            "teacher.train.epochs=40",
            "baselines.alone={model: {cnn: {widths: [16, 32], strides: [1, 2]}}}",
        ),
    ),
    "pilot-gain": Rule(
        "below",
        0.0,
        "%",
        "distilled over alone after a short run",
        "distillation is behind at the same cost: change temperature or weights, or train the student alone",
        (
            "loss.kl.temperature=2",
            "loss.kl.weight=0.5",
            "baselines.alone={model: {cnn: {widths: [16, 32], strides: [1, 2]}}}",
        ),
    ),
}


@dataclass(frozen=True)
class Finding:
    """One probe's measured value against its threshold.

    Attributes:
        probe: its name.
        subject: the term, pair or stage that it is of; may be empty.
        value: measured.
        low: lower end of its interval.
        high: upper end.
        unit: see `Rule`.
        side: see `Rule`.
        threshold: in the same unit.
        flagged: whether it warns.
        means: what is measured.
        advice: what to do when it warns.
        settings: what to type for that; see `Rule`.
        evidence: of the threshold.
        detail: what else was seen.
    """

    probe: str
    subject: str
    value: float
    low: float
    high: float
    unit: str
    side: Side
    threshold: float
    flagged: bool
    means: str
    advice: str
    settings: tuple[str, ...]
    evidence: Evidence
    detail: str

    @property
    def title(self) -> str:
        """The probe, and of what."""
        return f"{self.probe} {self.subject}".strip()

    @property
    def measured(self) -> str:
        """The value with its interval."""
        shown = format_in(self.value, self.unit)
        if self.low == self.high:
            return shown
        return f"{shown} [{format_in(self.low, self.unit)}, {format_in(self.high, self.unit)}]"

    @property
    def limit(self) -> str:
        """When it warns."""
        if self.side == "outside":
            return f"outside {format_in(1 / self.threshold, self.unit)} to {format_in(self.threshold, self.unit)}"
        return f"{self.side} {format_in(self.threshold, self.unit)}"

    def __str__(self) -> str:
        """One line: what was measured, and what to do."""
        return f"{self.title}: {self.measured}, {self.limit} ({self.evidence}); {self.advice}; {self.typed}"

    @property
    def typed(self) -> str:
        """What to type, one of these."""
        return f"such as {' or '.join(f'--set {shlex.quote(setting)}' for setting in self.settings)}"


def format_in(value: float, unit: str) -> str:
    """Return a number in its unit."""
    if unit == "%":
        return f"{100 * value:.1f}%"
    return f"{value:.3g}{unit}"


@dataclass(frozen=True)
class Advice:
    """What was found.

    Attributes:
        findings: in the order of measurement.
        notes: what could not be measured, and how it can be.
        expected_gain: accuracy of the distilled student over the student alone as a pilot foretells it, 0 to 1, and the
            root mean squared error of that on the settings that did not fit it; None without a pilot.
    """

    findings: Sequence[Finding]
    notes: Sequence[str] = ()
    expected_gain: tuple[float, float] | None = None

    @property
    def warnings(self) -> list[Finding]:
        """The findings that warn."""
        return [finding for finding in self.findings if finding.flagged]

    def refuse(self) -> None:
        """Make warnings an error.

        Raises:
            AdviceError: naming each of them, when there is any.
        """
        if self.warnings:
            lines = [f"advice warns of {len(self.warnings)} thing(s):", *map(str, self.warnings)]
            raise AdviceError("\n  ".join(lines), hint="change the recipe, or leave out --strict")

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; a value that is not finite, which JSON cannot say, is null."""

        def finite(fields: list[tuple[str, Any]]) -> dict[str, Any]:
            return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in fields}

        expected = None if self.expected_gain is None else dict(zip(("gain", "rmse"), self.expected_gain, strict=True))
        return {
            "warnings": len(self.warnings),
            "findings": [asdict(finding, dict_factory=finite) for finding in self.findings],
            "notes": list(self.notes),
            "expected_gain": expected,
        }

    def show(self, console: Console) -> None:
        """Print what stands against the teacher itself, the table, what else was seen, and what to do."""
        for finding in self.findings:
            if finding.flagged and finding.probe in FIRST:
                _print(console, f"WARNING {finding.title}: {finding.measured}; {finding.detail}")
        if self.findings:
            rows = [
                (
                    finding.title,
                    finding.measured,
                    finding.limit,
                    "WARNING" if finding.flagged else "ok",
                    finding.evidence,
                )
                for finding in self.findings
            ]
            console.print(fitted_table(HEADS, rows, width=console.width, dispensable=("threshold is", "warns")))
        for finding in self.findings:
            if finding.detail or finding.flagged:
                _print(console, f"{finding.title}: {finding.means}; {finding.detail}".rstrip("; "))
        if self.expected_gain is not None:
            gain, error = self.expected_gain
            _print(console, f"expected of distillation over the student alone: {gain:+.1%}, give or take {error:.1%}")
        for note in self.notes:
            _print(console, f"note: {note}")
        for finding in self.warnings:
            _print(console, f"WARNING {finding.title}: {finding.advice}; such as")
            for setting in finding.settings:  # whole, to be copied
                console.print(f"  --set {shlex.quote(setting)}", highlight=False, markup=False, soft_wrap=True)
        if not self.warnings:
            _print(console, "no warnings")


def _print(console: Console, text: str) -> None:
    """Print a line in lines that fit the console."""
    for line in fold(text, console.width):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def judge(measures: Sequence[Measure], *, notes: Sequence[str] = ()) -> Advice:
    """Return the findings of some measures."""
    return Advice([_finding(measure) for measure in measures], notes, predict_gain(measures))


def _finding(measure: Measure) -> Finding:
    rule = rule_of(measure.probe)
    return Finding(
        probe=measure.probe,
        subject=measure.subject,
        value=measure.value.value,
        low=measure.value.low,
        high=measure.value.high,
        unit=rule.unit,
        side=rule.side,
        threshold=rule.threshold,
        flagged=rule.warns(measure),
        means=rule.means,
        advice=rule.advice,
        settings=rule.settings,
        evidence=rule.evidence,
        detail=measure.detail,
    )


@cache
def read_thresholds() -> dict[str, Any]:
    """Return what ``benchmarks/advice/run.py --fit`` wrote: thresholds that stood its test, and the prediction."""
    return json.loads(files("compress").joinpath("advice", "thresholds.json").read_text(encoding="utf-8"))


def rule_of(name: str) -> Rule:
    """Return a probe's rule, with the calibrated threshold where there is one."""
    rule, fitted = RULES[name], read_thresholds()["thresholds"].get(name)
    if fitted is None:
        return rule
    return replace(rule, threshold=fitted, evidence="calibrated")


def predict_gain(measures: Sequence[Measure]) -> tuple[float, float] | None:
    """Return the gain that the measures foretell and its error, or None where some that it needs are missing."""
    fitted = read_thresholds()["prediction"]
    values = {measure.probe: measure.value.value for measure in measures}
    if fitted is None or not set(fitted["weights"]) <= set(values):
        return None
    gain = fitted["intercept"] + sum(weight * values[name] for name, weight in fitted["weights"].items())
    return gain, fitted["rmse"]
