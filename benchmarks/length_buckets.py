"""What do batches of alike lengths buy? Real tokens per second with length bucketing and without, side by side.

    python benchmarks/length_buckets.py [--mails 1024] [--rounds 8] [--threads N]

The mails and MiniLM of ``pipelines/spam``, untrained head. Two passes are timed: an epoch of `fit` on the labels alone,
which is what fine-tuning the teacher is, and `forward_all`, which computes teacher outputs. ``bucketed`` is the task as
it is (`TextTask.order` and `parts`); ``plain`` is the same task with batches in random order, padded to their longest,
as many mails to a forward pass as mails of the longest length fit into a bucketed one. Both run in alternating blocks,
in random order within a round; only tokens of mails count, not padding. The ratio is that of the median round,
with a 99% bootstrap interval. Writes ``benchmarks/results/length_buckets.json`` and ``.md``.

With fewer mails than ``BUCKET`` updates take, an update's mails are a little less alike than in a whole epoch; the
share of real tokens in a whole epoch is counted beside that of the timed one.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Samples
from compress.loss import bind
from compress.measures.intervals import estimate_ratio
from compress.models import load_model
from compress.pipeline.run import Options, host_of, work_of
from compress.pipeline.run_directory import Asked, decide_execution
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Host, Optimization, Work
from compress.stages.create import Create
from compress.stages.train import LABELS_ALONE
from compress.store.artifact import Artifact
from compress.store.store import Store
from compress.tasks import Task, TextTask
from compress.training.inference import BATCH, forward_all
from compress.training.loader import RoleLoader
from compress.training.loop import fit

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "pipelines" / "spam" / "recipe.yaml"
UPDATE = 32  # mails
Pass = Callable[[nn.Module, Work, Host], None]


@dataclass(frozen=True)
class Plain(TextTask):
    """The task with batches in random order, whatever their lengths."""

    @classmethod
    def like(cls, task: TextTask) -> "Plain":
        """Return the same task without buckets."""
        return cls(**{field.name: getattr(task, field.name) for field in fields(task)})

    def order(self, samples: Samples, generator: torch.Generator, *, size: int) -> Tensor:
        """Return a random order."""
        return Task.order(self, samples, generator, size=size)

    def parts(self, samples: Samples, index: Tensor, *, size: int) -> Iterator[Tensor]:
        """Yield as many positions at once as mails of the longest length have the tokens of a bucketed part."""
        yield from Task.parts(self, samples, index, size=max(1, 32 * size // self.tokenizer.max_length))


def prepare(store: Store, *, mails: int, threads: int) -> tuple[Work, Host, Samples, Artifact]:
    """Return work on part of the recipe's train role, its host, the whole role, and the teacher, head untrained."""
    recipe = Recipe.load(RECIPE)
    data = recipe.data.load()
    execution = decide_execution(store.root, Asked(threads=threads), say=print)
    work, host = work_of(recipe, data), host_of(Options(store=store.root), store=store, execution=execution)
    assert recipe.teacher.model is not None
    teacher = Create(model=recipe.teacher.model).run(None, work, host)
    few = data.train.take(np.arange(min(mails, len(data.train)) // UPDATE * UPDATE))  # in the order of their hashes
    small = replace(data, roles={**data.roles, "train": few})
    return replace(work, data=small), replace(host, reporter=Reporter(quiet=True)), data.train, teacher


def train(module: nn.Module, work: Work, host: Host) -> None:
    """An epoch of training on the labels."""
    optimization = Optimization(epochs=1, batch_size=UPDATE, optimizer="adamw", learning_rate=1e-4)
    with tempfile.TemporaryDirectory() as checkpoints:
        fit(
            module,
            work.task,
            RoleLoader(work.task, work.data.train, optimization, seed=0, views=lambda *_: None),
            host,
            loss=bind(LABELS_ALONE, module, None, (), seed=0),
            teacher=None,
            optimization=optimization,
            seed=0,
            checkpoints=Path(checkpoints),
            name="",
        )


def forward(module: nn.Module, work: Work, host: Host) -> None:
    """A pass over the train role without gradients."""
    forward_all(module, work.task, host, work.data.train, index=torch.arange(len(work.data.train)))


def tokens_per_s(run: Pass, module: nn.Module, work: Work, host: Host) -> float:
    """Return how many tokens of mails a pass over the train role takes in a second."""
    task = work.task
    assert isinstance(task, TextTask)
    tokens = int(task.encode(work.data.train).lengths.sum())  # encoded once, before the clock starts
    started_s = time.perf_counter()
    run(module, work, host)
    return tokens / (time.perf_counter() - started_s)


def real_share(task: TextTask, samples: Samples) -> dict[str, float]:
    """Return which share of what is computed are tokens of mails, 0 to 1, by pass; ``train`` for one epoch's order."""
    lengths = torch.from_numpy(task.encode(samples).lengths)
    order = task.order(samples, torch.Generator().manual_seed(0), size=UPDATE)
    updates = order[: len(order) // UPDATE * UPDATE].split(UPDATE)  # what fills no update is not trained on
    parts = [*task.parts(samples, torch.arange(len(samples)), size=BATCH)]
    return {
        name: sum(int(lengths[rows].sum()) for rows in batches)
        / sum(len(rows) * int(lengths[rows].max()) for rows in batches)
        for name, batches in (("train", updates), ("forward", parts))
    }


def measure(work: Work, host: Host, tasks: dict[str, TextTask], teacher: Artifact, *, rounds: int) -> dict[str, Any]:
    """Return tokens per second of every pass and task, round by round, and their ratios."""
    found: dict[str, Any] = {}
    chance = random.Random(0)
    passes: dict[str, Pass] = {"train": train, "forward": forward}
    for name, run in passes.items():
        rates: dict[str, list[float]] = {task: [] for task in tasks}
        for index in range(rounds + 1):
            for task in chance.sample([*tasks], len(tasks)):
                rate = tokens_per_s(run, load_model(teacher.path), replace(work, task=tasks[task]), host)
                if index > 0:  # the first round warms up
                    rates[task].append(rate)
            print(f"{name}: round {index} of {rounds}", flush=True)
        ratio = estimate_ratio(np.log(rates["bucketed"]) - np.log(rates["plain"]), seed=0)
        found[name] = {"tokens_per_s": rates, "bucketed_over_plain": asdict(ratio)}
    return found


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| pass | plain, tokens/s | bucketed, tokens/s | bucketed over plain | real tokens, plain | bucketed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    titles = {"train": f"training, updates of {UPDATE}", "forward": "teacher, forward alone"}
    for name, found in result["passes"].items():
        rates = {task: float(np.median(values)) for task, values in found["tokens_per_s"].items()}
        shares = [
            f"{result['real_share']['timed'][task][name]:.1%} ({result['real_share']['whole'][task][name]:.1%})"
            for task in ("plain", "bucketed")
        ]
        ratio = "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found["bucketed_over_plain"])
        lines.append(
            f"| {titles[name]} | {rates['plain']:,.0f} | {rates['bucketed']:,.0f} | {ratio} | {' | '.join(shares)} |"
        )
    environment = result["environment"]
    lines += [
        "",
        f"Tokens of mails, padding not counted: medians of {result['rounds']} rounds in alternation, and the median "
        f"of the rounds' ratios with its 99% interval. Real tokens: their share of all that is computed, in the "
        f"{result['mails']:,} timed mails (in all {result['whole_mails']:,} of the train role). At most "
        f"{result['max_length']} tokens, {result['threads']} threads, {result['precision']}; "
        f"{environment['cpu_model']}; torch {environment['versions']['torch']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Time both tasks in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mails", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work, host, whole, teacher = prepare(
            Store.open(Path(directory)), mails=arguments.mails, threads=arguments.threads
        )
        assert isinstance(work.task, TextTask)
        tasks = {"bucketed": work.task, "plain": Plain.like(work.task)}
        passes = measure(work, host, tasks, teacher, rounds=arguments.rounds)
        result = {
            "passes": passes,
            "real_share": {
                "timed": {name: real_share(task, work.data.train) for name, task in tasks.items()},
                "whole": {name: real_share(task, whole) for name, task in tasks.items()},
            },
            "mails": len(work.data.train),
            "whole_mails": len(whole),
            "rounds": arguments.rounds,
            "max_length": work.task.tokenizer.max_length,
            "threads": host.execution.threads,
            "precision": host.execution.precision,
            "environment": asdict(describe(seed=0)),
        }
    stem = arguments.output / "length_buckets"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
