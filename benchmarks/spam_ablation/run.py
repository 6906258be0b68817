"""What makes the pruned encoder of the spam pipeline good? One cell per (arm, seed), each with its own JSON.

    python benchmarks/spam_ablation/run.py [--seeds 0 1 2] [--train 1200] [--epochs 2 2] [--only ARM ...]
    python benchmarks/spam_ablation/run.py --only teacher    # the teacher alone, which all cells share
    python benchmarks/spam_ablation/run.py --table

Model, loss, optimisation and data are those of ``pipelines/spam/recipe.yaml``, on fewer mails of MAX_LENGTH tokens; the
teacher is fine-tuned once, on the mails that the arms train on, and stored. Every arm begins with the teacher's first
layers (``shorten``), is asked for the same share of their MACs (``prune``) and takes the same number of steps:

* ``guided``: distilled, pruned by Taylor scores of the guided loss, recovered on the guided loss, as the recipe does.
* ``labels``: the same on the labels alone, the scores too; the teacher is where it starts from, and no more.
* ``prune-first``: pruned at once, then all the steps in one training on the labels alone.
* ``global``: guided, with heads, channels and layers ranked among their own kind (``ranking: global``) and not all
  together by what they cost (``per_cost``).
* ``magnitude``: guided, pruned by weight magnitude, which knows no ranking but ``global``.

Accuracy is of the exported file on the whole test role, read once after the last epoch; nothing is chosen on it. A cell
that has its JSON for the same settings is not run again, so the grid resumes; ``guided``, ``global`` and ``magnitude``
share the distillation of a seed, so the seconds of the one that runs first include it.
"""

import argparse
import base64
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data.roles import subset
from compress.judge.scores import Scores, score
from compress.pipeline.run import Options, host_of, work_of
from compress.pipeline.run_directory import Asked, decide_execution
from compress.recipe import Recipe
from compress.stage import Host, Member, Stage, Work
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.stages.shorten import Shorten
from compress.stages.train import LABELS_ALONE
from compress.store.artifact import Artifact
from compress.store.disk import write_atomically
from compress.store.store import Store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.seeds import answers  # noqa: E402
from benchmarks.teachers import find_or_make_teacher, find_or_run  # noqa: E402

RECIPE = HERE.parents[1] / "pipelines" / "spam" / "recipe.yaml"
RESULTS = HERE / "results"
MARKERS = ("<!-- table: written by run.py --table -->", "<!-- end of table -->")
MAX_LENGTH = 128
IMPORTANCE_BATCHES = 8  # half the default: 512 mails, so that a cell takes minutes
ARMS = ("guided", "labels", "prune-first", "global", "magnitude")
QUESTIONS = (
    ("Does the teacher help?", "guided", "labels"),
    ("Is guided better than pruning at once and training on?", "guided", "prune-first"),
    ("Is one budget by cost better than a ranking among each kind?", "guided", "global"),
    ("Do the guided loss' scores choose better than magnitude, ranked alike?", "global", "magnitude"),
    ("Both together?", "guided", "magnitude"),
)


def prepare(store: Store, *, train: int, threads: int) -> tuple[Recipe, Work, Host]:
    """Return the recipe, and its work with part of the train role and the teacher, stored or fine-tuned now."""
    recipe = Recipe.load(RECIPE, overrides=[f"data.tokenize.max_length={MAX_LENGTH}"])
    data = recipe.data.load()
    data = replace(data, roles={**data.roles, "train": subset(data, per_role=train).train})
    execution = decide_execution(store.root, Asked(threads=threads), say=print)
    work, host = work_of(recipe, data), host_of(Options(store=store.root), store=store, execution=execution)
    return recipe, replace(work, teachers=(Member(find_or_make_teacher(recipe, work, host), work.task),)), host


