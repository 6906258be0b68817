"""What does each stage of the Fashion-MNIST pipeline buy? One cell per (arm, seed), each with its own JSON.

    python benchmarks/fashion_ablation/run.py [--seeds 0 1 2] [--store DIR] [--threads N]
    python benchmarks/fashion_ablation/run.py --table

Arms, all from the teacher, student and loss of ``pipelines/fashion_mnist/recipe.yaml``, shortened to DISTILL_EPOCHS and
RECOVER_EPOCHS, with equal steps where two arms are compared:

* ``distilled``: the student on the guided loss; ``alone``: the same student, views and steps on the labels alone.
* ``taylor-guided``: distilled, pruned by Taylor scores of the guided loss, recovered on the guided loss;
  ``taylor-plain``: recovered on the labels alone; ``magnitude-guided``: pruned by weight magnitude instead.
* ``scratch-guided``: the widths that ``taylor-guided`` ended with, fresh weights, the guided loss for all its steps.

A cell that has its JSON is not run again, so the grid resumes. Accuracy is on select; test is not read.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from compress.benchmark.environment import count_allowed_cores, describe
from compress.judge.scores import score
from compress.loss import GuidedLoss
from compress.loss.logits import Hard
from compress.models import load_model, load_structure
from compress.pipeline.run import Options, host_of, work_of
from compress.recipe import Recipe
from compress.stage import Execution, Host, Member, Work
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.store.artifact import Artifact
from compress.store.store import Store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.seeds import differences, interval, show  # noqa: E402
from benchmarks.teachers import find_or_make_teacher, find_or_run  # noqa: E402

RECIPE = HERE.parents[1] / "pipelines" / "fashion_mnist" / "recipe.yaml"
RESULTS = HERE / "results"
DISTILL_EPOCHS = 3
RECOVER_EPOCHS = 2
LABELS_ALONE = GuidedLoss(hard=Hard())
ARMS = ("distilled", "alone", "taylor-guided", "taylor-plain", "magnitude-guided", "scratch-guided")
QUESTIONS = (
    ("Does the teacher help the student?", "distilled", "alone"),
    ("Does the teacher help the recovery?", "taylor-guided", "taylor-plain"),
    ("Does the guided loss choose better channels than magnitude?", "taylor-guided", "magnitude-guided"),
    ("Is pruning better than training the final widths from scratch?", "taylor-guided", "scratch-guided"),
)


def prepare(recipe: Recipe, store: Store, *, threads: int) -> tuple[Work, Host]:
    """Return the work of seed 0 with the recipe's teacher, from the store or trained now."""
    execution = Execution(threads=threads, precision="bfloat16")
    work = work_of(recipe, recipe.data.load())
    host = host_of(Options(store=store.root), store=store, execution=execution)
    return replace(work, teachers=(Member(find_or_make_teacher(recipe, work, host), work.task),)), host


def stages_of(recipe: Recipe) -> tuple[Distill, Prune, Distill]:
    """Return the recipe's distill, prune and recover stages, shortened."""
    distill, recover = (stage for stage in recipe.stages if isinstance(stage, Distill))
    (prune,) = (stage for stage in recipe.stages if isinstance(stage, Prune))
    return (
        distill.model_copy(update={"epochs": DISTILL_EPOCHS}),
        prune,
        recover.model_copy(update={"epochs": RECOVER_EPOCHS}),
    )


def run_arm(arm: str, recipe: Recipe, work: Work, host: Host) -> Artifact:
    """Return the arm's final artifact."""
    distill, prune, recover = stages_of(recipe)
    assert recipe.student != "teacher"
    student = find_or_run(Create(model=recipe.student), None, work, host)
    if arm == "alone":
        return find_or_run(distill.model_copy(update={"loss": LABELS_ALONE}), student, work, host)
    distilled = find_or_run(distill, student, work, host)
    if arm == "distilled":
        return distilled
    if arm == "magnitude-guided":
        prune = prune.model_copy(update={"importance": "magnitude"})
    pruned = find_or_run(prune, distilled, work, host)
    if arm == "taylor-plain":
        return find_or_run(recover.model_copy(update={"loss": LABELS_ALONE}), pruned, work, host)
    if arm == "scratch-guided":
        total = distill.model_copy(update={"epochs": DISTILL_EPOCHS + RECOVER_EPOCHS})
        return find_or_run(total, fresh_weights(pruned, work, host), work, host)
    return find_or_run(recover, pruned, work, host)


