"""How much faster do two processes train than one? The same updates by 1 and by 2 processes, each on cores of its own.

    python benchmarks/scale/processes.py [--processes 2] [--rounds 7] [--minutes 5] [--width 64]

A residual network learns random images of 32 x 32 pixels, whose content costs nothing to make and decides no time. Each
process has one core and one thread. Rounds alternate between one process, all with exact sums, and all with fast ones;
a round is a fresh set of processes, which times its updates after the first few. No round is begun that would end after
the minutes are over, beyond the third. The ratio is that of the medians, with
a 95% bootstrap interval over rounds. The weights' hash shows that exact sums are those of one process. Writes
``benchmarks/results/scale_processes.json`` and ``.md``.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Data, Samples
from compress.data.samples import Role
from compress.loss import GuidedLoss, bind
from compress.loss.logits import Hard
from compress.models import ResNet
from compress.progress import Reporter
from compress.stage import Compute, Execution, Group, Optimization
from compress.tasks import Batch, ImageClassification
from compress.training.loader import RoleLoader
from compress.training.loop import fit

RESULTS = Path(__file__).resolve().parents[1] / "results"
WARM_UP = 2  # updates that are not timed
LEAST_ROUNDS = 3
WAYS = {"one": (1, "exact"), "exact": (0, "exact"), "fast": (0, "fast")}  # 0 stands for all processes


class Timed:
    """A loader that notes when each update begins."""

    def __init__(self, loader: RoleLoader) -> None:
        self.loader, self.began_s = loader, list[float]()
        self.steps_per_epoch, self.example = loader.steps_per_epoch, loader.example

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sequence[Batch]]:
        for update in self.loader.epoch(number, skip=skip):
            self.began_s.append(time.perf_counter())
            yield update


def train(group: Group, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, and return the seconds of an update and the weights' hash."""
    drawn = np.random.default_rng(0)
    count = arguments.batch * arguments.accumulate * (arguments.updates + WARM_UP)
    images = drawn.integers(0, 256, (count + 4, 3, 32, 32), dtype=np.uint8)
    samples = Samples(images, drawn.integers(0, 10, count + 4))
    others: tuple[Role, ...] = ("calibration", "select", "test")
    ends: dict[Role, tuple[int, int]] = {"train": (0, count)}
    ends |= {role: (count + place, count + place + 1) for place, role in enumerate(others)}
    data = Data(roles={role: samples.take(np.arange(*of)) for role, of in ends.items()}, classes=tuple("0123456789"))
    task = ImageClassification.of(data, augment=None)
    torch.manual_seed(0)
    module = ResNet(width=arguments.width).build(task.signature, code=())
    optimization = Optimization(epochs=1, batch_size=arguments.batch, accumulate=arguments.accumulate)
    loader = Timed(RoleLoader(task, data.train, optimization, seed=0, views=lambda *_: None, group=group))
    execution = Execution(1, "float32", processes=group.size, reduction=arguments.reduction)
    fit(
        module,
        task,
        loader,
        Compute(execution=execution, reporter=Reporter(quiet=True), group=group),
        loss=bind(GuidedLoss(hard=Hard()), module, None, (), seed=0),
        teacher=None,
        optimization=optimization,
        seed=0,
        name="processes",
    )
    state = b"".join(value.contiguous().numpy().tobytes() for value in module.state_dict().values())
    seconds = np.diff(loader.began_s)[WARM_UP - 1 :]
    parameters = sum(value.numel() for value in module.parameters())
    digest = hashlib.sha256(state).hexdigest()
    return {"update_s": float(np.median(seconds)), "weights": digest, "parameters": parameters}


def join(arguments: argparse.Namespace) -> None:
    """Be one of the processes, on a core of its own; the first one prints what was measured."""
    rank, size, meeting = int(arguments.one[0]), int(arguments.one[1]), arguments.one[2]
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    found = train(Group.joined(), arguments)
    if rank == 0:
        print(json.dumps(found))
    if size > 1:
        distributed.destroy_process_group()


def run(arguments: argparse.Namespace, way: str) -> dict[str, Any]:
    """Start the processes of one round and return what they measured."""
    size, reduction = WAYS[way]
    size = size or arguments.processes
    with tempfile.TemporaryDirectory() as directory:
        options = ["--width", str(arguments.width), "--batch", str(arguments.batch), "--reduction", reduction]
        options += ["--accumulate", str(arguments.accumulate), "--updates", str(arguments.updates)]
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, *options, "--one", str(rank), str(size), f"{directory}/meeting"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{way}: a process failed")
    return json.loads(told[0].splitlines()[-1])


def interval(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the ratio of medians, and the ends of its 95% bootstrap interval over rounds."""
    drawn = np.random.default_rng(0).integers(0, len(one), (10_000, len(one)))
    ratios = np.median(np.array(one)[drawn], 1) / np.median(np.array(other)[drawn], 1)
    return [float(np.median(one) / np.median(other)), *map(float, np.quantile(ratios, [0.025, 0.975]))]


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["# Several processes", "", "| | processes | an update, ms | times one process [95%] | weights |"]
    lines.append("|---|---:|---:|---:|---|")
    for way, row in result["ways"].items():
        same = "those of one process, to the bit" if row["same_weights"] else "up to rounding"
        times = "{:.2f} [{:.2f}, {:.2f}]".format(*row["times"])
        lines.append(f"| {way} | {row['processes']} | {1e3 * row['update_s']:.0f} | {times} | {same} |")
    setting, environment = result["setting"], result["environment"]
    return "\n".join([
        *lines,
        "",
        f"A residual network of {result['parameters']:,} parameters, 32 x 32 pixels, updates of "
        f"{setting['accumulate']} batches of {setting['batch']}; one core and one thread for each process, "
        f"of {result['cores']} cores; "
        f"{setting['rounds']} rounds in turn. {environment['cpu_model']}; torch {environment['versions']['torch']}; "
        f"{environment['date'][:10]}.",
        "",
    ])  # fmt: skip


def main() -> None:
    """Measure in rounds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--updates", type=int, default=4, help="timed in each round")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which no round ends, beyond the third")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--reduction", default="exact", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        join(arguments)
        return
    if arguments.processes > count_allowed_cores():
        print("warning: fewer cores than processes, so the ratio says nothing", file=sys.stderr)
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    started_s = time.monotonic()
    for number in range(arguments.rounds):
        spent_s = time.monotonic() - started_s
        if number >= LEAST_ROUNDS and spent_s * (number + 1) / number > 60 * arguments.minutes:
            break
        for way, found in rounds.items():
            found.append(run(arguments, way))
            print(f"round {number + 1}, {way}: {found[-1]['update_s']:.3f} s an update", file=sys.stderr)
    seconds = {way: [row["update_s"] for row in found] for way, found in rounds.items()}
    first = rounds["one"][0]
    ways = {
        way: {
            "processes": WAYS[way][0] or arguments.processes,
            "update_s": float(np.median(seconds[way])),
            "times": interval(seconds["one"], seconds[way]),
            "same_weights": all(row["weights"] == first["weights"] for row in found),
            "rounds_s": seconds[way],
        }
        for way, found in rounds.items()
    }
    setting = {name: getattr(arguments, name) for name in ("width", "batch", "accumulate", "updates")}
    setting |= {"rounds": len(seconds["one"])}
    environment = asdict(describe(seed=0))
    result = {"ways": ways, "setting": setting, "parameters": first["parameters"], "cores": count_allowed_cores()}
    stem = arguments.output / "scale_processes"
    stem.with_suffix(".json").write_text(json.dumps(result | {"environment": environment}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result | {"environment": environment}))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
