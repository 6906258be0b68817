"""Two ONNX files against each other: what `compressor compare` prints, and the document behind it."""

import contextlib
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

from compress.benchmark.accuracy import Accuracy, accuracies, outputs
from compress.benchmark.compare import PRESETS, SILENT, Comparison, SpeedVerdict, compare
from compress.benchmark.drawn_inputs import draw
from compress.benchmark.environment import Environment, describe
from compress.benchmark.given_samples import check_labels, count_samples, doubt_chance, read_labels
from compress.benchmark.matching import match_inputs, rename
from compress.benchmark.measure import Measurement, Profile, Scenario
from compress.benchmark.process import check_usable
from compress.errors import InputError, ModelError
from compress.export.manifest import Manifest
from compress.export.program_file import is_program
from compress.measures.intervals import Estimate
from compress.measures.units import format_bytes, format_count, format_ms, format_rate, format_share
from compress.progress import Reporter
from compress.store.document import STRICT

SCHEMA = 3
COLUMNS = 100
UNBROKEN = "\N{NO-BREAK SPACE}"  # where lines are not folded; a plain space when they have been


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The second file, B, measured against the first, A.

    Attributes:
        schema: version of this form.
        files: their names, without directories.
        verdict: what may be said of the speed of B over A.
        speedup: of B over A; None where nothing is ranked.
        confidence: of its interval.
        floor: the smallest speedup that counts, as a natural logarithm; None where A's second copy failed.
        accuracy: of both; empty without labels.
        profile: its name.
        inputs: whether samples were given, or drawn from A's signature.
        matched: what B calls each input of A.
        comparison: every measurement.
        environment: where and when.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    schema: int = SCHEMA
    files: dict[str, str]
    verdict: SpeedVerdict
    speedup: Estimate | None
    confidence: float
    floor: float | None
    accuracy: dict[str, Accuracy]
    profile: str
    inputs: Literal["given", "drawn"]
    matched: dict[str, str]
    comparison: Comparison
    environment: Environment


def compare_files(
    first: Path,
    second: Path,
    *,
    inputs: Path | None,
    labels: Path | None,
    profile: Profile,
    preset: str,
    seed: int,
    code: Sequence[Path] = (),
    reporter: Reporter = SILENT,
) -> Pair:
    """Measure the second file against the first.

    Args:
        first: the reference; an ONNX file, or a bundle, of which it is the primary file.
        second: judged against it; likewise.
        inputs: .npz of real samples for the first, as `runtimes.worker.batches` takes them; None draws some from the
            signature. The second gets them under its own names; see `match_inputs`.
        labels: .npy of their classes, int [samples]; None leaves accuracy out.
        profile: where and how.
        preset: a name of `compare.PRESETS`.
        seed: of the order in each round, of the intervals and of drawn inputs.
        code: the user's Python files that may be run as a runtime.
        reporter: shows a bar while it measures.

    Raises:
        InputError: for paths or names that do not exist, models that take different inputs, samples that are not
            theirs, and labels that do not fit samples or outputs.
        EnvironmentFault: when the runtime does not work there.
        ModelError: when one of the two cannot be read, or could not be measured.
    """
    if preset not in PRESETS:
        raise InputError("unknown preset", expected=", ".join(PRESETS), got=preset)
    if not profile.takes_files:
        raise InputError("this runtime runs the module of an artifact, not a file", got=profile.runtime)
    if missing := [str(path) for path in (first, second) if not path.exists()]:
        raise InputError("there is no such file", got=", ".join(missing))
    models = {"A": _file_of(first), "B": _file_of(second)}
    if labels is not None and inputs is None:
        raise InputError("labels are of samples, and none are given", hint="give them with --inputs FILE.npz")
    matched = match_inputs(models["A"], models["B"])
    count = None if inputs is None else count_samples(inputs, model=models["A"])
    truth = None if labels is None or count is None else read_labels(labels, samples=count)
    check_usable(profile.runtime, profile.place, code=code)
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-")))
        samples = inputs
        if samples is None:
            samples = place / "inputs.npz"
            np.savez(samples, allow_pickle=False, **draw(models["A"], seed=seed))
        own = rename(samples, matched, directory=place)
        found = compare(
            models,
            reference="A",
            inputs=own,
            profile=profile,
            preset=PRESETS[preset],
            seed=seed,
            code=code,
            reporter=reporter,
        )
        for name, reason in found.failures.items():
            raise ModelError(f"{name} could not be measured", got=reason, where=models[name])
        logits = {}
        if truth is not None:
            logits = {name: outputs(path, own[name], profile=profile, code=code) for name, path in models.items()}
    judged = {}
    if truth is not None and labels is not None:
        shapes = {found.shape for found in logits.values()}
        if len(shapes) > 1 or logits["A"].ndim != 2 or logits["A"].shape[:1] != truth.shape:
            raise InputError(
                "labels and outputs do not pair",
                expected="one label a sample, and the same outputs [samples, classes] of both",
                got=f"labels {truth.shape}, outputs {logits['A'].shape} and {logits['B'].shape}",
                where=labels,
            )
        check_labels(truth, outputs=logits["A"].shape[1], where=labels)
        judged = doubt_chance(accuracies(logits, truth, reference="A", seed=seed), logits, truth)
    return Pair(
        files={name: path.name for name, path in models.items()},
        verdict=found.verdict("B", over="A"),
        speedup=found.speedup("B", over="A") if found.ranked else None,
        confidence=found.confidence,
        floor=found.floor,
        accuracy=judged,
        profile=profile.name,
        inputs="drawn" if inputs is None else "given",
        matched=matched,
        comparison=found,
        environment=describe(seed=seed),
    )


