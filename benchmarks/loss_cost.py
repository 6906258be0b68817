"""What does each term of the guided loss add to an epoch of the student alone? Side by side, in one run.

    python benchmarks/loss_cost.py [--arms convolutions|transformers|promised] [--rounds 8] [--images 6400] [--cached]

- ``convolutions``: every term beside ``hinton``, with the teacher and student of ``pipelines/fashion_mnist``.
- ``transformers``: the terms on layers and heads, with the student of ``pipelines/vit_fashion`` as the teacher of one
  with half its layers.
- ``promised``: the two figures that have a limit, on the first pair: an epoch with the teacher's logits costs at most
  1.05 of one without, and logits with last features add at most 10%. ``--images 53488`` is a whole epoch of the recipe.

The teacher's logits and last features are cached and warm, other taps are computed live for each batch, which is what a
limit of 0 means (``--cached`` stores them all). The live check of each epoch is part of what is timed. All arms take
turns in random order within a round; a ratio is that of the median round, with a bootstrap interval. Writes
``benchmarks/results/loss_cost_ARMS.json`` and ``.md``.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from compress.benchmark.environment import count_allowed_cores, describe
from compress.loss import GuidedLoss
from compress.measures.intervals import estimate_ratio
from compress.models import AnyModel
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Execution, Host, Member, Optimization, Work
from compress.stages.create import Create
from compress.store.store import Store
from compress.tasks import ImageClassification
from compress.training.guided import fit_guided

HERE = Path(__file__).parent
PIPELINES = HERE.parent / "pipelines"
TERMS = (
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
ARMS = {
    "convolutions": TERMS,
    "transformers": ("layers", "dynamic_layers", "scores", "relations"),
    "promised": TERMS[-1:],
}


@dataclass(frozen=True)
class Pair:
    """The recipe whose data are used, and the two models."""

    recipe: Recipe
    teacher: AnyModel
    student: AnyModel


def pair(arms: str) -> Pair:
    """Return the models that a set of arms is timed on."""
    if arms != "transformers":
        recipe = Recipe.load(PIPELINES / "fashion_mnist" / "recipe.yaml")
        assert recipe.teacher.model is not None
        assert recipe.student != "teacher"
        return Pair(recipe, recipe.teacher.model, recipe.student)
    path = PIPELINES / "vit_fashion" / "recipe.yaml"
    recipe, half = Recipe.load(path), Recipe.load(path, overrides=["student.huggingface.config.num_hidden_layers=3"])
    assert recipe.student != "teacher"
    assert half.student != "teacher"
    return Pair(recipe, recipe.student, half.student)


def losses(terms: Sequence[str]) -> dict[str, GuidedLoss]:
    """Return the arms: the labels alone, the preset hinton, and hinton with each further term."""
    found = {"alone": GuidedLoss.model_validate({"hard": {}}), "hinton": GuidedLoss.model_validate("hinton")}
    return found | {f"hinton + {name}": GuidedLoss.model_validate({"preset": "hinton", name: {}}) for name in terms}


def prepare(store: Store, models: Pair, *, images: int, threads: int) -> tuple[Work, Host]:
    """Return work with an untrained teacher, which costs what a trained one does, and part of the train role."""
    recipe = models.recipe
    data = recipe.data.load()
    data = replace(data, roles={**data.roles, "train": data.train.take(np.arange(images))})
    work = Work(ImageClassification.of(data, augment=recipe.data.augment), data, recipe.loss, seed=0)
    host = Host(store=store, execution=Execution(threads=threads, precision="bfloat16"), reporter=Reporter(quiet=True))
    teacher = Create(model=models.teacher).run(None, work, host)
    return replace(work, teachers=(Member(teacher, work.task),)), host


def epoch_s(spec: AnyModel, loss: GuidedLoss, work: Work, host: Host, *, limit_gb: float) -> float:
    """Return the seconds of one epoch of a student, from a warm cache."""
    torch.manual_seed(0)
    student = spec.build(work.task.signature, code=())
    with tempfile.TemporaryDirectory() as checkpoints:
        started_s = time.perf_counter()
        fit_guided(
            student,
            work,
            host,
            loss=loss,
            optimization=Optimization(epochs=1, batch_size=128, learning_rate=0.01),
            seed=0,
            checkpoints=Path(checkpoints),
            name="",
            cache_limit_gb=limit_gb,
        )
        return time.perf_counter() - started_s


def main() -> None:
    """Time all arms in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", choices=ARMS, default="convolutions")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--cached", action="store_true", help="store every tap")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models, arms = pair(arguments.arms), losses(ARMS[arguments.arms])
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with tempfile.TemporaryDirectory() as store:
        work, host = prepare(Store.open(Path(store)), models, images=arguments.images, threads=arguments.threads)
        limit_gb = 100.0 if arguments.cached else 0.0
        chance = random.Random(0)
        for index in range(arguments.rounds + 1):
            for name in chance.sample(list(arms), len(arms)):
                elapsed = epoch_s(models.student, arms[name], work, host, limit_gb=limit_gb)
                if index > 0:  # the first round warms up and fills the cache
                    seconds[name].append(elapsed)
            print(f"round {index} of {arguments.rounds}", flush=True)
    rows = []
    for name, values in seconds.items():
        over = {rival: estimate_ratio(np.log(values) - np.log(seconds[rival]), seed=0) for rival in ("alone", "hinton")}
        rows.append(
            {
                "loss": name,
                "epoch_s": values,
                **{f"over_{rival}": [ratio.value, ratio.low, ratio.high] for rival, ratio in over.items()},
            }
        )
    environment = asdict(describe(seed=0))
    result = {"rows": rows, "images": arguments.images, "cached": arguments.cached, "environment": environment}
    stem = HERE / "results" / f"loss_cost_{arguments.arms}{'_cached' if arguments.cached else ''}"
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
        f"stored, other taps {taps}; 99% bootstrap intervals over rounds; {environment['cpu_model']}; torch "
        f"{environment['versions']['torch']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
