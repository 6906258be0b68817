"""What is each way to distil worth? One cell per (arm, seed), each with its own JSON.

    python benchmarks/distillation/run.py [--seeds 0 1 ... 7] [--arms hinton dkd] [--store DIR] [--threads N]
    python benchmarks/distillation/run.py --table

Fashion-MNIST, IMAGES training images without augmentation, the teacher of ``pipelines/fashion_mnist`` (trained on all
54,000), one small convolutional student, EPOCHS epochs for every arm: equal steps, the last epoch counts. A seed
decides initial weights and batch order alike for all arms, so differences are paired by seed. Method settings are the
papers' and presets' defaults; nothing was tuned here.

Controls: ``alone`` learns from the labels; ``label-smoothing`` mixes them with the uniform distribution; ``permuted``
is ``hinton`` with all classes but the teacher's decision shuffled for each sample, which keeps its confidence and
destroys what it knows about similarity (the DKPP of Furlanello et al. 2018). ``born-again-1`` is what a pipeline whose
teacher is ``alone`` makes with one generation, ``born-again-2`` with two. Terms on transformers have no part here.

A cell that has its JSON for the same loss and teacher is not run again, so the grid resumes. Accuracy is on select;
test is not read.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.benchmark.environment import count_allowed_cores, describe
from compress.loss import GuidedLoss, Targets, bind
from compress.loss.logits import Kl
from compress.models import Cnn, load_model
from compress.pipeline.run import Options, host_of, work_of
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Execution, Host, Member, Optimization, Work
from compress.store.store import Store
from compress.tasks import Batch
from compress.training.inference import predict
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.teacher import teacher_outputs
from compress.training.teaching import Taught, Teaching

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.seeds import differences, holm, interval, p_value, show, show_p  # noqa: E402
from benchmarks.teachers import find_or_make_teacher  # noqa: E402

RECIPE = HERE.parents[1] / "pipelines" / "fashion_mnist" / "recipe.yaml"
RESULTS = HERE / "results"
DOCUMENT = HERE.parents[1] / "docs" / "distillation.md"
MARKERS = ("<!-- table: written by benchmarks/distillation/run.py --table -->", "<!-- end of table -->")
IMAGES = 10_000
OPTIMIZATION = Optimization(epochs=8, batch_size=128, learning_rate=0.1, weight_decay=1e-4)
STUDENT = Cnn(widths=(8, 16, 32), strides=(2, 1, 2))
SMOOTHING = 0.1
LABELS = {"hard": {"weight": 0.1}}
CONTROLS = ("alone", "label-smoothing", "permuted")

# What every arm minimises; "born-again-N" and the controls differ in whom they learn from.
ARMS: dict[str, object] = {
    "alone": {"hard": {}},
    "label-smoothing": {"kl": {"temperature": 1}},
    "permuted": "hinton",
    "hinton": "hinton",
    "kl-without-labels": {"kl": {"temperature": 4}},
    "kl-temperature-1": {**LABELS, "kl": {"weight": 0.9, "temperature": 1}},
    "kl-reverse": {**LABELS, "kl": {"weight": 0.9, "divergence": "reverse"}},
    "kl-jensen-shannon": {**LABELS, "kl": {"weight": 0.9, "divergence": "jensen-shannon"}},
    "kl-skew": {**LABELS, "kl": {"weight": 0.9, "divergence": "skew"}},
    "kl-top-3": {**LABELS, "kl": {"weight": 0.9, "top_k": 3}},
    "kl-standardised": {**LABELS, "kl": {"weight": 9, "temperature": 2, "standardise": True}},
    "hard-token": {"hard": {"weight": 0.5}, "hard_token": {}},
    "dkd": "dkd",
    "dist": "dist",
    "bernoulli": {**LABELS, "bernoulli": {"weight": 0.9, "temperature": 4}},
    "logit-mse": {**LABELS, "mse": {"weight": 0.1}},
    "function-matching": "function-matching",
    "fitnets": "fitnets",
    "hidden": {"preset": "hinton", "hidden": {}},
    "cosine": {"preset": "hinton", "cosine": {}},
    "attention-transfer": "attention-transfer",
    "rkd": {"preset": "hinton", "rkd": {}},
    "last-feature": {"preset": "hinton", "last_feature": {}},
    "born-again-1": "born-again",
    "born-again-2": "born-again",
}


def prepare(store: Store, *, threads: int) -> tuple[Work, Host]:
    """Return the work with the pipeline's teacher, from the store or trained now, and the reduced train role."""
    recipe = Recipe.load(RECIPE)
    data = recipe.data.load()
    execution = Execution(threads=threads, precision="bfloat16")
    work, host = work_of(recipe, data), host_of(Options(store=store.root), store=store, execution=execution)
    teacher = find_or_make_teacher(recipe, work, host)
    # The same normalisation as the teacher's, no augmentation; samples are in the order of their hashes.
    small, plain = replace(data, roles={**data.roles, "train": data.train.take(np.arange(IMAGES))}), work.task.plain()
    work = replace(work, task=plain, data=small, teachers=(Member(teacher, plain),))
    return work, replace(host, reporter=Reporter(quiet=True))


