"""Fits the thresholds of `compress.advice` on half of the grid's settings and tests them on the other half.

    python benchmarks/advice/fit.py

Reads the committed cells of ``run.py``; writes ``compress/advice/thresholds.json`` and the tables of docs/advice.md.

Settings that differ in temperature alone share the teacher, the student alone and nearly all measures, so they stay
together: halves are drawn by the hash of everything else, and so are the resamples.

A probe's threshold is the one with the largest difference of hit rate and false-alarm rate on the fitting half. It
replaces the rule of thumb only if, on the testing half, the mean of hit rate and true-negative rate is above one half
with 95% confidence (bootstrap over settings), and it does not warn on the pipelines of ``healthy/``, which hold what
`compressor check --json` said of them. Everything else stays a rule of thumb, and the table says why.

Two questions, because a shift harms the student alone, too: of settings without a shift, is distillation no better than
the student alone (mean gain of at most 0)? Of the settings that exist with and without a shift, does the student
distilled on the shifted images lose more than LOSS against its twin?
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.advice.measures import Measure
from compress.advice.pilot import SHORTEST
from compress.advice.rules import RULES, Rule, format_in
from compress.measures.intervals import Estimate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
THRESHOLDS = HERE.parents[1] / "compress" / "advice" / "thresholds.json"
DOCUMENT = HERE.parents[1] / "docs" / "advice.md"
MARKERS = ("<!-- tables: written by benchmarks/advice/fit.py -->", "<!-- end of tables -->")
LOSS = 0.01  # of accuracy
HEALTHY = HERE / "healthy"
NOT_ASKED = ("filtered", "logits-only", "conformance", "pair-similarity")  # the grid varies nothing that they claim
OF_SHIFT = ("shift", "confidence-drop", "accuracy-drop")
PILOTS = ("margin", "margin-at-end", "pilot-gain")
PREDICTORS = ("margin-at-end", "pilot-gain")
RESAMPLES = 2_000
# One setting of the testing half for each thing that the advice must not miss, and the probe that is there to see it.
DELIBERATE = {
    "capacity gap": ("good-nano-4000-4.0-none", "memorised-agreement"),
    "thin margin": ("memorised-wide-4000-4.0-none", "margin-at-end"),
    "shift": ("good-wide-4000-4.0-rotated", "shift"),
}


@dataclass(frozen=True)
class Case:
    """One setting as a question sees it.

    Attributes:
        name: of the setting.
        group: what it shares with the settings that differ in temperature alone.
        bad: the answer.
        measures: by probe.
        gain: mean realised gain, 0 to 1.
    """

    name: str
    group: str
    bad: bool
    measures: Mapping[str, Measure]
    gain: float

    @property
    def half(self) -> str:
        """``fit`` or ``test``."""
        return ("fit", "test")[hashlib.sha256(self.group.encode()).digest()[0] % 2]


@dataclass(frozen=True)
class Tested:
    """A probe's threshold and how it did.

    Attributes:
        threshold: fitted; None when no threshold tells anything apart on the fitting half.
        counts: of the testing half: bad and warned, bad, warned, all.
        balanced: mean of hit rate and true-negative rate there.
        false_alarms: pipelines known to be healthy on which it warns.
    """

    threshold: float | None
    counts: tuple[int, int, int, int]
    balanced: Estimate
    false_alarms: tuple[str, ...]

    @property
    def calibrated(self) -> bool:
        """Whether the threshold stood the test."""
        return self.threshold is not None and self.balanced.low > 0.5 and not self.false_alarms

    @property
    def verdict(self) -> str:
        """What is used, and why no more."""
        if self.calibrated:
            return "fitted: calibrated"
        if self.false_alarms:
            return f"rule of thumb: the fitted one warns on {', '.join(self.false_alarms)}"
        return "rule of thumb: nothing to fit" if self.threshold is None else "rule of thumb: fails the test"


def cells() -> list[dict]:
    """Return the cells; one whose pilot is not as long as the pilot is now counts for the other probes only."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    for cell in found:
        if cell.get("pilot_steps") != SHORTEST:
            cell["measures"] = [row for row in cell["measures"] if row["probe"] not in PILOTS]
    return found