def chain(arm: str, recipe: Recipe, *, epochs: Sequence[int]) -> list[Stage]:
    """Return an arm's stages.

    Args:
        arm: one of ARMS.
        recipe: the stages' fields where an arm does not say otherwise.
        epochs: before and after pruning; their sum is what every arm trains.
    """
    (shorten,) = (stage for stage in recipe.stages if isinstance(stage, Shorten))
    (prune,) = (stage for stage in recipe.stages if isinstance(stage, Prune))
    distill, recover = (stage for stage in recipe.stages if isinstance(stage, Distill))
    prune = prune.model_copy(update={"importance_batches": IMPORTANCE_BATCHES})
    if arm == "global":
        prune = prune.model_copy(update={"ranking": "global"})
    if arm == "magnitude":
        prune = prune.model_copy(update={"importance": "magnitude"})
    if arm in ("labels", "prune-first"):
        distill, prune, recover = (
            stage.model_copy(update={"loss": LABELS_ALONE}) for stage in (distill, prune, recover)
        )
    if arm == "prune-first":
        return [shorten, prune, distill.model_copy(update={"epochs": sum(epochs)})]
    before, after = epochs
    return [
        shorten,
        distill.model_copy(update={"epochs": before}),
        prune,
        recover.model_copy(update={"epochs": after}),
    ]


def run_chain(stages: Sequence[Stage], work: Work, host: Host) -> tuple[Artifact, int]:
    """Return what a chain makes of the teacher, each step from the store or run now, and its updates of weights."""
    artifact, steps = work.teacher.artifact, 0
    for stage in stages:
        artifact = find_or_run(stage, artifact, work, host)
        steps += artifact.facts.get("steps", 0)
    return artifact, steps


def run_cell(
    arm: str, recipe: Recipe, work: Work, host: Host, reference: Scores, *, seed: int, epochs: Sequence[int]
) -> None:
    """Run one cell and write its JSON.

    Args:
        arm: one of ARMS.
        recipe: see ``chain``.
        work: with the teacher; its seed is replaced.
        host: store, execution.
        reference: the teacher's scores on test.
        seed: of the cell.
        epochs: see ``chain``.
    """
    path, stages = RESULTS / f"{arm}-seed{seed}.json", chain(arm, recipe, epochs=epochs)
    shared = {
        "teacher": work.teacher.artifact.digest,
        "data": work.data.digest,
        "task": work.task.digest,
        "loss": recipe.loss.fingerprint,
        "train": len(work.data.train),
        "epochs": list(epochs),
    }
    made_of = {"shared": shared, "stages": [stage.model_dump(mode="json", exclude_none=True) for stage in stages]}
    if path.exists() and json.loads(path.read_text())["made_of"] == made_of:
        return
    started_s = time.monotonic()
    work = replace(work, seed=seed)
    artifact, steps = run_chain(stages, work, host)
    scores = score(artifact, work, host, role="test", teacher=reference)
    assert scores.correct is not None
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy_test": scores.accuracy,
        "macro_f1_test": scores.measures["macro-f1"].value,
        "teacher_agreement_test": scores.facts.teacher_agreement,
        "teacher_accuracy_test": reference.accuracy,
        "teacher_macro_f1_test": reference.measures["macro-f1"].value,
        "samples": len(scores.correct),
        "correct": pack(scores.correct),
        "steps": steps,
        "parameters": scores.facts.parameters,
        "macs": scores.facts.macs,
        "size_bytes": scores.facts.size_bytes,
        "teacher_parameters": reference.facts.parameters,
        "teacher_macs": reference.facts.macs,
        "made_of": made_of,
        "threads": host.execution.threads,
        "precision": host.execution.precision,
        "seconds": round(time.monotonic() - started_s, 1),
        "environment": asdict(describe(seed=seed)),
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    print(f"{arm} seed {seed}: {100 * scores.accuracy:.2f}% in {result['seconds']:.0f} s", flush=True)


def pack(correct: NDArray[np.bool_]) -> str:
    """Return whether each sample is right, bool [N], as base64 of its bits, the first sample in the highest bit."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str, *, samples: int) -> NDArray[np.bool_]:
    """Return what ``pack`` was given."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=samples).astype(bool)