def train(
    work: Work, host: Host, loss: GuidedLoss, teacher: nn.Module | None, taught: Teaching | None, *, seed: int
) -> nn.Module:
    """Return a student trained from the seed's weights in the seed's order."""
    torch.manual_seed(seed)
    student = STUDENT.build(work.task.signature, code=())
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    views = work.task.views(mixup=loss.mixup)
    loader = RoleLoader(
        work.task,
        work.data.train,
        OPTIMIZATION,
        seed=seed,
        views=lambda _epoch, generator: views[int(torch.randint(len(views), (1,), generator=generator))],
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        fit(
            student,
            work.task,
            loader,
            host,
            loss=bind(loss, student, teacher, example, seed=seed),
            teacher=taught,
            optimization=OPTIMIZATION,
            seed=seed,
            checkpoints=Path(checkpoints),
            name="",
        )
    return student


def says(logits: torch.Tensor) -> Teaching:
    """Return a teacher that says these logits [N, C] of the train role."""
    return lambda batch: Taught((logits[batch.index],))


def smooth(work: Work) -> Teaching:
    """Return a teacher that knows the labels and spreads SMOOTHING evenly over all classes."""
    labels, classes = work.data.train.labels, len(work.task.classes)
    assert labels is not None
    probabilities = torch.full((len(labels), classes), SMOOTHING / classes)
    probabilities[torch.arange(len(labels)), torch.from_numpy(labels)] += 1 - SMOOTHING
    return says(probabilities.log())


def permute(logits: torch.Tensor, *, seed: int) -> Teaching:
    """Return the teacher with the logits of all classes but its decision shuffled, sample by sample."""
    generator = torch.Generator().manual_seed(100_000 + seed)
    decided = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).bool()
    others = torch.arange(logits.shape[1]).expand_as(logits)[~decided].view(len(logits), -1)
    order = torch.rand(others.shape, generator=generator).argsort(dim=1)
    changed = logits.clone()
    changed.scatter_(1, others, logits.gather(1, others.gather(1, order)))
    return says(changed)


def run_arm(arm: str, work: Work, host: Host, *, seed: int) -> nn.Module:
    """Return the arm's student."""
    loss = GuidedLoss.model_validate(ARMS[arm])
    if arm == "alone":
        return train(work, host, loss, None, None, seed=seed)
    if arm == "label-smoothing":
        return train(work, host, loss, None, smooth(work), seed=seed)
    if arm.startswith("born-again"):
        generation = int(arm[-1])
        earlier = "alone" if generation == 1 else f"born-again-{generation - 1}"
        logits = predict(run_arm(earlier, work, host, seed=seed), work.task, host, work.data.train)
        return train(work, host, loss, None, says(logits), seed=seed + 1_000 * generation)
    teacher = load_model(work.teacher.artifact.path)
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    taps = bind(loss, STUDENT.build(work.task.signature, code=()), teacher, example, seed=0).teacher_shapes
    views = work.task.views(mixup=loss.mixup)
    outputs = teacher_outputs(work, host, work.data.train, views=views, taps=taps, limit_bytes=4e9)
    taught: Callable[[Batch], Taught] = outputs
    if arm == "permuted":
        taught = permute(outputs.logits(None), seed=seed)
    return train(work, host, loss, teacher, taught, seed=seed)


def run_cell(arm: str, work: Work, host: Host, *, seed: int) -> None:
    """Run one cell and write its JSON."""
    path, loss = RESULTS / f"{arm}-seed{seed}.json", GuidedLoss.model_validate(ARMS[arm])
    digest = work.teacher.artifact.digest
    made_of = {"loss": loss.fingerprint, "teacher": digest, "optimization": OPTIMIZATION.model_dump()}
    if path.exists() and json.loads(path.read_text())["made_of"] == made_of:
        return
    started_s = time.monotonic()
    student = run_arm(arm, work, host, seed=seed)
    seconds = time.monotonic() - started_s
    select = work.data.select
    logits = predict(student, work.task, host, select)
    theirs = teacher_outputs(work, host, select, views=(None,)).logits(None)
    divergence = Kl(temperature=1)
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy_select": work.task.tally(logits.numpy(), select).value,
        "teacher_agreement": float((logits.argmax(1) == theirs.argmax(1)).float().mean()),
        "teacher_kl_nats": float(divergence.value(logits, Targets(teachers=(theirs,))).mean()),
        "samples": len(select),
        "parameters": sum(value.numel() for value in student.parameters()),
        "images": IMAGES,
        "made_of": made_of,
        "student": STUDENT.model_dump(),
        "terms": loss.model_dump(exclude_none=True),
        "teacher_accuracy_select": work.task.tally(theirs.numpy(), select).value,
        "seconds": round(seconds, 1),
        "environment": asdict(describe(seed=seed)),
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{arm} seed {seed}: {100 * result['accuracy_select']:.2f}% in {seconds:.0f} s", flush=True)


