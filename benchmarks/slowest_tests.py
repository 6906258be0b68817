"""Are the slowest tests of an earlier state of the code faster today? CPU seconds of each, side by side.

    git worktree add --detach ../before 00fea3e^
    python benchmarks/slowest_tests.py --before ../before [--rounds 2] [TEST ...]

Each test runs by itself in both trees, one after the other, in the same environment on one thread. What is counted is
the processor time of all processes that it starts: other work on the machine lengthens the wait, and hardly this. What
the suite pays once and not for each test is subtracted: collecting, and the process with all libraries from which
``tests/typed.py`` forks commands. The tests are the slowest of the fast suite before the rebuild; the ratio is that of
the medians. Writes ``benchmarks/results/slowest_tests.json`` and ``.md``.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compress.benchmark.environment import describe  # noqa: E402

ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of Linux
SMOKE = "tests/pipelines/test_recipes.py::test_a_smoke_run_takes_the_recipe_through_everything[{}]"
TESTS = [
    *(SMOKE.format(name) for name in ("digits", "hinton_mlp", "fashion_mnist", "mail_entities")),
    "tests/pipeline/test_run.py::test_every_stage_is_a_row_scored_on_the_runtime",
]


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0")
FORK = "import pathlib, sys; sys.path.insert(0, 'tests'); import typed; typed.compressor('--help', cwd=pathlib.Path())"


def overhead_s(tree: Path, test: str) -> float:
    """Return what a test takes by itself and not in the suite."""
    file = tree / test.split("::")[0]
    forks = any(
        "from typed import" in path.read_text() for path in (file, file.parent / "conftest.py") if path.exists()
    )
    return cpu_seconds(tree, *PYTEST, "--collect-only", test) + (cpu_seconds(tree, "-c", FORK) if forks else 0.0)


def cpu_seconds(tree: Path, *arguments: str) -> float:
    """Return the processor time of a call of Python and of everything that it starts.

    Raises:
        SystemExit: when it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{arguments[-1]} in {tree}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    try:
        while True:  # servers of processes outlive the test by a moment
            os.wait()
    except ChildProcessError:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commit_of(tree: Path) -> str:
    """Return the commit that a tree is at."""
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    environment = result["environment"]
    lines = ["| test | before, s | today, s | today / before |", "|---|---:|---:|---:|"]
    for row in result["tests"]:
        lines.append(f"| `{row['test']}` | {row['before_s']:.1f} | {row['today_s']:.1f} | {row['ratio']:.2f} |")
    lines += [
        "",
        f"CPU seconds, medians of {result['rounds']} round(s); before: {result['before']}, today: {result['today']}; "
        f"{environment['cpu_model']}; Python {environment['python']}, torch {environment['versions']['torch']}; "
        f"{environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all tests in both trees, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier state")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("tests", nargs="*", default=TESTS, metavar="TEST")
    given = parser.parse_args()
    ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
    trees = {"before": given.before.resolve(), "today": ROOT}
    result: dict[str, Any] = {name: commit_of(tree) for name, tree in trees.items()}
    result |= {"rounds": given.rounds, "tests": [], "environment": asdict(describe(seed=0))}
    for test in given.tests:
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        overhead = {name: overhead_s(tree, test) for name, tree in trees.items()}
        for _ in range(given.rounds):
            for name, tree in trees.items():
                seconds[name].append(cpu_seconds(tree, *PYTEST, test) - overhead[name])
        row = {"test": test, **{f"{name}_s": statistics.median(found) for name, found in seconds.items()}}
        result["tests"].append(
            row | {"ratio": row["today_s"] / row["before_s"], "all_s": seconds, "overhead_s": overhead}
        )
        stem = given.output / "slowest_tests"
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table(result))
        print(f"{test}: {row['before_s']:.1f} s, today {row['today_s']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
