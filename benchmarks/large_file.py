"""Does a model whose weights do not fit into one protobuf message come through? Seconds and peak memory of every step.

Usage: python benchmarks/large_file.py [--width 12000] [--layers 5] [--threads 1]

An untrained perceptron on digits, whose float32 weights take more than 2 GiB with the defaults, goes the way of every
model: made and stored, exported, scored in ONNX Runtime, quantized dynamically, scored as int8, shipped in two
variants, and verified. Each step's peak is of this process's resident memory, counted anew from where the step begins
(on Linux, which may refuse that; then the peak so far). Writes ``benchmarks/results/large_file.json`` and ``.md``.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from compress.benchmark.environment import describe
from compress.benchmark.runtimes.machine import peak_memory_bytes
from compress.data.roles import subset
from compress.data.sources import Digits
from compress.export.feed import first_inputs
from compress.export.graph import to_onnx
from compress.export.onnx_file import external_files, size_bytes, write_model
from compress.export.verify import verify_bundle
from compress.judge.scores import Scores, score
from compress.models import Mlp, load_model
from compress.pipeline.run import Options, host_of, work_of
from compress.pipeline.run_directory import Asked, decide_execution
from compress.progress import Reporter
from compress.recipe import DataConfig, Recipe, Teacher
from compress.stage import Host, Member, Work
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.quantize import Quantize
from compress.stages.train import Train
from compress.store.artifact import Artifact
from compress.store.store import Store

T = TypeVar("T")
VARIANTS = ("int8-x86", "fp32")
SAMPLES = 64  # of each role


@dataclass(frozen=True)
class Cost:
    """What a step took, and the bytes of the ONNX files that it wrote."""

    step: str
    seconds: float
    peak_bytes: int
    written_bytes: int | None = None


class Steps:
    """Runs steps one after the other and notes what each took."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []

    def take(self, step: str, work: Callable[[], T], *, written: Callable[[T], int] | None = None) -> T:
        """Run a step."""
        forget_peak()
        started_s = time.perf_counter()
        done = work()
        seconds = time.perf_counter() - started_s
        peak_bytes = peak_memory_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.costs.append(Cost(step, seconds, peak_bytes, None if written is None else written(done)))
        print(asdict(self.costs[-1]), flush=True)
        return done


def forget_peak() -> None:
    """Let the peak of this process's memory count anew, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


@dataclass(frozen=True)
class Way:
    """The way of a model through its files.

    Attributes:
        root: an empty folder.
        work: labels, samples.
        host: store, threads.
    """

    root: Path
    work: Work
    host: Host

    def export(self, source: Artifact) -> Path:
        """Export a stored model and write the file."""
        example = tuple(map(torch.from_numpy, first_inputs(self.work.task, self.work.data.select, 2)))
        path = self.root / "model.onnx"
        write_model(to_onnx(load_model(source.path), self.work.task.signature, example), path)
        return path

    def score(self, source: Artifact) -> Scores:
        """Score a stored model's file on select."""
        return score(source, self.work, self.host, role="select", teacher=None)


def prepare(root: Path, *, width: int, layers: int, threads: int) -> tuple[Way, Mlp]:
    """Return where everything happens, and the model to be made."""
    model = Mlp(widths=(width,) * layers)
    teacher = Teacher(model=Mlp(), train=Train())
    recipe = Recipe(
        name="large-file", data=DataConfig(source=Digits()), teacher=teacher, student=model, stages=(Distill(),)
    )
    store = Store.open(root / "store")
    options = Options(store=store.root, threads=threads, reporter=Reporter(quiet=True))
    host = host_of(options, store=store, execution=decide_execution(root, Asked(threads=threads), say=print))
    return Way(root, work_of(recipe, subset(recipe.data.load(), per_role=SAMPLES)), host), model


def measure(root: Path, *, width: int, layers: int, threads: int) -> dict[str, Any]:
    """Take every step; return the costs and what was found on the way."""
    way, model = prepare(root, width=width, layers=layers, threads=threads)
    steps, work, host = Steps(), way.work, way.host
    made = steps.take("make and store the model", lambda: Create(model=model).run(None, work, host))
    path = steps.take("export and write the file", lambda: way.export(made), written=size_bytes)
    files = [path.name, *(file.name for file in external_files(path))]
    steps.take(f"score it: export, parity, {SAMPLES} samples", lambda: way.score(made), written=scored_bytes)
    taught = replace(work, teachers=(Member(made, work.task),))
    quantize = Quantize.without_limits(mode="dynamic")
    quantized = steps.take("quantize dynamically", lambda: quantize.run(made, taught, host))
    steps.take("score the int8 file", lambda: way.score(quantized), written=scored_bytes)
    export = Export(variants=VARIANTS, primary=VARIANTS[0])
    bundle = steps.take("ship int8 and fp32", lambda: export.run(quantized, work, host), written=shipped_bytes)
    checked = steps.take("verify the bundle", lambda: verify_bundle(bundle.path))
    return {
        "width": width, "layers": layers, "threads": threads, "parameters": made.facts["parameters"], "files": files,
        "variants": {name: size_bytes(bundle.path / f"{name}.onnx") for name in VARIANTS},
        "verified": checked.passed, "costs": [asdict(cost) for cost in steps.costs],
        "environment": asdict(describe(seed=0)),
    }  # fmt: skip


def scored_bytes(scores: Scores) -> int:
    """Return the bytes of a scored file."""
    return size_bytes(scores.onnx_path)


def shipped_bytes(bundle: Artifact) -> int:
    """Return the bytes of all variants."""
    return sum(size_bytes(bundle.path / f"{name}.onnx") for name in VARIANTS)


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["| step | seconds | peak GiB | ONNX files, GB |", "|---|---:|---:|---:|"]
    for cost in result["costs"]:
        written = f"{cost['written_bytes'] / 1e9:.3f}" if cost["written_bytes"] else ""
        lines.append(f"| {cost['step']} | {cost['seconds']:.1f} | {cost['peak_bytes'] / 2**30:.2f} | {written} |")
    environment, sizes = result["environment"], result["variants"]
    shipped = ", ".join(f"{name} {size / 1e9:.3f} GB" for name, size in sizes.items())
    lines += [
        "",
        f"{result['layers']} hidden layers of {result['width']:,}, {result['parameters']:,} parameters, in "
        f"{' and '.join(result['files'])}; shipped: {shipped}; the bundle "
        f"{'passed' if result['verified'] else 'FAILED'} its own check. {result['threads']} thread(s). "
        f"{environment['cpu_model']}; torch {environment['versions']['torch']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Take every step and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=12_000)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="large-file-") as root:
        result = measure(Path(root), width=given.width, layers=given.layers, threads=given.threads)
    stem = given.output / "large_file"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