def table() -> str:
    """Return the committed cells as Markdown.

    Raises:
        SystemExit: when cells are of different settings, steps or seeds, or there are fewer than two seeds.
    """
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    check_whole(cells)
    by_arm = {arm: [cell for cell in cells if cell["arm"] == arm] for arm in ARMS}
    shared, environment = cells[0]["made_of"]["shared"], cells[0]["environment"]
    lines = [
        "| arm | accuracy, spam or not, % (mean, sd) | macro-F1 of three classes, % | agreement with the teacher, % "
        "| parameters | MACs |",
        "|---|---:|---:|---:|---:|---:|",
        f"| teacher | {100 * cells[0]['teacher_accuracy_test']:.2f} | {100 * cells[0]['teacher_macro_f1_test']:.2f} | "
        f"| {cells[0]['teacher_parameters']:,} | {cells[0]['teacher_macs']:,} |",
    ]
    for arm, own in by_arm.items():
        accuracy = [100 * cell["accuracy_test"] for cell in own]
        f1, agreement, parameters, macs = (
            statistics.mean(cell[key] for cell in own)
            for key in ("macro_f1_test", "teacher_agreement_test", "parameters", "macs")
        )
        lines.append(
            f"| {arm} | {statistics.mean(accuracy):.2f}, {statistics.stdev(accuracy):.2f} | {100 * f1:.2f} | "
            f"{100 * agreement:.2f} | {parameters:,.0f} | {macs:,.0f} |"
        )
    seeds, epochs = [cell["seed"] for cell in by_arm["guided"]], " + ".join(map(str, shared["epochs"]))
    longest_s = max(cell["seconds"] for cell in cells)
    lines += [
        "",
        *compare(cells),
        "",
        f"{shared['train']:,} train mails of at most {MAX_LENGTH} tokens, {cells[0]['steps']} steps ({epochs} epochs) "
        f"in every arm, seeds {seeds}, {cells[0]['samples']:,} test mails; loss {shared['loss']}; at most "
        f"{longest_s:.0f} s a cell, {cells[0]['threads']} threads, {cells[0]['precision']}. "
        f"{environment['cpu_model']}; torch "
        f"{environment['versions']['torch']}; {min(cell['environment']['date'] for cell in cells)[:10]}.",
    ]
    return "\n".join(lines) + "\n"


def check_whole(cells: Sequence[dict[str, Any]]) -> None:
    """Refuse cells that cannot be compared.

    Raises:
        SystemExit: says why.
    """
    seeds = {arm: sorted(cell["seed"] for cell in cells if cell["arm"] == arm) for arm in ARMS}
    settings = {json.dumps(cell["made_of"]["shared"], sort_keys=True) for cell in cells}
    steps = sorted({cell["steps"] for cell in cells})
    if len(settings) != 1 or len(steps) != 1 or len(seeds["guided"]) < 2 or len(set(map(tuple, seeds.values()))) > 1:
        raise SystemExit(
            f"the grid is not whole: expected one setting, one number of steps and the same two seeds or more in every "
            f"arm; got {len(settings)} settings, steps {steps}, seeds {seeds}; run it without --table first"
        )


def compare(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return the questions with their answers, as lines of Markdown."""
    accuracy = {(cell["arm"], cell["seed"]): 100 * cell["accuracy_test"] for cell in cells}
    right = {
        arm: 100
        * np.mean([unpack(cell["correct"], samples=cell["samples"]) for cell in cells if cell["arm"] == arm], axis=0)
        for arm in ARMS
    }
    return [
        "| question | points, 95% interval over seeds | 95% interval over test mails | p (Holm) | answer |",
        "|---|---:|---:|---:|---|",
        *answers(QUESTIONS, accuracy, right, larger_is_better=True),
    ]


def main() -> None:
    """Run the missing cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=1200, help="mails to train on, each class in proportion")
    parser.add_argument("--epochs", type=int, nargs=2, default=[2, 2], help="before and after pruning")
    parser.add_argument("--only", nargs="+", choices=("teacher", *ARMS), default=list(ARMS), help="arms to run")
    parser.add_argument("--store", type=Path, default=Path("compress-store"))
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--table", action="store_true", help="write README.md from the committed cells")
    arguments = parser.parse_args()
    if arguments.table:
        readme, (begin, end) = HERE / "README.md", MARKERS
        head, tail = readme.read_text().split(begin)[0], readme.read_text().split(end)[1]
        readme.write_text(f"{head}{begin}\n\n{table()}\n{end}{tail}")
        return
    recipe, work, host = prepare(Store.open(arguments.store), train=arguments.train, threads=arguments.threads)
    reference = score(work.teacher.artifact, work, host, role="test", teacher=None)
    print(f"teacher: {100 * reference.accuracy:.2f}% of {len(work.data.test):,} test mails", flush=True)
    for seed in arguments.seeds:
        for arm in arguments.only:
            if arm != "teacher":
                run_cell(arm, recipe, work, host, reference, seed=seed, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
