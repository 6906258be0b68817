"""Which texts should a student learn that writes? One cell per (arm, seed), each with its own JSON.

    python benchmarks/pronunciation_ablation/run.py [--seeds 0 1 2] [--train 6000] [--epochs 10] [--only ARM ...]
    python benchmarks/pronunciation_ablation/run.py --table

The teacher is that of ``pipelines/pronunciation/recipe.yaml``, trained on all train words and taken from the store, or
trained now. A small student sees some of the train words, and in two arms as many further words whose pronunciation
nobody but the teacher says:

* ``alone``: the labels, without a teacher.
* ``word``: labels, and the teacher's distribution of each next symbol (half and half).
* ``sequence``: what the teacher's beam of 5 writes, instead of the labels.
* ``interpolation``: of the 8 best of a beam of 8 the one nearest to what is right.
* ``rejection``: of 4 samples those that are right.
* ``more``: as ``sequence``, of further words besides.
* ``both``: as ``more``, with the labels besides and the teacher's distribution of each next symbol.

Arms take as many updates as ``alone``, to half an epoch of their own. What is judged is what the trained module writes
for words of the test role, greedily and with a beam of 5, read once after the last epoch; nothing is chosen on it. A
cell that has its JSON for the same settings is not run again, so the grid resumes.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Data, Samples
from compress.loss import GuidedLoss
from compress.models import EncoderDecoder, load_model
from compress.pipeline.run import Options, host_of, work_of
from compress.pipeline.run_directory import Asked, decide_execution
from compress.recipe import Recipe
from compress.stage import Host, Member, Work
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.store.artifact import Artifact
from compress.store.disk import write_atomically
from compress.store.store import Store
from compress.training.decoding import AnyDecoding, Beam, Greedy
from compress.training.label import Label, label
from compress.training.writing import write, writing_task

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.seeds import answers, interval, show  # noqa: E402
from benchmarks.spam_ablation.run import pack, unpack  # noqa: E402
from benchmarks.teachers import find_or_make_teacher, find_or_run  # noqa: E402

RECIPE = HERE.parents[1] / "pipelines" / "pronunciation" / "recipe.yaml"
RESULTS = HERE / "results"
MARKERS = ("<!-- table: written by run.py --table -->", "<!-- end of table -->")
STUDENT = EncoderDecoder(
    width=64, heads=2, feed_forward=128, encoder_layers=1, decoder_layers=1, dropout=0, max_length=32
)
BATCH_SIZE = 64
JUDGED = 2000  # words of the test role
DECODINGS: Mapping[str, AnyDecoding] = {"greedy": Greedy(), "beam": Beam(size=5)}
LABELS = GuidedLoss(preset="sequence")  # cross-entropy with what is given, whoever wrote it
ARMS: Mapping[str, tuple[GuidedLoss, dict[str, Any] | None]] = {
    "alone": (LABELS, None),
    "word": (GuidedLoss(preset="word"), None),
    "sequence": (LABELS, {}),
    "interpolation": (LABELS, {"decoding": {"beam": {"size": 8, "best": 8}}, "choose": "nearest"}),
    "rejection": (LABELS, {"decoding": {"sample": {"texts": 4}}, "choose": "all", "max_error_rate": 0.0}),
    "more": (LABELS, {"sources": "more"}),
    "both": (GuidedLoss(preset="distil-whisper"), {"sources": "more", "keep_given": True}),
}
QUESTIONS = (
    ("Does word level help?", "word", "alone"),
    ("Does sequence level help?", "sequence", "alone"),
    ("Is interpolation better than the beam's first?", "interpolation", "sequence"),
    ("Is rejection better than the beam's first?", "rejection", "sequence"),
    ("Do further words help?", "more", "sequence"),
    ("Do labels and distributions help beside them?", "both", "more"),
)


def prepare(store: Store, *, train: int, threads: int) -> tuple[Work, Host, Path]:
    """Return the work with part of the train role and the teacher, and a file of as many further words."""
    recipe = Recipe.load(RECIPE)
    data = recipe.data.load()
    execution = decide_execution(store.root, Asked(threads=threads), say=print)
    work, host = work_of(recipe, data), host_of(Options(store=store.root), store=store, execution=execution)
    teacher = Member(find_or_make_teacher(recipe, work, host), work.task)
    lines = (RECIPE.parent / "more_words.txt").read_text("utf-8").splitlines()
    further = store.root / f"further-{train}.txt"
    write_atomically(further, "".join(f"{lines[row]}\n" for row in draw(len(lines), train)))
    return replace(work, data=shorten(data, train=train), teachers=(teacher,)), host, further


def draw(count: int, size: int) -> list[int]:
    """Return ``size`` of ``count`` places, the same ones every time, in their order."""
    return sorted(np.random.default_rng(0).permutation(count)[:size].tolist())


def shorten(data: Data, *, train: int) -> Data:
    """Return the data with the first ``train`` of the train words, all their samples, and `JUDGED` test words."""
    words = list(dict.fromkeys(data.train.array))
    kept = {words[place] for place in draw(len(words), train)}
    rows = np.array([row for row, word in enumerate(data.train.array) if word in kept])
    test = data.test.take(np.array(draw(len(data.test), JUDGED)))
    return replace(data, roles={**data.roles, "train": data.train.take(rows), "test": test})


def stage_of(arm: str, work: Work, host: Host, further: Path, *, epochs: int) -> Distill:
    """Return an arm's training, as long as that of ``alone`` with so many epochs, to half an epoch of its own."""
    loss, fields = ARMS[arm]
    labels, learnt = None, len(work.data.train)
    if fields is not None:
        labels = Label.model_validate(fields | ({"sources": further} if "sources" in fields else {}))
        learnt = label(work, host, labels)[1].learnt
    updates = epochs * (len(work.data.train) // BATCH_SIZE)
    return Distill(
        loss=loss,
        label=labels,
        epochs=max(1, round(updates / (learnt // BATCH_SIZE))),
        batch_size=BATCH_SIZE,
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        clip_norm=1,
    )


def judge(artifact: Artifact, work: Work, host: Host, samples: Samples) -> dict[str, Any]:
    """Return what a module writes right, by decoding: the word error rate, its bits, and milliseconds a word."""
    task, module = writing_task(work.task), load_model(artifact.path)
    found: dict[str, Any] = {}
    for name, decoding in DECODINGS.items():
        started_s = time.monotonic()
        texts = write([module], task, samples, decoding, host)
        elapsed_s = time.monotonic() - started_s
        right = task.judge_written([best.ids for best, *_ in texts], samples)["exact-match"].binary
        assert right is not None
        found[name] = {
            "word_error_test": 1 - float(right.mean()),
            "correct": pack(right),
            "ms_a_word": 1e3 * elapsed_s / len(samples),
        }
    return found


def run_cell(
    arm: str, work: Work, host: Host, further: Path, teacher: dict[str, Any], *, seed: int, epochs: int
) -> None:
    """Run one cell and write its JSON.

    Args:
        arm: one of ARMS.
        work: with the teacher; its seed is replaced.
        host: store, execution.
        further: see ``prepare``.
        teacher: what it writes right.
        seed: of the cell.
        epochs: of ``alone``.
    """
    path, stage = RESULTS / f"{arm}-seed{seed}.json", stage_of(arm, work, host, further, epochs=epochs)
    shared = {
        "teacher": work.teacher.artifact.digest,
        "data": work.data.digest,
        "task": work.task.digest,
        "student": STUDENT.model_dump(mode="json"),
        "words": len(set(work.data.train.array)),
        "epochs": epochs,
    }
    told = stage.model_dump(mode="json", exclude={"label"}) | {"label": ARMS[arm][1]}
    made_of = {"shared": shared, "stage": told}
    if path.exists() and json.loads(path.read_text())["made_of"] == made_of:
        return
    started_s, work = time.monotonic(), replace(work, seed=seed)
    artifact = find_or_run(stage, find_or_run(Create(model=STUDENT), None, work, host), work, host)
    result = {
        "arm": arm,
        "seed": seed,
        **judge(artifact, work, host, work.data.test),
        "teacher_test": {name: entry["word_error_test"] for name, entry in teacher.items()},
        "samples": len(work.data.test),
        "steps": artifact.facts["steps"],
        "label": artifact.facts.get("label"),
        "made_of": made_of,
        "threads": host.execution.threads,
        "precision": host.execution.precision,
        "seconds": round(time.monotonic() - started_s, 1),
        "environment": asdict(describe(seed=seed)),
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    errors = ", ".join(f"{name} {100 * result[name]['word_error_test']:.2f}%" for name in DECODINGS)
    print(f"{arm} seed {seed}: word error {errors}, {result['steps']} steps, {result['seconds']:.0f} s", flush=True)


def table() -> str:
    """Return the committed cells as Markdown.

    Raises:
        SystemExit: when cells are of different settings or seeds, or there are fewer than two seeds.
    """
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    arms = [arm for arm in ARMS if any(cell["arm"] == arm for cell in cells)]
    check_whole(cells, arms)
    errors = {
        name: {(cell["arm"], cell["seed"]): 100 * cell[name]["word_error_test"] for cell in cells} for name in DECODINGS
    }
    shared, environment, teacher = cells[0]["made_of"]["shared"], cells[0]["environment"], cells[0]["teacher_test"]
    lines = [
        "| arm | word error, greedy, % (mean, sd) | beam of 5, % | beam - greedy, points, 95% interval | learnt "
        "| steps |",
        "|---|---:|---:|---:|---:|---:|",
        f"| teacher | {100 * teacher['greedy']:.2f} | {100 * teacher['beam']:.2f} | "
        f"{100 * (teacher['beam'] - teacher['greedy']):+.2f} | | |",
    ]
    seeds = sorted({cell["seed"] for cell in cells})
    for arm in arms:
        own = [cell for cell in cells if cell["arm"] == arm]
        greedy, beam = ([errors[name][arm, seed] for seed in seeds] for name in DECODINGS)
        gap = interval([after - before for after, before in zip(beam, greedy, strict=True)])
        learnt = own[0]["label"]["learnt"] if own[0]["label"] else None
        lines.append(
            f"| {arm} | {statistics.mean(greedy):.2f}, {statistics.stdev(greedy):.2f} | {statistics.mean(beam):.2f} | "
            f"{show(gap)} | {'' if learnt is None else f'{learnt:,}'} | {own[0]['steps']:,} |"
        )
    lines += [
        "",
        *compare(cells, arms, errors["greedy"]),
        "",
        f"{shared['words']:,} train words, {shared['epochs']} epochs of `alone`, seeds {seeds}, "
        f"{cells[0]['samples']:,} test words; at most {max(cell['seconds'] for cell in cells):.0f} s a cell, "
        f"{cells[0]['threads']} threads, {cells[0]['precision']}. {environment['cpu_model']}; torch "
        f"{environment['versions']['torch']}; {min(cell['environment']['date'] for cell in cells)[:10]}.",
    ]
    return "\n".join(lines) + "\n"


def check_whole(cells: Sequence[dict[str, Any]], arms: Sequence[str]) -> None:
    """Refuse cells that cannot be compared.

    Raises:
        SystemExit: says why.
    """
    seeds = {arm: sorted(cell["seed"] for cell in cells if cell["arm"] == arm) for arm in arms}
    settings = {json.dumps(cell["made_of"]["shared"], sort_keys=True) for cell in cells}
    if len(settings) != 1 or len(set(map(tuple, seeds.values()))) > 1 or min(map(len, seeds.values())) < 2:
        raise SystemExit(
            f"the grid is not whole: expected one setting and the same two seeds or more in every arm; got "
            f"{len(settings)} settings, seeds {seeds}; run it without --table first"
        )


def compare(cells: Sequence[dict[str, Any]], arms: Sequence[str], errors: Mapping[tuple[str, int], float]) -> list[str]:
    """Return the questions about greedy texts with their answers, as lines of Markdown."""
    asked = [(question, ours, rival) for question, ours, rival in QUESTIONS if {ours, rival} <= set(arms)]
    wrong = {
        arm: 100
        - 100
        * np.mean(
            [unpack(cell["greedy"]["correct"], samples=cell["samples"]) for cell in cells if cell["arm"] == arm], axis=0
        )
        for arm in arms
    }
    return [
        "| question | points of word error, 95% interval over seeds | 95% interval over test words | p (Holm) "
        "| answer |",
        "|---|---:|---:|---:|---|",
        *answers(asked, errors, wrong, larger_is_better=False),
    ]


def main() -> None:
    """Run the missing cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=6000, help="train words, and as many further ones")
    parser.add_argument("--epochs", type=int, default=10, help="of the arm `alone`")
    parser.add_argument("--only", nargs="+", choices=tuple(ARMS), default=list(ARMS), help="arms to run")
    parser.add_argument("--store", type=Path, default=Path("compress-store"))
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--table", action="store_true", help="write README.md from the committed cells")
    arguments = parser.parse_args()
    if arguments.table:
        readme, (begin, end) = HERE / "README.md", MARKERS
        head, tail = readme.read_text().split(begin)[0], readme.read_text().split(end)[1]
        readme.write_text(f"{head}{begin}\n\n{table()}\n{end}{tail}")
        return
    work, host, further = prepare(Store.open(arguments.store), train=arguments.train, threads=arguments.threads)
    teacher = judge(work.teacher.artifact, work, host, work.data.test)
    print("teacher: word error", {name: round(100 * entry["word_error_test"], 2) for name, entry in teacher.items()})
    for seed in arguments.seeds:
        for arm in arguments.only:
            run_cell(arm, work, host, further, teacher, seed=seed, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
