"""What does each term of the guided loss add to an epoch of the student alone? Side by side, in one run.

    python benchmarks/loss_cost.py [--rounds 7] [--images 6400] [--threads N] [--cached]

Teacher and student of ``pipelines/fashion_mnist``; the teacher's logits and last features are cached and warm, other
taps are computed live for each batch, which is what a limit of 0 means (``--cached`` stores them all). The live check
of each epoch is part of what is timed. All arms take turns in random order within a round; a ratio is the geometric
mean over rounds with a bootstrap interval. Writes ``benchmarks/results/loss_cost.json`` and ``.md``.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compress.artifact import Store
from compress.benchmark.environment import allowed_cores, describe
from compress.benchmark.statistics import geometric_mean_ratio
from compress.loss import GuidedLoss
from compress.loss.presets import PRESETS
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Context, Execution
from compress.stages.create import Create
from compress.tasks import ImageClassification
from compress.teacher import fit_guided
from compress.training import Optimization

HERE = Path(__file__).parent
RECIPE = HERE.parent / "pipelines" / "fashion_mnist" / "recipe.yaml"
TERMS = (
    "kl",
    "hard_token",
    "dkd",
    "dist",
    "bernoulli",
    "mse",
    "hint",
    "hidden",
    "cosine",
    "attention_transfer",
    "rkd",
    "last_feature",
)


def losses() -> dict[str, GuidedLoss]:
    """Return the arms: the labels alone, the preset hinton, and hinton with each further term."""
    found = {"alone": GuidedLoss.model_validate({"hard": {}}), "hinton": GuidedLoss.model_validate("hinton")}
    for name in TERMS:
        if name not in PRESETS["hinton"]:
            found[f"hinton + {name}"] = GuidedLoss.model_validate({"preset": "hinton", name: {}})
    return found


def prepared(store: Store, *, images: int, threads: int) -> Context:
    """Return a context with an untrained teacher, which costs what a trained one does, and part of the train role."""
    recipe = Recipe.load(RECIPE)
    data = recipe.data.load()
    data = replace(data, roles={**data.roles, "train": data.train.take(np.arange(images))})
    context = Context(
        task=ImageClassification.of(data, augment=recipe.data.augment),
        data=data,
        loss=recipe.loss,
        teacher=None,
        store=store,
        seed=0,
        execution=Execution(threads=threads, precision="bfloat16"),
        reporter=Reporter(quiet=True),
    )
    return replace(context, teacher=Create(model=recipe.teacher.model).run(None, context))


def epoch_s(loss: GuidedLoss, context: Context, *, limit_gb: float) -> float:
    """Return the seconds of one epoch of the recipe's student, from a warm cache."""
    recipe = Recipe.load(RECIPE)
    assert recipe.student != "teacher"
    torch.manual_seed(0)
    student = recipe.student.build(context.task.signature, code=())
    with tempfile.TemporaryDirectory() as work:
        started_s = time.perf_counter()
        fit_guided(
            student,
            context,
            loss=loss,
            optimization=Optimization(epochs=1, batch_size=128, learning_rate=0.01),
            seed=0,
            work=Path(work),
            name="",
            cache_limit_gb=limit_gb,
        )
        return time.perf_counter() - started_s


def main() -> None:
    """Time all arms in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--threads", type=int, default=allowed_cores())
    parser.add_argument("--cached", action="store_true", help="store every tap")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arms = losses()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with tempfile.TemporaryDirectory() as store:
        context = prepared(Store.open(Path(store)), images=arguments.images, threads=arguments.threads)
        limit_gb = 100.0 if arguments.cached else 0.0
        chance = random.Random(0)
        for index in range(arguments.rounds + 1):
            for name in chance.sample(list(arms), len(arms)):
                elapsed = epoch_s(arms[name], context, limit_gb=limit_gb)
                if index > 0:  # the first round warms up and fills the cache
                    seconds[name].append(elapsed)
            print(f"round {index} of {arguments.rounds}", flush=True)
    rows = []
    for name, values in seconds.items():
        over = {
            rival: geometric_mean_ratio(np.log(values) - np.log(seconds[rival]), seed=0)
            for rival in ("alone", "hinton")
        }
        rows.append(
            {
                "loss": name,
                "epoch_s": values,
                **{f"over_{rival}": [ratio.value, ratio.low, ratio.high] for rival, ratio in over.items()},
            }
        )
    environment = describe(seed=0)
    result = {"rows": rows, "images": arguments.images, "cached": arguments.cached, "environment": environment}
    stem = HERE / "results" / ("loss_cost_cached" if arguments.cached else "loss_cost")
    stem.parent.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result, threads=arguments.threads))
    print(stem.with_suffix(".md").read_text())


def table(result: dict, *, threads: int) -> str:
    """Return the result as Markdown."""
    lines = ["| loss | epoch, times alone | epoch, times hinton |", "|---|---:|---:|"]
    for row in result["rows"]:
        cells = [f"{row[key][0]:.3f} [{row[key][1]:.3f}, {row[key][2]:.3f}]" for key in ("over_alone", "over_hinton")]
        lines.append(f"| {row['loss']} | {cells[0]} | {cells[1]} |")
    environment = result["environment"]
    taps = "stored" if result["cached"] else "computed live"
    lines += [
        "",
        f"{result['images']:,} images an epoch, batch 128, {threads} threads, bfloat16; logits and last features "
        f"stored, other taps {taps}; 95% bootstrap intervals over rounds; {environment['cpu_model']}; torch "
        f"{environment['versions']['torch']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
