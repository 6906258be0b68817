"""What a run leaves behind: the report and its views, the same in MLflow, and the registered student."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from compress.benchmark.document import BenchmarkResult, Row
from compress.benchmark.environment import describe
from compress.benchmark.measure import Measurement
from compress.benchmark.tables import doubts
from compress.config.discretion import Discretion
from compress.data import Data
from compress.errors import UsageError
from compress.export.layers import layer_sizes
from compress.export.manifest import Manifest
from compress.export.onnx_file import external_files
from compress.judge.contenders import Contender
from compress.judge.mistakes import contrast_texts
from compress.judge.race import Race
from compress.judge.scores import Scores
from compress.judge.simplest import Fitted
from compress.pipeline.run_directory import CARD, place_bundle
from compress.pipeline.step import Step
from compress.pipeline.used import libraries_of
from compress.recipe import Recipe
from compress.recipe.permission import find_asks
from compress.recipe.recipe import parameters, to_text
from compress.recipe.sections import Tracking
from compress.report.card import card
from compress.report.columns import csv_text
from compress.report.document import (
    DataSection,
    ExecutionSection,
    FileFit,
    GateResult,
    LossSection,
    Prediction,
    Report,
    StageRow,
    TaskSection,
    Verdict,
)
from compress.report.markdown import markdown
from compress.report.page import page
from compress.report.waterfall import waterfall
from compress.stage import Host, Work
from compress.store.disk import write_atomically
from compress.store.document import to_json
from compress.tasks import Signature, Task
from compress.tracking import Run, select_headline
from compress.tracking.servable import find_servable


def publish(
    report: Report,
    rows: Sequence[Step],
    run_dir: Path,
    *,
    recipe: Recipe,
    discretion: Discretion,
    run: Run,
    register: bool,
) -> None:
    """Write the report and its views, record them and the bundle; register the student when its gates pass.

    Args:
        report: what was found out.
        rows: of the pipeline, the shipped one last.
        run_dir: where it is written.
        recipe: that was run.
        discretion: tells paths.
        run: of the whole pipeline in MLflow.
        register: whether a student that passes is registered.
    """
    told = recipe.publish(discretion)
    texts = {
        "report.json": to_json(report),
        "report.md": markdown(report),
        "report.csv": csv_text(report),
        "report.html": page(report),
        "recipe.yaml": to_text(told),
        "plan.json": json.dumps([_describe(row) for row in rows], indent=1) + "\n",
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(run_dir / name, text)
    names = [*texts]
    shipped = rows[-1]
    run.tags(_tell(report))
    if report.benchmark is not None:
        waterfall(report).savefig(run_dir / "waterfall.png", dpi=130)
        names.append("waterfall.png")
        _record_race(report.benchmark, report.verdict, rows, run)
        _record_gates(report.gates_on_select if report.verdict is None else report.verdict.gates, run)
    for name in names:
        run.artifact(run_dir / name)
    run.params(parameters(told))
    if shipped.artifact.kind == "bundle":
        manifest = Manifest.read(shipped.artifact.path).lead_with(shipped.primary)
        bundle = place_bundle(
            shipped.artifact.path, run_dir, manifest=manifest, card=_card(report, shipped.artifact.path, manifest)
        )
        run.artifact(bundle)
        if report.verdict is not None and report.verdict.passed and register:
            _register(bundle, report.verdict, recipe.name, run)


def _card(report: Report, bundle: Path, manifest: Manifest) -> str:
    labels, preprocessing = (
        json.loads((bundle / name).read_text(encoding="utf-8")) for name in ("labels.json", "preprocessing.json")
    )
    return card(report, manifest, labels=labels, preprocessing=preprocessing)


def _tell(report: Report) -> dict[str, str]:
    """Return what decides whether a run is looked at twice, as tags to filter by: its gates, and what disturbed it."""
    told = {}
    if report.benchmark is not None:
        found = [doubt for comparison in report.benchmark.comparisons for doubt in doubts(comparison)]
        told["compress.disturbed"] = "; ".join(found) or "no"
    gates = report.gates_on_select if report.verdict is None else report.verdict.gates
    if gates:
        told["compress.gates"] = "passed" if all(gate.passed for gate in gates) else "missed"
        told |= {f"compress.gate.{gate.name.replace(': ', '.')}": gate.gap for gate in gates}
    return told


def _record_gates(gates: Sequence[GateResult], run: Run) -> None:
    """Record each gate's limit, what was found, and the bound that was held against the limit."""
    for gate in gates:
        name = f"gate.{gate.name.replace(': ', '.')}"
        run.metrics(
            {f"{name}/limit": gate.limit, f"{name}/found": gate.estimate, f"{name}/judged": gate.judged}, step=0
        )


