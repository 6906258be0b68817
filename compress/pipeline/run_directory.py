"""A recipe's run directory: what is written there is there whole or not at all, and what is damaged is told.

::

    execution.json   threads and precision, decided once
    report.json      the result; beside it report.md and waterfall.png
    recipe.yaml      with every default
    plan.json        which steps were run and which reused, with their keys
    bundle/          the shipped files
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from compress.benchmark.environment import describe
from compress.benchmark.runtimes.machine import count_allowed_cores
from compress.errors import ArtifactError
from compress.report.document import Report
from compress.stage import Execution, Precision
from compress.store.disk import writable, write_atomically
from compress.store.document import OtherSchemaError, load


def decide_execution(run_dir: Path, *, threads: int | None) -> Execution:
    """Return threads and precision, decided once per run directory and kept on resume. Nothing is written.

    bfloat16 autocast is taken where the CPU multiplies bfloat16 in hardware; elsewhere it is slower than float32.

    Raises:
        ArtifactError: when the note of an earlier run is damaged.
    """
    noted = _read_execution(run_dir / "execution.json")
    if noted is not None and threads is None:
        return noted
    fast = {"avx512_bf16", "amx_bf16", "bf16"} & set(describe(seed=0).cpu_flags)
    return Execution(threads=threads or count_allowed_cores(), precision="bfloat16" if fast else "float32")


def settle_execution(run_dir: Path, *, threads: int | None) -> Execution:
    """Return threads and precision as ``decide_execution`` does, noted for the next run; only under the run's lock.

    Raises:
        ArtifactError: when the note of an earlier run is damaged.
        EnvironmentFault: when the directory cannot be written.
    """
    path = run_dir / "execution.json"
    execution = decide_execution(run_dir, threads=threads)
    if _read_execution(path) != execution:
        with writable(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(execution)))
    return execution


def seconds_by_digest(runs: Path, *, say: Callable[[str], None]) -> dict[str, float]:
    """Return how long each artifact took when it was made, from the reports of a store's runs.

    Args:
        runs: the store's ``runs``.
        say: told of a report that cannot be read; the times in it are then not known.
    """
    found = {}
    for path in sorted(runs.glob("*/report.json")):
        try:
            stages = load(Report, path).stages
        except ArtifactError as error:
            why = "of another version" if isinstance(error, OtherSchemaError) else "damaged"
            say(f"{path} is {why}: the times of stages that were made there are not known")
        else:
            found |= {stage.digest: stage.made_s for stage in stages if stage.made_s is not None}
    return found


def place_bundle(source: Path, run_dir: Path) -> Path:
    """Copy a stored bundle to ``bundle``, taking the earlier one's place once it is whole; only under the run's lock.

    Returns:
        Where it is now.

    Raises:
        OSError: when the directory cannot be written.
    """
    bundle, draft, earlier = run_dir / "bundle", run_dir / ".bundle-draft", run_dir / ".bundle-earlier"
    for left in (draft, earlier):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir()
    for path in source.iterdir():
        if path.name != "manifest.json":  # the store's own
            _copy(path, draft / path.name)
    if bundle.exists():
        bundle.rename(earlier)
    draft.rename(bundle)
    shutil.rmtree(earlier, ignore_errors=True)
    return bundle


def _copy(source: Path, target: Path) -> None:
    """Copy a file's bytes and wait until they are on the disk."""
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _read_execution(path: Path) -> Execution | None:
    if not path.exists():
        return None
    try:
        execution = Execution(**json.loads(path.read_text(encoding="utf-8")))
        if type(execution.threads) is not int or execution.precision not in get_args(Precision):
            raise ValueError(f"{execution}")
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            "the note of an earlier run is damaged",
            expected="threads and precision",
            got=error,
            where=path,
            hint="delete it: both are decided anew, and stages that they made otherwise run again",
        ) from error
    return execution