def case(cell: dict, bad: bool) -> Case:
    measures = {row["probe"]: Measure(row["probe"], Estimate(**row["value"])) for row in cell["measures"]}
    return Case(name_of(cell), name_of(cell, temperature="any"), bad, measures, float(np.mean(cell["gains"])))


def name_of(cell: dict, **changes: str) -> str:
    return "-".join(str(value) for value in (cell["setting"] | changes).values())


def without_shift(found: Sequence[dict]) -> list[Case]:
    return [case(cell, bool(np.mean(cell["gains"]) <= 0)) for cell in found if cell["setting"]["shift"] == "none"]


def with_shift(found: Sequence[dict]) -> list[Case]:
    distilled = {name_of(cell): float(np.mean(cell["distilled"])) for cell in found}
    cases, twins = [], set()
    for cell in found:
        twin = name_of(cell, shift="none")
        if cell["setting"]["shift"] != "none" and twin in distilled:
            cases.append(case(cell, distilled[twin] - distilled[name_of(cell)] > LOSS))
            twins.add(twin)
    return cases + [case(cell, False) for cell in found if name_of(cell) in twins]


def balanced_accuracy(warned: NDArray[np.bool_], bad: NDArray[np.bool_]) -> float:
    """Return the mean of hit rate and true-negative rate; a rate of nothing is one half."""
    hit = warned[bad].mean() if bad.any() else 0.5
    quiet = (~warned[~bad]).mean() if (~bad).any() else 0.5
    return float(hit + quiet) / 2


def evaluate(rule: Rule, probe: str, cases: Sequence[Case]) -> Tested:
    """Return a probe's fitted threshold and its test; one that fits nothing is tested as its rule of thumb."""
    known = [one for one in cases if probe in one.measures]
    fitting, testing = ([one for one in known if one.half == half] for half in ("fit", "test"))
    threshold = fit_threshold(rule, probe, fitting)
    used = rule if threshold is None else replace(rule, threshold=threshold)
    warned = np.array([used.warns(one.measures[probe]) for one in testing], bool)
    bad = np.array([one.bad for one in testing], bool)
    low, high = np.quantile([balanced_accuracy(warned[rows], bad[rows]) for rows in resamples(testing)], [0.025, 0.975])
    counts = (int((warned & bad).sum()), int(bad.sum()), int(warned.sum()), len(testing))
    alarms = tuple(name for name, found in healthy().items() if probe in found and used.warns(found[probe]))
    return Tested(threshold, counts, Estimate(balanced_accuracy(warned, bad), float(low), float(high)), alarms)


def resamples(cases: Sequence[Case]) -> Iterator[NDArray[np.int64]]:
    """Yield RESAMPLES draws of the cases' positions, whole groups with replacement."""
    number = np.unique([one.group for one in cases], return_inverse=True)[1]
    members = [np.flatnonzero(number == group) for group in range(number.max() + 1)]
    generator = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield np.concatenate([members[group] for group in generator.integers(0, len(members), len(members))])


def healthy() -> dict[str, dict[str, Measure]]:
    """Return what `compressor check --json` found on pipelines that are known to be healthy, by name."""
    found = {}
    for path in sorted(HEALTHY.glob("*.json")):
        rows = json.loads(path.read_text())["findings"]
        found[path.stem] = {
            row["probe"]: Measure(row["probe"], Estimate(row["value"], row["low"], row["high"])) for row in rows
        }
    return found


def fit_threshold(rule: Rule, probe: str, cases: Sequence[Case]) -> float | None:
    """Return the threshold that tells bad from good best, midway between two seen values; None when none does."""
    bad = np.array([one.bad for one in cases], bool)
    values = sorted({one.measures[probe].value.value for one in cases})
    candidates = [(low + high) / 2 for low, high in zip(values, values[1:], strict=False)]
    best, found = 0.5, None
    for candidate in candidates:
        if rule.side == "outside" and candidate <= 1:
            continue
        used = replace(rule, threshold=candidate)
        score = balanced_accuracy(np.array([used.warns(one.measures[probe]) for one in cases]), bad)
        if score > best + 1e-9:
            best, found = score, float(f"{candidate:.3g}")
    return found