def table() -> str:
    """Return the committed cells as Markdown.

    Raises:
        SystemExit: when cells are of different teachers, settings or numbers of seeds.
    """
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    accuracy = {(cell["arm"], cell["seed"]): 100 * cell["accuracy_select"] for cell in cells}
    arms = [arm for arm in ARMS if any(name == arm for name, _ in accuracy)]
    seeds = {arm: sorted(seed for name, seed in accuracy if name == arm) for arm in arms}
    mixed = {json.dumps([cell["made_of"]["teacher"], cell["made_of"]["optimization"]]) for cell in cells}
    if len(mixed) > 1 or len({tuple(found) for found in seeds.values()}) > 1:
        raise SystemExit(f"the grid is not whole: {len(mixed)} settings, seeds {seeds}; run it without --table first")
    tested = [arm for arm in arms if arm != "alone"]
    p_values = holm({arm: p_value(differences(accuracy, arm, "alone")) for arm in tested})
    lines = [
        "| arm | accuracy %, sd | over alone, points | over permuted | over label-smoothing | p (Holm) | agreement % | "
        "KL, nats | verdict |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for arm in arms:
        own = [cell for cell in cells if cell["arm"] == arm]
        values = [100 * cell["accuracy_select"] for cell in own]
        parts = [
            f"{arm} (control)" if arm in CONTROLS else arm,
            f"{statistics.mean(values):.2f}, {statistics.stdev(values):.2f}",
        ]
        for rival in ("alone", "permuted", "label-smoothing"):
            parts.append("" if arm == rival else show(interval(differences(accuracy, arm, rival))))
        p = p_values.get(arm)
        parts.append("" if p is None else show_p(p))
        parts.append(f"{100 * statistics.mean(cell['teacher_agreement'] for cell in own):.1f}")
        parts.append(f"{statistics.mean(cell['teacher_kl_nats'] for cell in own):.3f}")
        parts.append("" if p is None else verdict(p, statistics.mean(differences(accuracy, arm, "alone"))))
        lines.append("| " + " | ".join(parts) + " |")
    environment = cells[0]["environment"]
    optimization = cells[0]["made_of"]["optimization"]
    lines += [
        "",
        f"{cells[0]['images']:,} training images, {optimization['epochs']} epochs, seeds {seeds['alone']}, "
        f"{cells[0]['samples']:,} select samples; teacher {100 * cells[0]['teacher_accuracy_select']:.2f}%; student "
        f"{cells[0]['parameters']:,} parameters; at most {max(cell['seconds'] for cell in cells):.0f} s a cell. "
        "Intervals are 95% t intervals paired by seed, each by itself; p is of the difference to alone, adjusted for "
        "all arms, and decides the verdict. Both speak of other seeds, not of other teachers or data. "
        f"{environment['cpu_model']}; torch {environment['versions']['torch']}; "
        f"{min(cell['environment']['date'] for cell in cells)[:10]}.",
    ]
    return "\n".join(lines) + "\n"


def verdict(p: float, gain: float) -> str:
    """Return in words whether an arm differs from the student alone."""
    if p >= 0.05:
        return "cannot tell"
    return "better than alone" if gain > 0 else "worse than alone"


def main() -> None:
    """Run the missing cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--store", type=Path, default=Path("compress-store"))
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--table", action="store_true", help="write docs/distillation.md from the committed cells")
    arguments = parser.parse_args()
    if arguments.table:
        begin, end = MARKERS
        head, tail = DOCUMENT.read_text().split(begin)[0], DOCUMENT.read_text().split(end)[1]
        DOCUMENT.write_text(f"{head}{begin}\n\n{table()}\n{end}{tail}")
        return
    work, host = prepare(Store.open(arguments.store), threads=arguments.threads)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            run_cell(arm, work, host, seed=seed)


if __name__ == "__main__":
    main()
