"""How long do teacher and student of a text pipeline take, from 16 to 256 tokens?

    python benchmarks/encoder_latency.py --run compress-store/runs/spam-0123456789 [--optimum FILE]
    python benchmarks/encoder_latency.py --teacher FILE --teacher-int8 FILE --student FILE [--optimum FILE]

Batch 1, one thread, ONNX Runtime on the CPU, all files in the same interleaved rounds of the harness. A run's directory
names its files: the teacher's and the dynamically quantized teacher's that were scored, and the bundle's primary one.
``--optimum`` adds what ``optimum_baseline.py`` made of the same teacher, in an environment of its own. Every file gets
the same tokens, of numbers that a pruned vocabulary has too, without padding: time does not depend on which they are.

Writes ``encoder_latency.json``, ``.md`` and ``.png`` under ``benchmarks/results`` (``--output`` for elsewhere).
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress.benchmark.compare import PRESETS, Preset, compare
from compress.benchmark.environment import describe
from compress.benchmark.measure import Profile
from compress.errors import InputError, StageError
from compress.store.artifact import read_artifact
from compress.store.digest import hash_file

RESULTS = Path(__file__).resolve().parent / "results"
LENGTHS = (16, 64, 128, 256)
TOKENS = 1000  # lowest numbers, drawn from
SAMPLES = 8  # of each length, which the harness rotates through
TEACHER, TEACHER_INT8, OPTIMUM, STUDENT = "teacher fp32", "teacher int8", "teacher int8 by optimum", "student int8"
COLOURS = {TEACHER: "#8a8a8a", TEACHER_INT8: "#f2b880", OPTIMUM: "#b07cc6", STUDENT: "#1f5f8b"}


def files_of(run_dir: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """Return the files of a finished pipeline, and their accuracy on select, 0 to 1.

    Raises:
        InputError: when the run or one of its files is not there.
    """
    try:
        stages = {stage["name"]: stage for stage in json.loads((run_dir / "report.json").read_text())["stages"]}
        bundle = json.loads((run_dir / "bundle" / "bundle.json").read_text())
    except OSError as error:
        raise InputError("no finished pipeline with a bundle", got=error, where=run_dir) from error
    *_, shipped = stages.values()
    rows = {TEACHER: stages["teacher"], TEACHER_INT8: stages["teacher-dynamic"], STUDENT: shipped}
    store = run_dir.resolve().parents[1]
    files = {name: scored_file(store, rows[name]["digest"]) for name in (TEACHER, TEACHER_INT8)}
    files[STUDENT] = run_dir / "bundle" / bundle["primary"]
    return files, {name: row["scores"]["accuracy"] for name, row in rows.items()}


def scored_file(store: Path, digest: str) -> Path:
    """Return the ONNX form of an artifact, as it was scored.

    Raises:
        InputError: when it was not.
    """
    for path in sorted(store.glob("artifacts/*/manifest.json")):
        manifest = json.loads(path.read_text())
        if manifest["kind"] == "scores" and manifest["inputs"]["artifact"] == digest:
            return read_artifact(path.parent, verify=True).path / "model.onnx"
    raise InputError("the store has no scores of this artifact", got=digest, where=store, hint="run the recipe again")


def write_inputs(models: dict[str, Path], folder: Path, *, length: int) -> dict[str, Path]:
    """Write samples of this many tokens for each file, under the names of its inputs; return where."""
    ids = np.random.default_rng(length).integers(0, TOKENS, (SAMPLES, length))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    found = {}
    for number, (name, path) in enumerate(models.items()):
        taken = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
        found[name] = folder / f"{number}.npz"
        np.savez(found[name], allow_pickle=False, **{tensor: arrays[tensor] for tensor in taken})
    return found


def measure(models: dict[str, Path], *, length: int, preset: Preset) -> dict[str, Any]:
    """Return latencies and speedups at one length, as JSON values; intervals are of 99%.

    Raises:
        StageError: when a file could not be measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(models, Path(folder), length=length)
        comparison = compare(models, reference=TEACHER, inputs=inputs, profile=Profile(), preset=preset)
    if comparison.failures:
        raise StageError("a file could not be measured", got=comparison.failures, where=f"{length} tokens")
    floor = comparison.noise_floor
    return {
        "latency_ms": {name: asdict(comparison.latency_ms(name)) for name in models},
        "median_ms": {name: found.median_ms for name, found in comparison.measurements.items()},
        "speedup_over_teacher": {
            name: asdict(comparison.speedup(name, over=TEACHER)) for name in models if name != TEACHER
        },
        "student_over": {
            name: asdict(comparison.speedup(STUDENT, over=name)) | {"verdict": comparison.verdict(STUDENT, over=name)}
            for name in models
            if name != STUDENT
        },
        "noise_floor": None if floor is None else asdict(floor),
        "degraded": comparison.degraded,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    columns, files = result["lengths"], result["files"]
    heads = " | ".join(f"{length} tokens" for length in columns)
    lines = [f"| file | MB | accuracy on select, % | {heads} |", "|---|" + "---:|" * (len(columns) + 2)]
    for name, file in files.items():
        cells = []
        for column in columns.values():
            speedup = column["speedup_over_teacher"].get(name)
            times = "" if speedup is None else ", {value:.2f}x [{low:.2f}, {high:.2f}]".format(**speedup)
            cells.append(f"{column['latency_ms'][name]['value']:.3g} ms{times}")
        accuracy = file["accuracy_select"]
        shown = "" if accuracy is None else f"{100 * accuracy:.2f}"
        lines.append(f"| {name} | {file['size_bytes'] / 1e6:.1f} | {shown} | {' | '.join(cells)} |")
    lines += ["", f"| {STUDENT} over | {heads} |", "|---|" + "---:|" * len(columns)]
    for name in files:
        if name != STUDENT:
            cells = [
                "{value:.2f}x [{low:.2f}, {high:.2f}], {verdict}".format(**column["student_over"][name])
                for column in columns.values()
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    floors = ", ".join("[{low:.3f}, {high:.3f}]".format(**column["noise_floor"]) for column in columns.values())
    disturbed = sorted({reason for column in columns.values() for reason in column["degraded"]})
    environment = result["environment"]
    lines += [
        "",
        f"Milliseconds a call, and times as fast as {TEACHER}: the median of paired, interleaved rounds, with its "
        f"99% interval (preset {result['preset']}); batch 1, one thread, no padding. {TEACHER} over its own twin: "
        f"{floors}.{' Disturbed: ' + '; '.join(disturbed) + '.' if disturbed else ''} {environment['cpu_model']}; "
        f"onnxruntime {environment['versions']['onnxruntime']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw latency against length, both on log scales, with the 99% intervals, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    lengths = [int(length) for length in result["lengths"]]
    for name in result["files"]:
        found = [column["latency_ms"][name] for column in result["lengths"].values()]
        values = [entry["value"] for entry in found]
        errors = [[abs(entry[end] - entry["value"]) for entry in found] for end in ("low", "high")]
        axes.errorbar(lengths, values, yerr=errors, fmt="o-", color=COLOURS[name], capsize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, labels=[str(length) for length in lengths])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tokens")
    axes.set_ylabel("ms a call, 99% interval (batch 1, one thread)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="directory of a finished pipeline")
    parser.add_argument("--teacher", type=Path, help="instead of --run, as are the next two")
    parser.add_argument("--teacher-int8", type=Path)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--optimum", type=Path, help="the quantized file of optimum_baseline.py")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    named = {TEACHER: arguments.teacher, TEACHER_INT8: arguments.teacher_int8, STUDENT: arguments.student}
    if (arguments.run is None) == (None in named.values()):
        parser.error("expected --run, or --teacher, --teacher-int8 and --student")
    models, accuracy = (named, {}) if arguments.run is None else files_of(arguments.run)
    if arguments.optimum is not None:
        models[OPTIMUM] = arguments.optimum
        facts = json.loads(arguments.optimum.with_name("baseline.json").read_text())
        accuracy[OPTIMUM] = facts["files"][arguments.optimum.name]["accuracy_select"]
    models = {name: models[name] for name in COLOURS if name in models}
    columns = {}
    for length in arguments.lengths:
        columns[str(length)] = measure(models, length=length, preset=PRESETS[arguments.preset])
        print(f"{length} tokens done", flush=True)
    result = {
        "files": {
            name: {
                "size_bytes": path.stat().st_size,
                "sha256": hash_file(path),
                "accuracy_select": accuracy.get(name),
            }
            for name, path in models.items()
        },
        "lengths": columns,
        "preset": arguments.preset,
        "environment": asdict(describe(seed=0)),
    }
    stem = arguments.output / "encoder_latency"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    plot(result, stem.with_suffix(".png"))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