def _file_of(path: Path) -> Path:
    """Return an ONNX file, or the primary one of a bundle.

    Raises:
        ArtifactError: for a directory that is no bundle.
        InputError: for a bundle of several graphs.
    """
    if not path.is_dir():
        return path
    primary = path / Manifest.read(path).primary
    if is_program(primary):
        raise InputError(
            "this bundle's model is a program of two graphs, and one graph is compared with one",
            got=primary.name,
            where=path,
            hint="name one of its graphs",
        )
    return primary


def text(pair: Pair, *, width: int = COLUMNS) -> str:
    """The result in lines of at most so many columns: verdict, the numbers behind it, then the reasons for doubt."""
    comparison = pair.comparison
    why = "A against A" if comparison.preset.launches > 1 else "A against A, and what one launch may hide"
    floor = "not measured" if pair.floor is None else f"{100 * pair.floor:.2f}% ({why})"
    lines = [_verdict(pair), *_ratio(pair), f"noise floor        {floor}"]
    scenario = comparison.profile.scenario
    for name, found in comparison.measurements.items():
        lines.append(f"{name} {pair.files[name]}: {_describe(found, scenario)}")
        lines += [f"  {_accuracy(pair.accuracy[name])}"] if pair.accuracy else []
    for name, apart in comparison.against_cpu.items():
        off, same = f"at most {apart.max_abs:.2e} off", f"{apart.agreement:.0%} of decisions agree"
        lines.append(f"{name} against onnxruntime on the CPU: {off}, {same}")
    doubts = {
        *comparison.degraded,
        *(why for found in comparison.measurements.values() for why in found.degraded),
    }
    lines += [f"degraded: {reason}" for reason in sorted(doubts)]
    if any(name != other for name, other in pair.matched.items()):
        matches = ", ".join(f"{name} = {other}" for name, other in pair.matched.items())
        lines.append(f"inputs of A = those of B, by position, shape and kind: {matches}")
    if pair.inputs == "drawn":
        lines.append("inputs: drawn from A's signature; --inputs takes real samples")
    lines += [f"accuracy: {doubt}" for doubt in {entry.doubt for entry in pair.accuracy.values()} if doubt]
    environment = pair.environment
    lines.append(f"{pair.profile}; {environment.cpu_model}; {environment.day}")
    folded = (textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False) for line in lines)
    return "\n".join(folded).replace(UNBROKEN, " ")


def _verdict(pair: Pair) -> str:
    verdict = pair.verdict
    if verdict in ("faster", "slower"):
        return f"B is {verdict} than A"
    return "not ranked: software adapter" if verdict == "not ranked" else verdict


def _ratio(pair: Pair) -> list[str]:
    """The speed of B over A, where times rank anything."""
    speedup, preset = pair.speedup, pair.comparison.preset
    if speedup is None:
        return []
    value, low, high = (f"{bound:.3f}" for bound in speedup)
    over = f"{preset.launches} launches of" if preset.launches > 1 else "one launch of"
    return [
        f"speed of B over A  {value} [{low}, {high}], {pair.confidence:.0%} interval over {over} "
        f"{preset.rounds // preset.launches} rounds",
        f"ranked by          {pair.comparison.ranked_by}",
    ]


def _describe(found: Measurement, scenario: Scenario) -> str:
    tail = found.highest_percentile
    tails = [] if tail is None else [f"{tail[0]} at most {format_ms(tail[1])}"]
    compute = [] if found.compute_ms is None else [f"compute {format_ms(found.compute_ms)} ms"]
    placed = [f"{count} nodes on {provider}" for provider, count in found.placement.items()]
    peak = found.peak_memory_bytes
    times = [f"p50 {format_ms(found.median_ms)} ms", *compute, *tails]
    rate = [f"{format_rate(found.throughput_per_s)} samples/s"]
    parts = [
        *([*rate, *times] if scenario == "offline" else [*times, *rate]),
        f"load {format_ms(found.load_ms)} ms", f"first run {format_ms(found.first_run_ms)} ms",
        format_bytes(found.size_bytes), f"{format_count(found.parameters)} parameters",
        f"{format_count(found.macs)} MACs", *([] if peak is None else [f"peak {format_bytes(peak)}"]), *placed,
    ]  # fmt: skip
    return ", ".join(part.replace(" ", UNBROKEN) for part in parts)


def _accuracy(found: Accuracy) -> str:
    parts = [f"accuracy {format_share(found.accuracy, sign='')}%"]
    if found.change is not None:
        parts += [
            f"change {format_share(found.change, sign='+')}",
            f"McNemar p {found.mcnemar_p:.3g}",
            f"agreement {format_share(found.agreement, sign='')}%",
            f"KL {found.kl_nats:.3g} nats",
        ]
    return ", ".join(parts)