def fresh_weights(pruned: Artifact, work: Work, host: Host) -> Artifact:
    """Commit the pruned architecture with newly drawn weights."""
    structure = load_structure(pruned.path)
    module = load_model(pruned.path)
    torch.manual_seed(work.seed)
    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)):
            layer.reset_parameters()
    return Create.model_validate({"name": "fresh", "model": structure.model}).commit(
        module,
        pruned,
        work,
        host,
        model=structure.model,
        signature=structure.signature,
        facts={},
    )


def run_cell(arm: str, recipe: Recipe, work: Work, host: Host, *, seed: int) -> None:
    """Run one cell and write its JSON."""
    path = RESULTS / f"{arm}-seed{seed}.json"
    if path.exists():
        return
    started_s = time.monotonic()
    made = run_arm(arm, recipe, replace(work, seed=seed), host)
    scores = score(made, work, host, role="select", teacher=None)
    assert scores.correct is not None
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy_select": scores.accuracy,
        "samples": len(scores.correct),
        "parameters": scores.facts.parameters,
        "macs": scores.facts.macs,
        "distill_epochs": DISTILL_EPOCHS,
        "recover_epochs": RECOVER_EPOCHS,
        "loss": recipe.loss.fingerprint,
        "seconds": round(time.monotonic() - started_s, 1),
        "environment": asdict(describe(seed=seed)),
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{arm} seed {seed}: {100 * scores.accuracy:.2f}% in {result['seconds']:.0f} s", flush=True)


def table() -> str:
    """Return the committed cells as Markdown: means, and paired differences with 95% t intervals over seeds."""
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    accuracy = {(cell["arm"], cell["seed"]): 100 * cell["accuracy_select"] for cell in cells}
    lines = [
        "| arm | accuracy on select, % (mean, standard deviation over seeds) | parameters | MACs |",
        "|---|---:|---:|---:|",
    ]
    for arm in ARMS:
        values = [value for (name, _), value in accuracy.items() if name == arm]
        last = next(cell for cell in cells if cell["arm"] == arm)
        spread = f"{statistics.mean(values):.2f}, {statistics.stdev(values):.2f} (n = {len(values)})"
        lines.append(f"| {arm} | {spread} | {last['parameters']:,} | {last['macs']:,} |")
    lines += ["", "| question | difference in points, 95% interval, paired by seed | verdict |", "|---|---:|---|"]
    for question, ours, rival in QUESTIONS:
        gain, low, high = interval(differences(accuracy, ours, rival))
        verdict = "yes" if low > 0 else "no, it is worse" if high < 0 else "cannot tell"
        lines.append(f"| {question} ({ours} - {rival}) | {show((gain, low, high))} | {verdict} |")
    environment = cells[0]["environment"]
    lines += [
        "",
        f"{cells[0]['samples']:,} select samples; distill {cells[0]['distill_epochs']} epochs, recover "
        f"{cells[0]['recover_epochs']}; loss {cells[0]['loss']}; {environment['cpu_model']}; torch "
        f"{environment['versions']['torch']}; {min(cell['environment']['date'] for cell in cells)[:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the missing cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--store", type=Path, default=Path("compress-store"))
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--table", action="store_true", help="write README.md from the committed cells")
    arguments = parser.parse_args()
    if arguments.table:
        readme = HERE / "README.md"
        begin, end = "<!-- table: written by run.py --table -->", "<!-- end of table -->"
        head, tail = readme.read_text().split(begin)[0], readme.read_text().split(end)[1]
        readme.write_text(f"{head}{begin}\n\n{table()}\n{end}{tail}")
        return
    recipe = Recipe.load(RECIPE)
    work, host = prepare(recipe, Store.open(arguments.store), threads=arguments.threads)
    for seed in arguments.seeds:
        for arm in ARMS:
            run_cell(arm, recipe, work, host, seed=seed)


if __name__ == "__main__":
    main()
