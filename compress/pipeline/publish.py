"""What a run leaves behind: the report and its views, the same in MLflow, and the registered student."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compress.benchmark.environment import describe
from compress.export.layers import layer_sizes
from compress.export.onnx_file import external_files
from compress.judge.scores import Scores
from compress.judge.verdict import Contender, Race, Verdict
from compress.pipeline.run_directory import place_bundle
from compress.pipeline.step import Step
from compress.recipe import Recipe
from compress.report import page as report_page
from compress.report import views as reporting
from compress.stage import Host, Work
from compress.store.artifact import hash_values, write_atomically
from compress.tasks import Signature
from compress.tracking import Run, tracked_headline


def publish(
    report: dict[str, Any],
    race: Race | None,
    verdict: Verdict | None,
    rows: Sequence[Step],
    run_dir: Path,
    *,
    recipe: Recipe,
    run: Run,
    register: bool,
) -> None:
    """Write the report and its views, record them and the bundle; register the student when its gates pass.

    Args:
        report: the result document.
        race: what was measured; None when the run stopped before.
        verdict: None where test was not read.
        rows: of the pipeline, the shipped one last.
        run_dir: where it is written.
        recipe: that was run.
        run: of the whole pipeline in MLflow.
        register: whether a student that passes is registered.
    """
    texts = {
        "report.json": json.dumps(report, indent=1) + "\n",
        "report.md": reporting.markdown(report),
        "report.csv": reporting.csv_text(report),
        "report.html": report_page.page(report),
        "recipe.yaml": recipe.to_yaml(),
        "plan.json": json.dumps([_planned(row) for row in rows], indent=1) + "\n",
    }
    for name, text in texts.items():
        write_atomically(run_dir / name, text)
    names = [*texts]
    shipped = rows[-1]
    if race is not None:
        reporting.waterfall(report).savefig(run_dir / "waterfall.png", dpi=130)
        names.append("waterfall.png")
        _record_race(race, verdict, rows, run)
    for name in names:
        run.artifact(run_dir / name)
    run.params(recipe.parameters())
    if shipped.artifact.kind == "bundle":
        bundle = place_bundle(shipped.artifact.path, run_dir)
        run.artifact(bundle)
        if verdict is not None and verdict.passed and register:
            _register(bundle, verdict, recipe.name, run)


def _record_race(race: Race, verdict: Verdict | None, rows: Sequence[Step], run: Run) -> None:
    primary = race.document["profiles"][0]
    by_name = {row["name"]: row for row in race.document["rows"]}
    tests = {row["name"]: row["accuracy"]["value"] for row in verdict.test} if verdict is not None else {}
    measured = race.document["comparisons"][0]["measurements"]
    for row in rows:
        found = by_name[row.title]
        values = {"latency_p50_ms": found["latency_ms"].get(primary), "test_accuracy": tests.get(row.title)}
        if row.title in measured:
            values |= _resources(measured[row.title])
        if primary in found["speedup"]:
            values["speedup_x"] = found["speedup"][primary]["value"]
        known = {key: value for key, value in values.items() if value is not None}
        row.run.headline(known)
        row.run.metrics(_other_profiles(found, race.document["profiles"][1:]), step=0)
        if row is rows[-1]:
            run.headline(known | headline(row.scores, rows[0].scores))


def _register(bundle: Path, verdict: Verdict, name: str, run: Run) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    signature = Signature.model_validate(manifest["signature"])
    inputs, outputs = (
        [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        for tensors in (signature.inputs, signature.outputs)
    )
    with np.load(bundle / "reference.npz") as archive:
        example = {tensor: archive[f"input/{tensor}"][:1] for tensor, _, _ in inputs}
    primary = bundle / manifest["primary"]
    run.register_onnx(
        primary,
        data=external_files(primary),
        name=name,
        inputs=inputs,
        outputs=outputs,
        example=example,
        tags={"test_accuracy": verdict.test[-1]["accuracy"]["value"]},
    )


def headline(scores: Scores, teacher: Scores | None) -> dict[str, float]:
    """Return what MLflow charts of a scored file, with its change from the teacher where there is one."""
    values = tracked_headline(scores.facts)
    if teacher is not None:
        values["delta_accuracy"] = scores.accuracy - teacher.accuracy
        values["compression_x"] = teacher.facts["size_bytes"] / scores.facts["size_bytes"]
    return values


def _resources(measurement: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what a file takes under the primary profile."""
    peaks = [peak for peak in measurement["memory_bytes"].values() if peak is not None]
    return {
        "throughput_per_s": measurement["throughput_per_s"],
        "memory_peak_mb": max(peaks) / 1e6 if peaks else None,
    }


def _other_profiles(found: Mapping[str, Any], profiles: Sequence[str]) -> dict[str, float]:
    """Return what a row's file did under the profiles besides the primary one, which has the headline."""
    values = {}
    for profile in profiles:
        if profile in found["latency_ms"]:
            values[f"profile.{profile}/latency_p50_ms"] = found["latency_ms"][profile]
        if profile in found["speedup"]:
            values |= {f"profile.{profile}/speedup_{end}": found["speedup"][profile][end] for end in ("low", "high")}
    return values


def _planned(row: Step) -> dict[str, str]:
    return {"name": row.title, "action": "reused" if row.reused else "run", "key": row.artifact.key}


def build_report(
    recipe: Recipe,
    work: Work,
    host: Host,
    rows: Sequence[Step],
    variants: Sequence[Contender],
    verdict: Verdict | None,
    *,
    made_s: Mapping[str, float],
    started_s: float,
) -> dict[str, Any]:
    """Return the result document of a run; its benchmark, gates on select and estimate are added where there are some.

    Args:
        recipe: that was run.
        work: task, data.
        host: code and threads.
        rows: of the pipeline, the shipped one last.
        variants: the shipped bundle's other files.
        verdict: None where test was not read.
        made_s: seconds that making and scoring took, by digest of the artifact.
        started_s: of the run, on the monotonic clock.
    """
    return {
        "schema": reporting.SCHEMA,
        "recipe": recipe.name,
        "recipe_sha256": hash_values(recipe.model_dump(mode="json")),
        "recipe_yaml": recipe.to_yaml(),
        "command": reporting.command(host),
        "task": {"problem": work.task.problem, "measure": work.task.measure},
        "loss": {"fields": recipe.loss.model_dump(), "fingerprint": recipe.loss.fingerprint},
        "execution": {"threads": host.execution.threads, "precision": host.execution.precision},
        "data": reporting.data_section(work.data, work.task),
        "stages": [
            {
                "name": row.title,
                "role": row.role,
                "key": row.artifact.key,
                "digest": row.artifact.digest,
                "kind": row.artifact.kind,
                "reused": row.reused,
                "made_s": made_s.get(row.artifact.digest),
                "loss_fingerprint": row.loss_fingerprint,
                "facts": row.artifact.facts,
                "scores": row.scores.facts,
                "layers": [asdict(layer) for layer in layer_sizes(row.scores.onnx_path)],
            }
            for row in rows
        ],
        "variants": {entry.name: entry.scores.facts for entry in variants},
        "estimate": None,
        "benchmark": None,
        "gates_on_select": [],
        "verdict": None if verdict is None else reporting.verdict_section(verdict),
        "environment": describe(seed=recipe.seed),
        "seconds": round(time.monotonic() - started_s, 1),
    }
