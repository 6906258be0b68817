"""How do time and memory grow with the model? Training, pruning and export at 1, 4 and 16 times the parameters.

    taskset -c 1 python benchmarks/scale/parameters.py [--width 16] [--images 1024] [--threads 1]

A residual network on random images of 32 x 32 pixels, whose width doubles from size to size, so that parameters grow
fourfold; what is learnt decides no time. It is distilled for an epoch from a teacher of its own width, whose pass comes
before, pruned to half of its multiply-accumulates (importance and the proof against a masked copy are part of that) and
exported. Each size runs in a process of its own, whose peak resident memory the kernel tells (VmHWM). Writes
``benchmarks/results/scale_parameters.json``, ``.md`` and ``.png``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Data, Samples
from compress.functional import export
from compress.loss import GuidedLoss
from compress.models import ResNet, load_model
from compress.progress import Reporter
from compress.stage import Execution, Host, Member, Work
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.store.artifact import Artifact
from compress.store.store import Store
from compress.tasks import ImageClassification
from compress.training.teacher import teacher_outputs

RESULTS = Path(__file__).resolve().parents[1] / "results"
TIMES = (1, 2, 4)  # the width; parameters grow with its square
TIMED = {
    "teacher_pass_s": "teacher pass",
    "distill_s": "epoch of distillation",
    "prune_s": "prune",
    "export_s": "export",
}


def memory_mb() -> float:
    """Return the peak of this process's resident memory, in units of 1,000,000 bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def random_data(images: int) -> Data:
    """Return random images and labels, so many to train on and a few in the other roles."""
    drawn, ends = np.random.default_rng(0), [0, *accumulate((images, 64, 64, 64))]
    samples = Samples(drawn.integers(0, 256, (ends[-1], 3, 32, 32), np.uint8), drawn.integers(0, 10, ends[-1]))
    roles = zip(("train", "calibration", "select", "test"), pairwise(ends), strict=True)
    return Data(roles={role: samples.take(np.arange(*of)) for role, of in roles}, classes=tuple("0123456789"))


def measure(folder: Path, *, width: int, images: int, threads: int) -> dict[str, Any]:
    """Return what each step takes for one width, in seconds, and the peak of memory."""
    data, found = random_data(images), dict[str, Any]()
    work = Work(ImageClassification.of(data, augment=None), data, GuidedLoss(preset="hinton"), seed=0)
    reporter = Reporter(quiet=True)
    host = Host(store=Store.open(folder), execution=Execution(threads, "float32"), reporter=reporter)
    student = Create(model=ResNet(width=width)).run(None, work, host)
    teacher = Create(model=ResNet(width=width)).run(None, replace(work, seed=1), host)
    work, idle_mb = replace(work, teachers=(Member(teacher, work.task),)), memory_mb()

    def lap(name: str, make: Callable[[], Any]) -> Any:
        started_s = time.perf_counter()
        made = make()
        found[name] = time.perf_counter() - started_s
        return made

    lap("teacher_pass_s", lambda: teacher_outputs(work, host, data.train, views=(None,)))
    distill = Distill(epochs=1, batch_size=64, learning_rate=0.01)
    learnt: Artifact = lap("distill_s", lambda: distill.run(student, work, host))
    prune = Prune(kept_macs_fraction=0.5, importance_batches=4, importance_batch_size=64)
    lap("prune_s", lambda: prune.run(learnt, work, host))
    module = load_model(learnt.path)
    example = work.task.batch(data.select, torch.arange(2)).inputs
    lap("export_s", lambda: export(module, example, folder / "model.onnx", quiet=True))
    parameters = sum(value.numel() for value in module.parameters())
    return found | {
        "width": width,
        "parameters": parameters,
        "weights_mb": 4 * parameters / 1e6,
        "images": images,
        "memory_before_passes_mb": idle_mb,
        "memory_peak_mb": memory_mb(),
        "threads": threads,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    first = result["sizes"][0]
    heads = ["parameters", *(f"{name}, s" for name in TIMED.values()), "peak memory, MB"]
    lines = ["# Larger models", "", f"| {' | '.join(heads)} |"]
    lines.append("|" + "---:|" * (len(TIMED) + 2))
    for row in result["sizes"]:
        cells = [f"{row['parameters']:,}", *(f"{row[name]:.1f} ({row[name] / first[name]:.1f}x)" for name in TIMED)]
        lines.append(f"| {' | '.join([*cells, format(row['memory_peak_mb'], ',.0f')])} |")
    environment = result["environment"]
    return "\n".join([
        *lines,
        "",
        "![time and memory against the number of parameters](scale_parameters.png)",
        "",
        f"A residual network on {first['images']:,} random images of 32 x 32 pixels, in batches of 64; in brackets "
        f"times the smallest. {first['threads']} thread(s) of {result['cores']} cores; others may have used it "
        f"meanwhile. {environment['cpu_model']}; torch {environment['versions']['torch']}; {environment['date'][:10]}.",
        "",
    ])  # fmt: skip


def draw(sizes: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw how time and memory grow with the number of parameters."""
    import matplotlib.pyplot as plt

    parameters = [row["parameters"] for row in sizes]
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, label in TIMED.items():
        times.plot(parameters, [row[name] for row in sizes], marker="o", label=label)
    times.set(xscale="log", yscale="log", xlabel="parameters", ylabel="seconds")
    times.legend()
    memory.plot(parameters, [row["memory_peak_mb"] for row in sizes], marker="o", label="peak memory")
    memory.plot(parameters, [row["memory_before_passes_mb"] for row in sizes], marker="o", label="before the passes")
    memory.set(xscale="log", xlabel="parameters", ylabel="MB", ylim=(0, None))
    memory.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure each size in a process of its own, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="of the smallest")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    setting = {"images": arguments.images, "threads": arguments.threads}
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, width=arguments.width, **setting)))
        return
    sizes: list[dict[str, Any]] = []
    for times in TIMES:
        options = ["--width", str(arguments.width * times), *(f"--{name}={value}" for name, value in setting.items())]
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, __file__, *options, "--one", f"{directory}/store"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sizes.append(json.loads(done.stdout.splitlines()[-1]))
        print(sizes[-1], file=sys.stderr)
    result = {"sizes": sizes, "cores": count_allowed_cores(), "environment": asdict(describe(seed=0))}
    stem = arguments.output / "scale_parameters"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    draw(sizes, stem.with_suffix(".png"))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
