"""How long does `compressor plan` keep one waiting: the first time, again in the same words, and in others?

    python benchmarks/plan_time.py [pipelines/digits/recipe.yaml] [--rounds 7] [--code FILE]

Each command is a process of its own. "first" has an empty store each time; the others have one that has planned once.
"in other words" sets the seed that the recipe has already, each time once more, so that the plan is found by the
recipe's values; "another recipe" has a seed of its own, so that only the proofs of before are found. What of a command
is the import of torch and what of all imports is told by `-X importtime`, in a process that is not timed. Writes
``benchmarks/results/plan_time.json`` and ``.md``.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.benchmark.environment import describe

ROOT = Path(__file__).resolve().parents[1]
SEED = 0  # of the recipe, which says none
WAYS: dict[str, Callable[[int], list[str]]] = {  # the options of a round, from 1
    "first": lambda _: [],
    "again, in the same words": lambda _: [],
    "again, in other words": lambda number: number * ["--set", f"seed={SEED}"],
    "another recipe": lambda number: ["--set", f"seed={SEED + number}"],
}


def plan(recipe: Path, store: Path, options: Sequence[str], *, python: Sequence[str] = ()) -> tuple[float, str]:
    """Return the seconds that a command takes, and what it says on stderr."""
    words = [sys.executable, *python, "-m", "compress", "plan", str(recipe), "--store", str(store), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began_s = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - began_s, done.stderr


def import_seconds(told: str) -> dict[str, float]:
    """Return the seconds of the import of torch, and of all imports, from what ``-X importtime`` says."""
    rows = re.findall(r"^import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)$", told, re.MULTILINE)
    of_torch = [int(total) for _, total, _, name in rows if name == "torch"]
    return {"torch": sum(of_torch) / 1e6, "all": sum(int(own) for own, *_ in rows) / 1e6}


def measure(recipe: Path, rounds: int, code: Sequence[str]) -> dict[str, Any]:
    """Return the seconds of each way in each round, and the imports of one."""
    found: dict[str, Any] = {way: {"seconds": []} for way in WAYS}
    with tempfile.TemporaryDirectory() as directory:
        planned = Path(directory) / "planned"
        plan(recipe, planned, code)
        for number in range(1, rounds + 2):  # one round more, whose imports are looked at
            last = number > rounds
            for way, options in WAYS.items():
                store = Path(directory) / f"store{number}" if way == "first" else planned
                python = ("-X", "importtime") if last else ()
                took_s, told = plan(recipe, store, [*options(number), *code], python=python)
                if last:
                    found[way]["imports"] = import_seconds(told)
                else:
                    found[way]["seconds"].append(took_s)
            print(f"round {number} of {rounds + 1}", file=sys.stderr)
    return found


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["# How long a plan takes", "", f"`compressor plan {result['recipe']}`:", ""]
    lines += ["| | seconds | from, to | imports | of these torch |", "|---|---:|---:|---:|---:|"]
    for way, row in result["ways"].items():
        seconds, imports = row["seconds"], row["imports"]
        lines.append(
            f"| {way} | {statistics.median(seconds):.2f} | {min(seconds):.2f}, {max(seconds):.2f} "
            f"| {imports['all']:.2f} | {imports['torch']:.2f} |"
        )
    environment = result["environment"]
    rounds = len(result["ways"]["first"]["seconds"])
    versions = environment["versions"]
    return "\n".join([
        *lines,
        "",
        f"Wall time of the command, median of {rounds} rounds; imports under Python's own clock, which makes them "
        f"slower. {environment['cpu_model']}, one thread; torch {versions['torch']}, onnxruntime "
        f"{versions['onnxruntime']}; "
        f"{environment['date'][:10]}.",
        "",
    ])  # fmt: skip


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=ROOT / "pipelines" / "digits" / "recipe.yaml")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--code", action="append", default=[])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    recipe = arguments.recipe.resolve()
    ways = measure(recipe, arguments.rounds, [word for path in arguments.code for word in ("--code", path)])
    told = str(recipe.relative_to(ROOT)) if recipe.is_relative_to(ROOT) else recipe.name
    result = {"recipe": told, "ways": ways, "environment": asdict(describe(seed=SEED))}
    stem = arguments.output / "plan_time"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
