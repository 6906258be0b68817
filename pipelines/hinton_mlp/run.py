"""Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 3, on any data in MNIST's format.

    python pipelines/hinton_mlp/run.py [--data DIR] [--omit CLASS] [--store DIR] [--threads N]

Teacher, student, loss and training are those of ``recipe.yaml``. As in the paper the teacher sees jittered images and
dropout; the students see neither, so what the distilled one knows of them it has from the teacher. Then one class is
left out of what the student sees, and its bias is raised by what makes most select decisions right. Errors are counted
on test, once, after everything is trained; the bias was chosen on select. One seed: the interval of a count of errors
is about twice its square root to either side.

Each model is committed to the store, so a second call goes on where the first one stopped. Writes ``result.json`` and
the table of README.md.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Data
from compress.loss import GuidedLoss
from compress.models import load_model
from compress.pipeline.run import Options, host_of, work_of
from compress.recipe import Recipe
from compress.stage import Execution, Host, Member, Stage, Work
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.store.artifact import Artifact
from compress.store.store import Store
from compress.training.inference import predict

HERE = Path(__file__).parent
MARKERS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
PAPER = {"teacher": 67, "alone": 146, "distilled": 74}  # of 10,000 MNIST test images
PAPER_OMITTED = "206 errors, 133 of 1,010 threes; with the bias raised by 3.5: 109, 14"


def find_or_run(stage: Stage, source: Artifact | None, work: Work, host: Host) -> Artifact:
    """Return the stage's output from the store, or run it."""
    return host.store.find(stage.key(source, work, host)) or stage.run(source, work, host)  # pyright: ignore[reportArgumentType] # origins take None


def without(data: Data, omitted: int) -> Data:
    """Return the data without a class in train."""
    labels = data.train.labels
    assert labels is not None
    return replace(data, roles={**data.roles, "train": data.train.take(np.flatnonzero(labels != omitted))})


def best_bias(logits: torch.Tensor, labels: np.ndarray, omitted: int) -> float:
    """Return what to add to a class's logit so that most decisions are right, in steps of 0.1 up to 20."""
    candidates = torch.arange(0, 20, 0.1)
    right = []
    for bias in candidates:
        shifted = logits.clone()
        shifted[:, omitted] += bias
        right.append(int((shifted.argmax(1).numpy() == labels).sum()))
    return float(candidates[int(np.argmax(right))])


def errors(logits: torch.Tensor, labels: np.ndarray, omitted: int, *, bias: float = 0.0) -> dict[str, float]:
    """Return the number of wrong decisions, in all and of the omitted class."""
    shifted = logits.clone()
    shifted[:, omitted] += bias
    wrong = shifted.argmax(1).numpy() != labels
    return {
        "errors": int(wrong.sum()),
        "errors_of_omitted": int(wrong[labels == omitted].sum()),
        "bias": round(bias, 1),
    }


def main() -> None:
    """Train what the store does not have, count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a directory of IDX files; default: the recipe's")
    parser.add_argument("--omit", type=int, default=3, help="the class to leave out")
    parser.add_argument("--store", type=Path, default=Path("compress-store"))
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    arguments = parser.parse_args()
    overrides = [] if arguments.data is None else [f"data.source.idx.directory={arguments.data.absolute()}"]
    recipe = Recipe.load(HERE / "recipe.yaml", overrides=overrides)
    assert recipe.teacher.model is not None
    assert recipe.teacher.train is not None
    assert recipe.student != "teacher"
    (distill,) = (stage for stage in recipe.stages if isinstance(stage, Distill))
    data = recipe.data.load()
    store = Store.open(arguments.store)
    execution = Execution(threads=arguments.threads, precision="bfloat16")
    work, host = work_of(recipe, data), host_of(Options(store=store.root), store=store, execution=execution)
    created = find_or_run(Create(model=recipe.teacher.model), None, work, host)
    teacher = find_or_run(recipe.teacher.train, created, work, host)
    student = find_or_run(Create(model=recipe.student), None, work, host)
    task = work.task.plain()
    plain = replace(work, task=task, teachers=(Member(teacher, task),))
    labels_alone = distill.model_copy(update={"loss": GuidedLoss.model_validate({"hard": {}})})
    models = {
        "teacher": teacher,
        "alone": find_or_run(labels_alone, student, plain, host),
        "distilled": find_or_run(distill, student, plain, host),
        "omitted": find_or_run(distill, student, replace(plain, data=without(data, arguments.omit)), host),
    }
    modules = {name: load_model(artifact.path) for name, artifact in models.items()}
    select, test = data.select, data.test
    assert select.labels is not None
    assert test.labels is not None
    bias = best_bias(predict(modules["omitted"], task, host, select), select.labels, arguments.omit)
    counted = {
        name: errors(predict(module, task, host, test), test.labels, arguments.omit) for name, module in modules.items()
    }
    counted["omitted, bias corrected"] = errors(
        predict(modules["omitted"], task, host, test), test.labels, arguments.omit, bias=bias
    )
    result = {
        "data": str(recipe.data.source),
        "omitted": arguments.omit,
        "omitted_in_test": int((test.labels == arguments.omit).sum()),
        "test_samples": len(test),
        "errors": counted,
        "epochs": distill.epochs,
        "temperature": recipe.loss.model_dump(exclude_none=True)["kl"]["temperature"],
        "environment": asdict(describe(seed=recipe.seed)),
    }
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    readme = HERE / "README.md"
    begin, end = MARKERS
    head, tail = readme.read_text().split(begin)[0], readme.read_text().split(end)[1]
    readme.write_text(f"{head}{begin}\n\n{table(result)}\n{end}{tail}")
    print(table(result))


def table(result: dict) -> str:
    """Return the counts beside the paper's as Markdown."""
    counted, omitted = result["errors"], result["omitted"]
    lines = [f"| model | test errors | of class {omitted} | paper, MNIST |", "|---|---:|---:|---:|"]
    for name, row in counted.items():
        lines.append(f"| {name} | {row['errors']:,} | {row['errors_of_omitted']:,} | {PAPER.get(name, '')} |")
    ratio, paper = counted["distilled"]["errors"] / counted["alone"]["errors"], PAPER["distilled"] / PAPER["alone"]
    environment = result["environment"]
    lines += [
        "",
        f"errors(distilled) / errors(alone) = **{ratio:.2f}**; paper: {PAPER['distilled']} / {PAPER['alone']} = "
        f"{paper:.2f}. Without class {omitted} in the transfer set ({result['omitted_in_test']:,} of "
        f"{result['test_samples']:,} test images), its bias is raised by "
        f"{counted['omitted, bias corrected']['bias']:g}; the paper, without the threes: {PAPER_OMITTED}.",
        "",
        f"{result['epochs']} epochs, temperature {result['temperature']:g}, seed {environment['seed']}; "
        f"{environment['cpu_model']}; torch {environment['versions']['torch']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