def prediction(cases: Sequence[Case]) -> dict:
    """Return a least-squares prediction of the gain from PREDICTORS on the fitting half, and its test."""
    known = [one for one in cases if set(PREDICTORS) <= set(one.measures)]
    halves = {half: [one for one in known if one.half == half] for half in ("fit", "test")}

    def table(some: Sequence[Case]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = [[1.0, *(one.measures[name].value.value for name in PREDICTORS)] for one in some]
        return np.array(rows), np.array([one.gain for one in some])

    inputs, gains = table(halves["fit"])
    weights = np.linalg.lstsq(inputs, gains, rcond=None)[0]
    inputs, realised = table(halves["test"])
    predicted = inputs @ weights
    error = float(np.sqrt(np.mean((predicted - realised) ** 2)))
    trivial = float(np.sqrt(np.mean((gains.mean() - realised) ** 2)))
    better = (gains.mean() - realised) ** 2 - (predicted - realised) ** 2
    return {
        "useful": bool(np.quantile([better[rows].mean() for rows in resamples(halves["test"])], 0.025) > 0),
        "intercept": float(weights[0]),
        "weights": dict(zip(PREDICTORS, weights[1:].tolist(), strict=True)),
        "rmse": error,
        "trivial_rmse": trivial,
        "correlation": float(np.corrcoef(predicted, realised)[0, 1]),
        "rows": [
            {
                "setting": one.name,
                "predicted": float(ours),
                "pilot": one.measures["pilot-gain"].value.value,
                "gain": one.gain,
            }
            for one, ours in zip(halves["test"], predicted, strict=True)
        ],
    }


def results_of(found: Sequence[dict]) -> tuple[dict[str, Tested], list[Case], list[Case]]:
    plain, shifted = without_shift(found), with_shift(found)
    seen = {row["probe"] for cell in found for row in cell["measures"]}
    results = {}
    for probe, rule in RULES.items():
        if probe in seen and probe not in NOT_ASKED:
            results[probe] = evaluate(rule, probe, shifted if probe in OF_SHIFT else plain)
    return results, plain, shifted


def thresholds_table(results: Mapping[str, Tested]) -> list[str]:
    lines = [
        "| probe | rule of thumb | fitted | tested on | bad found | warned rightly | balanced accuracy, 95% | used |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for probe, result in results.items():
        rule = RULES[probe]
        hits, bad, warned, count = result.counts
        sides = {"above": "above", "below": "below", "outside": "outside 1/x to x, x ="}
        parts = [
            probe,
            f"{sides[rule.side]} {format_in(rule.threshold, rule.unit)}",
            "none" if result.threshold is None else format_in(result.threshold, rule.unit),
            str(count),
            f"{hits} of {bad}",
            f"{hits} of {warned}",
            f"{result.balanced.value:.2f} [{result.balanced.low:.2f}, {result.balanced.high:.2f}]",
            result.verdict,
        ]
        lines.append("| " + " | ".join(parts) + " |")
    return lines


def predictions_table(found: Mapping[str, Any]) -> list[str]:
    rows = sorted(found["rows"], key=lambda row: row["gain"])
    lines = ["| setting, testing half | predicted, points | pilot | realised |", "|---|---:|---:|---:|"]
    for row in rows:
        values = [f"{100 * row[key]:+.1f}" for key in ("predicted", "pilot", "gain")]
        lines.append(f"| {row['setting']} | " + " | ".join(values) + " |")
    return lines


def shifts_table(found: Sequence[dict]) -> list[str]:
    by_name = {name_of(cell): cell for cell in found}
    lines = [
        "| shift of the distillation images | shift AUC | teacher there, against select | distilled against its twin | "
        "alone against its twin |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, cell in sorted(by_name.items(), key=lambda item: item[1]["setting"]["shift"]):
        twin = by_name.get(name_of(cell, shift="none"))
        if cell["setting"]["shift"] == "none" or twin is None:
            continue
        values = {row["probe"]: row["value"]["value"] for row in cell["measures"]}
        change = {key: 100 * (np.mean(cell[key]) - np.mean(twin[key])) for key in ("distilled", "alone")}
        lines.append(
            f"| {name} | {values['shift']:.2f} | {-100 * values['accuracy-drop']:+.1f} | {change['distilled']:+.1f} | "
            f"{change['alone']:+.1f} |"
        )
    return lines


def deliberate_table(found: Sequence[dict], results: Mapping[str, Tested]) -> list[str]:
    """Return what the probes said of the deliberate cases, and what training them brought."""
    by_name = {name_of(cell): cell for cell in found}
    lines = [
        "| deliberate case | setting | probe | says | warns | training then: distilled over | points, by seed |",
        "|---|---|---|---:|---|---|---:|",
    ]
    for title, (name, probe) in DELIBERATE.items():
        cell, result = by_name[name], results[probe]
        setting = case(cell, bad=True)
        assert setting.half == "test", f"{name} was fitted on"
        rule = replace(RULES[probe], threshold=result.threshold) if result.calibrated else RULES[probe]
        measure = setting.measures[probe]
        value, low, high = (
            format_in(number, rule.unit) for number in (measure.value.value, measure.value.low, measure.value.high)
        )
        shifted = cell["setting"]["shift"] != "none"
        rival = by_name[name_of(cell, shift="none")]["distilled"] if shifted else cell["alone"]
        points = ", ".join(
            f"{100 * (ours - theirs):+.1f}" for ours, theirs in zip(cell["distilled"], rival, strict=True)
        )
        warns = f"yes, {rule.side} {format_in(rule.threshold, rule.unit)}" if rule.warns(measure) else "no"
        over = "the same without the shift" if shifted else "the student alone"
        lines.append(f"| {title} | {name} | {probe} | {value} [{low}, {high}] | {warns} | {over} | {points} |")
    return lines


def main() -> None:
    """Fit, test and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = cells()
    results, plain, shifted = results_of(found)
    foretold = prediction(plain)
    useful = foretold["useful"]
    kept = {
        "written_by": "benchmarks/advice/fit.py",
        "thresholds": {probe: result.threshold for probe, result in results.items() if result.calibrated},
        "prediction": {key: foretold[key] for key in ("intercept", "weights", "rmse")} if useful else None,
    }
    THRESHOLDS.write_text(json.dumps(kept, indent=1) + "\n")
    bad = {half: sum(one.bad for one in plain if one.half == half) for half in ("fit", "test")}
    count = {half: sum(one.half == half for one in plain) for half in ("fit", "test")}
    environment = found[0]["environment"]
    text = [
        f"{len(plain)} settings without a shift: {bad['fit']} of {count['fit']} in the fitting half and {bad['test']} "
        f"of {count['test']} in the testing half gain nothing. {len(shifted)} settings for the shift: "
        f"{sum(one.bad for one in shifted)} lose more than a point. {environment['cpu_model']}; torch "
        f"{environment['versions']['torch']}; {environment['date'][:10]}.",
        "",
        *thresholds_table(results),
        "",
        *deliberate_table(found, results),
        "",
        f"The gain predicted from {' and '.join(PREDICTORS)} by least squares on the fitting half misses the realised "
        f"one of the testing half by {100 * foretold['rmse']:.1f} points (root mean square), their mean by "
        f"{100 * foretold['trivial_rmse']:.1f}; correlation {foretold['correlation']:.2f}. "
        + (
            "`check --pilot` prints it."
            if useful
            else "That it is nearer is not certain (95%, bootstrap), so `check --pilot` does not print it."
        ),
        "",
        *predictions_table(foretold),
        "",
        *shifts_table(found),
    ]
    begin, end = MARKERS
    head, tail = DOCUMENT.read_text().split(begin)[0], DOCUMENT.read_text().split(end)[1]
    DOCUMENT.write_text(head + begin + "\n\n" + "\n".join(text) + "\n\n" + end + tail)


if __name__ == "__main__":
    main()