def _record_race(benchmark: BenchmarkResult, verdict: Verdict | None, rows: Sequence[Step], run: Run) -> None:
    """Record what each row's file did in its tracked run, and the shipped one's in the pipeline's."""
    tests = {} if verdict is None else {row.name: row for row in verdict.test}
    primary, measured = benchmark.primary, benchmark.comparisons[0].measurements
    for row in rows:
        found = benchmark.row(row.title)
        values = {"latency_p50_ms": found.latency_ms.get(primary)}
        if row.title in tests:
            tested = tests[row.title]
            change = None if tested.change is None else tested.change.value
            values |= {"test_accuracy": tested.accuracy.value, "delta_accuracy": change}
        if row.title in measured:
            values |= _resources(measured[row.title])
        if primary in found.speedup:
            values["speedup_x"] = found.speedup[primary].value
        known = {key: value for key, value in values.items() if value is not None}
        row.run.headline(known)
        row.run.metrics(_other_profiles(found, benchmark.profiles[1:]), step=0)
        if row is rows[-1]:
            run.headline(known | headline(row.scores, rows[0].scores))
            if verdict is not None:
                run.metrics({"teacher/test_accuracy": verdict.teacher.accuracy.value}, step=0)


def _register(bundle: Path, verdict: Verdict, name: str, run: Run) -> None:
    manifest = Manifest.read(bundle)
    signature = Signature.model_validate(manifest.signature)
    inputs, outputs = (
        [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        for tensors in (signature.inputs, signature.outputs)
    )
    with np.load(bundle / "reference.npz") as archive:
        example = {tensor: archive[f"input/{tensor}"][:1] for tensor, _, _ in inputs}
    primary, takes = bundle / manifest.primary, None
    beside: Sequence[Path] = external_files(primary)
    with suppress(UsageError):  # what cannot be asked with raw data is served tensors
        servable = find_servable(bundle)
        takes, beside = servable.takes, servable.beside
    run.register_onnx(
        primary,
        data=beside,
        takes=takes,
        name=name,
        inputs=inputs,
        outputs=outputs,
        example=example,
        tags={"test_accuracy": verdict.shipped.accuracy.value},
        description=(bundle / CARD).read_text(encoding="utf-8"),
    )


def headline(scores: Scores, teacher: Scores | None) -> dict[str, float]:
    """Return what MLflow charts of a scored file; against the teacher where there is one."""
    facts = scores.facts
    values = select_headline(
        role=facts.role,
        accuracy=facts.accuracy,
        size_bytes=facts.size_bytes,
        parameters=facts.parameters,
        macs=facts.macs,
        teacher_agreement=facts.teacher_agreement,
        teacher_kl_nats=facts.teacher_kl_nats,
    )
    if teacher is not None:
        values["compression_x"] = teacher.facts.size_bytes / facts.size_bytes
    return values


def _resources(measurement: Measurement) -> dict[str, float | None]:
    """Return what a file takes under the primary profile."""
    peaks = [peak for peak in measurement.memory_bytes.values() if peak is not None]
    return {"throughput_per_s": measurement.throughput_per_s, "memory_peak_mb": max(peaks) / 1e6 if peaks else None}


def _other_profiles(found: Row, profiles: Sequence[str]) -> dict[str, float]:
    """Return what a row's file did under the profiles besides the primary one, which has the headline."""
    values: dict[str, float] = {}
    for profile in profiles:
        if profile in found.latency_ms:
            values[f"profile.{profile}/latency_p50_ms"] = found.latency_ms[profile]
        if profile in found.speedup:
            values[f"profile.{profile}/speedup_low"] = found.speedup[profile].low
            values[f"profile.{profile}/speedup_high"] = found.speedup[profile].high
    return values


def _describe(row: Step) -> dict[str, str]:
    return {"name": row.title, "action": "reused" if row.reused else "run", "key": row.artifact.key}


def build_report(
    recipe: Recipe,
    work: Work,
    host: Host,
    rows: Sequence[Step],
    variants: Sequence[Contender],
    *,
    absent: Mapping[str, str],
    discretion: Discretion,
    race: Race | None,
    gates_on_select: Sequence[GateResult],
    files: Sequence[FileFit],
    verdict: Verdict | None,
    prediction: Prediction | None,
    fitted: Fitted | None,
    made_s: Mapping[str, float],
    started_s: float,
) -> Report:
    """Return the report of a run.

    Args:
        recipe: that was run.
        work: task, data.
        host: code and threads.
        rows: of the pipeline, the shipped one last.
        variants: the shipped bundle's other files.
        absent: rows that could not be made, with the reason.
        discretion: tells paths; the report is for others to read.
        race: what was measured; None when the run stopped before.
        gates_on_select: the gates as a choice may look at them.
        files: how each file of the bundle serves the gates.
        verdict: None where test was not read.
        prediction: of the real run, by a smoke run.
        fitted: the simplest model of the task; None where nothing is held against it.
        made_s: seconds that making and scoring took, by digest of the artifact.
        started_s: of the run, on the monotonic clock.
    """
    teacher, last = (Contender(row.title, row.artifact, row.scores) for row in (rows[0], rows[-1]))
    report = Report(
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        recipe_yaml=to_text(recipe.publish(discretion)),
        command=command(recipe, host, discretion),
        task=TaskSection(work.task.deployed.problem, work.task.measure),
        loss=LossSection(recipe.loss.model_dump(mode="json"), recipe.loss.fingerprint),
        execution=ExecutionSection(host.execution.threads, host.execution.precision, host.execution.device),
        data=describe_data(work.data, work.task),
        stages=tuple(_stage_row(row, made_s=made_s.get(row.artifact.digest)) for row in rows),
        variants={entry.name: entry.scores.facts for entry in variants},
        absent=dict(absent),
        estimate=prediction,
        benchmark=None if race is None else race.result,
        gates_on_select=tuple(gates_on_select),
        files=tuple(files),
        verdict=verdict,
        simplest=None if fitted is None else fitted.facts,
        simplest_on_select=None if fitted is None else fitted.stand(rows[0].scores, rows[-1].scores, "select"),
        environment=describe(seed=recipe.seed, libraries=libraries_of(recipe, work.task, fitted)),
        seconds=round(time.monotonic() - started_s, 1),
        texts=contrast_texts(teacher, last, work) if recipe.data.quote is not False else None,
        price_per_hour=recipe.benchmark.price_per_hour,
    )
    return discretion.tell(report)


def command(recipe: Recipe, host: Host, discretion: Discretion) -> str:
    """Return the command that repeats a run where its recipe is, from the ``recipe.yaml`` that is published."""
    how = host.execution
    words = ["compressor", "run", "recipe.yaml", "--threads", str(how.threads)]
    words += ["--device", how.device, "--precision", how.precision]
    words += ["--reproduce"] * how.reproduce + ["--compile"] * how.compile
    words += ["--batch-size", "auto"] * (how.batch_size == "auto")
    for path in host.code:
        words += ["--code", discretion.place(path.absolute())]
    for _, ask in find_asks(recipe.model_copy(update={"tracking": Tracking()})):
        words += ["--allow", shlex.join(discretion.words(shlex.split(ask.word)))]
    return shlex.join(words)


def describe_data(data: Data, task: Task) -> DataSection:
    """Return the data's digest and how many samples each role has, train lost and a role's were cut."""
    truncated = {role: task.count_truncated(samples) for role, samples in data.roles.items()}
    return DataSection(
        digest=data.digest,
        samples={role: len(samples) for role, samples in data.roles.items()},
        dropped_duplicates=data.dropped_duplicates,
        truncated={role: count for role, count in truncated.items() if count},
        notes=data.notes,
    )


def _stage_row(row: Step, *, made_s: float | None) -> StageRow:
    return StageRow(
        name=row.title,
        role=row.role,
        key=row.artifact.key,
        digest=row.artifact.digest,
        kind=row.artifact.kind,
        reused=row.reused,
        made_s=made_s,
        loss_fingerprint=row.loss_fingerprint,
        facts=row.facts,
        scores=row.scores.facts,
        layers=tuple(layer_sizes(row.scores.onnx_path)),
    )
