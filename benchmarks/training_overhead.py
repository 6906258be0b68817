"""How much of the fastest bare loop's throughput does fit() reach? Side by side, in one run.

    python benchmarks/training_overhead.py [--rounds 8] [--images 12800] [--threads N]

The bare loop holds normalised bfloat16-ready tensors in memory, runs autocast with channels_last, never calls
``.item()`` and writes no log. fit() makes its batches from raw uint8 images, logs, clips and could be killed at any
step. Rounds of both alternate in random order; the ratio is that of the median round, with a bootstrap interval.
The result is written to ``benchmarks/results/training_overhead.json``.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Data
from compress.data.samples import ROLES, Samples
from compress.data.sources import Idx
from compress.loss import GuidedLoss, bind
from compress.loss.logits import Hard
from compress.measures.intervals import estimate_ratio
from compress.models import ResNet
from compress.progress import Reporter
from compress.stage import Execution, Host, Optimization, Work
from compress.store.store import Store
from compress.tasks import ImageClassification, Task
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.numerics import lay_out

BATCH = 128
MODEL = ResNet(width=16, blocks=(1, 1, 1))


def bare_loop(task: Task, samples: Samples) -> float:
    """Return images per second of the fastest loop we can write."""
    torch.manual_seed(0)
    module = MODEL.build(task.signature, code=()).train()
    lay_out(module, torch.channels_last)
    batch = task.batch(samples, torch.arange(len(samples)))
    images = batch.inputs[0].to(memory_format=torch.channels_last)
    labels = batch.labels
    assert labels is not None
    optimizer = torch.optim.SGD(
        module.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    order = torch.randperm(len(samples))
    started_s = time.perf_counter()
    for index in order.split(BATCH):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = module(images[index])
        loss = F.cross_entropy(logits.float(), labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return len(samples) / (time.perf_counter() - started_s)


def our_loop(work: Work, host: Host) -> float:
    """Return images per second of fit() on the same images, its start included."""
    torch.manual_seed(0)
    module: nn.Module = MODEL.build(work.task.signature, code=())
    with tempfile.TemporaryDirectory() as checkpoints:
        started_s = time.perf_counter()
        optimization = Optimization(epochs=1, batch_size=BATCH, learning_rate=0.01)
        fit(
            module,
            work.task,
            RoleLoader(work.task, work.data.train, optimization, seed=0, views=lambda *_: None),
            host,
            loss=bind(GuidedLoss(hard=Hard()), module, None, (), seed=0),
            teacher=None,
            optimization=optimization,
            seed=0,
            checkpoints=Path(checkpoints),
            name="fit",
        )
    return len(work.data.train) / (time.perf_counter() - started_s)


def main() -> None:
    """Run both loops in alternation and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("an interval needs at least 2 rounds")
    torch.set_num_threads(arguments.threads)
    train = Idx(directory=arguments.data).load(code=()).roles["train"].take(np.arange(arguments.images))
    roles = dict.fromkeys(ROLES, train)
    data = Data(roles=roles, classes=tuple("0123456789"))
    with tempfile.TemporaryDirectory() as store:
        work = Work(ImageClassification.of(data, augment=None), data, GuidedLoss(preset="hinton"), seed=0)
        execution = Execution(threads=arguments.threads, precision="bfloat16")
        host = Host(store=Store.open(Path(store)), execution=execution, reporter=Reporter(quiet=True))
        rates: dict[str, list[float]] = {"bare": [], "fit": []}
        loops = {"bare": lambda: bare_loop(work.task, train), "fit": lambda: our_loop(work, host)}
        chance = random.Random(0)
        for index in range(arguments.rounds + 1):
            for name in chance.sample(sorted(loops), 2):
                rate = loops[name]()
                if index > 0:  # the first round warms up
                    rates[name].append(rate)
            print({name: f"{values[-1]:.0f} images/s" for name, values in rates.items() if values})
    ratio = estimate_ratio(np.log(rates["fit"]) - np.log(rates["bare"]), seed=0)
    result = {
        "fit_over_bare": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
        "images_per_s": rates,
        "model": MODEL.model_dump(),
        "batch_size": BATCH,
        "threads": arguments.threads,
        "environment": asdict(describe(seed=0)),
    }
    path = Path(__file__).parent / "results" / "training_overhead.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"fit() reaches {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of the bare loop")


if __name__ == "__main__":
    main()
