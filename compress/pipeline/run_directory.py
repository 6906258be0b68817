"""A recipe's run directory: what is written there is there whole or not at all, and what is damaged is told.

::

    execution.json   threads, precision and device, decided once
    report.json      the result; beside it report.md and waterfall.png
    recipe.yaml      with every default
    plan.json        which steps were run and which reused, with their keys
    bundle/          the shipped files, and a card that says what was measured of them
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

import torch
import yaml

from compress.benchmark.environment import describe
from compress.benchmark.runtimes.machine import count_allowed_cores
from compress.config.discretion import Discretion
from compress.errors import ArtifactError, EnvironmentFault, UsageError
from compress.export.manifest import NAME, Content, Manifest
from compress.recipe import Recipe
from compress.recipe.differences import differences
from compress.recipe.recipe import parameters
from compress.report.document import Report
from compress.stage import BatchSize, Execution, Group, Precision, Reduction
from compress.stage.device import best_device, check_compiler, check_device
from compress.store.disk import sync_file, writable, write_atomically
from compress.store.document import OtherSchemaError, load

CARD = "README.md"
NOTED = ("threads", "precision", "device")


@dataclass(frozen=True)
class Asked:
    """What of an execution somebody asked for; None leaves it to an earlier run, or to what is best here.

    Attributes:
        threads: torch's intra-op threads.
        device: as torch names it.
        precision: of training's forward passes.
        reproduce: whether the same bits are asked for; every command says so anew.
        group: the processes that share training.
        reduction: how they add gradients.
        batch_size: of a pass in training.
        compile: whether what is trained goes through torch's compiler.
    """

    threads: int | None = None
    device: str | None = None
    precision: Precision | None = None
    reproduce: bool = False
    group: Group = field(default_factory=Group)
    reduction: Reduction | None = None
    batch_size: BatchSize | None = None
    compile: bool | None = None


def decide_execution(run_dir: Path, asked: Asked, *, say: Callable[[str], object]) -> Execution:
    """Return threads, precision and device, decided once per run directory and kept on resume. Nothing is written.

    The best device is taken: the accelerator that torch finds, else the CPU; also where an earlier run had one that is
    not here. So is the faster precision: bfloat16 autocast where the hardware multiplies it, float32 elsewhere. A noted
    precision is kept on any device, because it is in the keys.

    Args:
        run_dir: of the recipe on its data.
        asked: goes before what is noted.
        say: told that another device than the noted one is taken.

    Raises:
        ArtifactError: when the note of an earlier run is damaged.
        EnvironmentFault: when the device that is asked for is not there, or the compiler lacks something.
        UsageError: when the device cannot compute in the precision.
    """
    noted = _read_execution(run_dir / "execution.json")
    device = check_device(asked.device) if asked.device else _noted_or_best(noted, say=say)
    precision = asked.precision or (noted.precision if noted else _fastest(device))
    if precision == "tf32" and torch.device(device).type != "cuda":
        raise UsageError(
            "only CUDA devices compute in tf32",
            expected="float32 or bfloat16",
            got=precision,
            where=device,
            hint="say --precision float32; what was made in tf32 is then made anew",
        )
    threads, beside = asked.threads or (noted.threads if noted else count_allowed_cores()), asked.group.local_size
    if beside > 1:
        _refuse_few(device, beside)
        threads = asked.threads or min(threads, max(1, count_allowed_cores() // beside))
    reduction = asked.reduction or ("exact" if torch.device(device).type == "cpu" else "fast")
    if asked.compile:
        check_compiler(device)
    return Execution(
        threads,
        precision,
        device,
        asked.reproduce,
        asked.group.size,
        reduction,
        asked.batch_size or "asked",
        bool(asked.compile),
    )


def _refuse_few(device: str, processes: int) -> None:
    """Refuse more processes on this machine than it has accelerators; a CPU, and a device without number, is shared.

    Raises:
        EnvironmentFault: when there are too few.
    """
    first = torch.device(device)
    if first.index is None:
        return
    there = torch.get_device_module(first).device_count() - first.index
    if there < processes:
        raise EnvironmentFault(
            "every process needs a device of its own",
            expected=f"{processes} from {device} on",
            got=there,
            where="--processes",
            hint="start as many processes as there are devices, or say --device cpu",
        )


def _noted_or_best(noted: Execution | None, *, say: Callable[[str], object]) -> str:
    if noted is None:
        return best_device()
    try:
        return check_device(noted.device)
    except EnvironmentFault:
        say(f"this was begun on {noted.device}, which is not here: it goes on on {best_device()}, in {noted.precision}")
        return best_device()


def _fastest(device: str) -> Precision:
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    fast = kind == "cpu" and {"avx512_bf16", "amx_bf16", "bf16"} & set(describe(seed=0).cpu_flags)
    return "bfloat16" if fast else "float32"


def settle_execution(run_dir: Path, asked: Asked, *, say: Callable[[str], object]) -> Execution:
    """Return what ``decide_execution`` does, noted for the next run; only under the run's lock.

    A noted device that is not here stays noted, for where it is.

    Raises:
        ArtifactError: when the note of an earlier run is damaged.
        EnvironmentFault: when the directory cannot be written, or the device that is asked for is not there.
        UsageError: when the device cannot compute in the precision.
    """
    path = run_dir / "execution.json"
    execution, noted = decide_execution(run_dir, asked, say=say), _read_execution(path)
    device = execution.device if asked.device or noted is None else noted.device
    threads = execution.threads if asked.threads or noted is None else noted.threads
    kept = Execution(threads, execution.precision, device)
    if noted != kept:
        with writable(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({name: value for name, value in asdict(kept).items() if name in NOTED}))
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


def entitle(recipe: Recipe, runs: Path, name: str, discretion: Discretion) -> str:
    """Return what sets a recipe apart from others of its name in a store, and the name: MLflow's list cuts the end.

    Args:
        recipe: about to be run.
        runs: the store's ``runs``.
        name: of its own run directory.
        discretion: tells paths, as in the recipes that lie there.
    """
    told = [parameters(recipe.publish(discretion))]
    for path in sorted(runs.glob(f"{recipe.name}-*/recipe.yaml")):
        if path.parent.name != name:
            with suppress(OSError, ValueError, yaml.YAMLError):  # a damaged one sets nothing apart
                values = yaml.safe_load(path.read_text(encoding="utf-8"))
                told += [parameters(values)] if isinstance(values, dict) else []
    return f"{differences(told)[0]} {recipe.name}".lstrip()


def place_bundle(source: Path, run_dir: Path, *, manifest: Manifest, card: str) -> Path:
    """Copy a stored bundle to ``bundle``, taking the earlier one's place once it is whole; only under the run's lock.

    Args:
        source: the stored bundle.
        run_dir: where ``bundle`` is.
        manifest: of the stored bundle, with the file that is primary here.
        card: what is said of it, as Markdown; one more of the bundle's files.

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
        if path.name not in ("manifest.json", NAME):  # the store's own, and what is written here
            _copy(path, draft / path.name)
    content = card.encode()
    written = {CARD: Content(hashlib.sha256(content).hexdigest(), len(content))}
    (draft / CARD).write_bytes(content)
    replace(manifest, files=manifest.files | written).write(draft)
    for name in (CARD, NAME):
        sync_file(draft / name)
    if bundle.exists():
        bundle.rename(earlier)
    draft.rename(bundle)
    shutil.rmtree(earlier, ignore_errors=True)
    return bundle


def _copy(source: Path, target: Path) -> None:
    """Copy a file's bytes and wait until they are on the disk."""
    shutil.copyfile(source, target)
    sync_file(target)


def _read_execution(path: Path) -> Execution | None:
    if not path.exists():
        return None
    try:
        execution = Execution(**json.loads(path.read_text(encoding="utf-8")))
        fits = type(execution.threads) is int and isinstance(execution.device, str)
        if not fits or execution.precision not in get_args(Precision):
            raise ValueError(f"{execution}")
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            "the note of an earlier run is damaged",
            expected="threads, precision and device",
            got=error,
            where=path,
            hint="delete it: all are decided anew, and stages that they made otherwise run again",
        ) from error
    return execution
