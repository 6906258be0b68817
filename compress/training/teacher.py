"""Teacher outputs, computed once per (teacher, samples, view) and reused by every epoch, stage and run."""

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data import Samples
from compress.errors import ModelError, StageError
from compress.loss import Tap
from compress.loss.guided import Reading
from compress.loss.taps import capture_taps
from compress.models import load_model
from compress.stage import Host, Member, Work
from compress.stage.group import unshared
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.tasks import Batch, Task, View
from compress.tasks.batch import move, unit_rows
from compress.training import packing
from compress.training.inference import BATCH, forward_all
from compress.training.numerics import place_batch
from compress.training.packing import Packed
from compress.training.teaching import Taught, live_teacher

Shape = tuple[int, ...]
VERSION = 1  # raised by hand when the same inputs come to mean other outputs
SHARD = 4096  # samples per committed directory, a multiple of the batch that they are computed in
SMALL = 2**26  # bytes; outputs of a view that are no more are read into memory
VECTOR = 4096  # numbers; a tap with no more of them is stored whatever the limit
CHECKED_SHARE = 0.01
MAX_CHECKED = 256
# Other batches, and so other kernels, may round differently: the largest and the mean error of bfloat16 activations and
# of float32 ones, over the largest value.
TOLERANCE = {"bfloat16": (0.05, 0.005), "float32": (1e-3, 1e-4), "tf32": (0.01, 1e-3)}


@dataclass(frozen=True)
class Cached:
    """Outputs of one teacher on one view of a role: memory-mapped, one part per shard, or one part in memory.

    Attributes:
        logits: float32 [units, C] each; none where they are packed.
        features: tap to its tensors [n, ...]; bfloat16 is stored as its int16 bits.
        units: how many rows of logits each sample has, int64 [N]; None where each has one.
        packed: the logits, where they are stored in less.
    """

    logits: tuple[NDArray[np.float32], ...]
    features: Mapping[Tap, tuple[NDArray[Any], ...]]
    units: Tensor | None
    packed: Packed | None = None

    def of(self, index: Tensor) -> tuple[Tensor, dict[Tap, Tensor]]:
        """Return logits [units, C] and features [B, ...] of some samples."""
        return self.logits_of(index), {tap: _rows(parts, index) for tap, parts in self.features.items()}

    def logits_of(self, index: Tensor) -> Tensor:
        """Return the logits of some samples' units, float32 [units, C]."""
        rows = self.rows(index)
        return _rows(self.logits, rows) if self.packed is None else self.packed.of(rows)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows of some samples' units."""
        return index if self.units is None else unit_rows(self.units, index)


def _rows(parts: Sequence[NDArray[Any]], index: Tensor) -> Tensor:
    """Return some rows of arrays that follow each other, float32 or bfloat16 [B, ...]."""
    found = torch.from_numpy(parts[0][index.numpy()] if len(parts) == 1 else _gather(parts, index.numpy()))
    return found.view(torch.bfloat16) if found.dtype == torch.int16 else found


def _gather(parts: Sequence[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
    ends = np.cumsum([len(part) for part in parts])
    number_of = np.searchsorted(ends, rows, side="right")
    gathered = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
    for number in np.unique(number_of):
        here = number_of == number
        gathered[here] = parts[number][rows[here] - (ends[number] - len(parts[number]))]
    return gathered


@dataclass(frozen=True)
class TeacherOutputs:
    """The teachers' outputs on one role: logits and the cached taps from the store, the others from a live pass.

    Attributes:
        teachers: the first one's features are read, all logits are averaged.
        host: execution.
        seed: of the pipeline; draws what is checked.
        samples: the role.
        cached: view to one entry per teacher.
        weights: of the teachers, summing to 1.
        taps: what is read of the first teacher.
        live: the first teacher, when some taps are computed anew for each batch; None when all are cached.
        rereads: whether the teacher reads samples otherwise than the student, so that a batch is made anew for it.
        columns: of each teacher, which of its logits are of the student's outputs; None where all are.
    """

    teachers: tuple[Member, ...]
    host: Host
    seed: int
    samples: Samples
    cached: Mapping[View | None, tuple[Cached, ...]]
    weights: tuple[float, ...]
    taps: tuple[Tap, ...] = ()
    live: nn.Module | None = field(default=None, repr=False)
    rereads: bool = False
    columns: tuple[Tensor | None, ...] = (None,)

    def logits(self, view: View | None) -> Tensor:
        """Return the first teacher's logits on a view, float32 [units, C], in memory."""
        return torch.from_numpy(np.concatenate(self.cached[view][0].logits))

    @property
    def running(self) -> tuple[nn.Module, ...]:
        """What is run on each batch, to be `placed` while it is asked."""
        return () if self.live is None else (self.live,)

    @cached_property
    def _modules(self) -> list[nn.Module]:
        """The teachers as modules, for live checks."""
        return [load_model(member.artifact.path, code=self.host.code) for member in self.teachers]

    def __call__(self, batch: Batch) -> Taught:
        """Return what the teachers say of a batch of this role, where the batch's inputs are."""
        first, *others = self.cached[batch.view]
        logits, features = first.of(batch.index)
        device = batch.inputs[0].device if batch.inputs else logits.device
        if self.live is not None:
            missing = [tap for tap in self.taps if tap not in features]
            task = self.teachers[0].task
            if self.rereads:
                batch = task.batch(self.samples, batch.index, view=batch.view)
            features |= live_features(self.live, task, self.host, place_batch(batch, self.host.device), missing)
        every = (logits, *(other.logits_of(batch.index) for other in others))
        return Taught(
            tuple(move(_narrow(value, own), device) for value, own in zip(every, self.columns, strict=True)),
            self.weights,
            {tap: move(value, device) for tap, value in features.items()},
        )

    def check(self, epoch: int) -> None:
        """Compute a hundredth of the samples anew, at most MAX_CHECKED, and compare with what is stored.

        All teachers and all stored taps, on samples drawn by a random stream of its own.

        Raises:
            StageError: when they differ by more than the precision's rounding.
        """
        generator = torch.Generator().manual_seed(7_919 + epoch + 1_000_003 * self.seed)
        index = torch.randperm(len(self.samples), generator=generator)[: num_checked(len(self.samples))].sort().values
        view = list(self.cached)[epoch % len(self.cached)]
        for member, module, cached in zip(self.teachers, self._modules, self.cached[view], strict=True):
            logits, features = cached.of(index)
            now, now_features = forward_all(
                module,
                member.task,
                self.host,
                self.samples,
                index=index,
                view=view,
                taps=list(features),
            )
            if cached.packed is not None:
                now, logits = cached.packed.compare(now, cached.rows(index))
            self._compare("logits", now, logits, where=f"epoch {epoch}, view {view}", half=cached.packed is not None)
            for tap, kept in features.items():
                self._compare(f"tap {tap}", now_features[tap], kept, where=f"epoch {epoch}, view {view}")

    def _compare(self, what: str, now: Tensor, kept: Tensor, *, where: str, half: bool = False) -> None:
        precision = self.host.execution.precision
        largest, mean = max(TOLERANCE[precision], TOLERANCE["tf32"]) if half else TOLERANCE[precision]  # as many bits
        gap, scale = (now.float() - kept.float()).abs(), max(1.0, float(kept.abs().max()))
        if not (float(gap.max()) <= largest * scale and float(gap.mean()) <= mean * scale):
            raise StageError(
                f"the stored {what} are not what the teacher says now",
                expected=f"within {largest * scale:.3g}, {mean * scale:.3g} on average, on {len(kept)} samples",
                got=f"{float(gap.max()):.3g}, {float(gap.mean()):.3g} on average",
                where=where,
                hint="delete the store's outputs and run again; if it comes back, the model's output is not a function "
                "of its input",
            )


@dataclass(frozen=True)
class LiveTeachers:
    """The teachers, run anew on each batch of a role: for views that are taken once.

    Attributes:
        teachers: the first one's features are read, all logits are averaged.
        running: their modules, to be `placed` and in evaluation mode while they are asked.
        host: execution.
        samples: the role.
        task: by which the student reads samples; a teacher that reads them otherwise has a batch made anew for it.
        taps: what is read of the first teacher.
        columns: of each teacher, which of its logits are of the student's outputs; None where all are.
    """

    teachers: tuple[Member, ...]
    running: tuple[nn.Module, ...]
    host: Host
    samples: Samples
    task: Task
    taps: tuple[Tap, ...]
    columns: tuple[Tensor | None, ...]

    def __call__(self, batch: Batch) -> Taught:
        """Return what the teachers say of a batch of this role, where the batch's inputs are."""
        logits, features = list[Tensor](), dict[Tap, Tensor]()
        for member, module, own in zip(self.teachers, self.running, self.columns, strict=True):
            read = batch
            if member.task is not self.task:
                read = place_batch(member.task.batch(self.samples, batch.index, view=batch.view), self.host.device)
            taps = () if logits else self.taps
            said = live_teacher(module, member.task, self.host, taps)(read)
            logits += [_narrow(value, own) for value in said.logits]
            features |= said.features
        total = sum(member.weight for member in self.teachers)
        return Taught(tuple(logits), tuple(member.weight / total for member in self.teachers), features)

    def check(self, epoch: int) -> None:
        """Nothing is stored that could differ."""


def live_teachers(work: Work, host: Host, samples: Samples, *, taps: tuple[Tap, ...]) -> LiveTeachers:
    """Return the work's teachers as they are run on each batch of a role.

    Raises:
        StageError: when there is no teacher.
        ModelError: when a teacher's outputs do not match the task's classes, or are not finite.
    """
    first, modules = work.teacher, []
    for member in (first, *work.teachers[1:]):
        module = load_model(member.artifact.path, code=host.code)
        tried = forward_all(module.eval(), member.task, host, samples, index=torch.arange(min(2, len(samples))))
        _check(tried[0], classes=len(member.task.classes))
        modules.append(module)
    columns = _columns(work, samples)
    return LiveTeachers(work.teachers, tuple(modules), host, samples, work.task, taps, columns)


def _columns(work: Work, samples: Samples) -> tuple[Tensor | None, ...]:
    """Return of each teacher which of its logits are of the student's outputs.

    Raises:
        StageError: when a teacher with more outputs splits the samples otherwise.
        DataError: when it has not all of them.
    """
    found: list[Tensor | None] = []
    for member in work.teachers:
        columns = work.task.columns_of(member.task)
        if columns is not None and not np.array_equal(work.task.units(samples), member.task.units(samples)):
            raise StageError(
                "teacher and student split what is to be written otherwise, and cannot be compared symbol by symbol",
                expected="texts of pieces that the student has",
                hint="learn what the teacher writes from labels alone (loss: sequence), or prune the vocabulary later",
            )
        found.append(None if columns is None else torch.from_numpy(columns))
    return tuple(found)


def _narrow(logits: Tensor, columns: Tensor | None) -> Tensor:
    return logits if columns is None else logits[:, columns.to(logits.device)]


def num_checked(samples: int) -> int:
    """Return how many of a role's samples are computed anew in each epoch."""
    return min(math.ceil(CHECKED_SHARE * samples), MAX_CHECKED)


def teacher_outputs(
    work: Work,
    host: Host,
    samples: Samples,
    *,
    views: Sequence[View | None],
    taps: Mapping[Tap, Shape] | None = None,
    limit_bytes: float = 0.0,
    pack_for: Sequence[Reading] | None = None,
) -> TeacherOutputs:
    """Return the teachers' outputs on a role, from the store where they are there already.

    A teacher runs in evaluation mode without gradients, in the pipeline's precision, in a fixed order and batch size.
    Each view is committed in shards, so an interrupted pass continues; processes that share a training compute some
    each. Vectors are always cached; other taps while all of them together stay below the limit and samples have one
    size, else they come from a live pass of each batch.

    Args:
        work: with the teachers.
        host: store, execution.
        samples: the role.
        views: which views of it.
        taps: what is read of the first teacher besides its logits, and the shapes of one sample.
        limit_bytes: of the cached taps that are no vectors, all views together.
        pack_for: store logits in less, for terms that read them so; see `compress.training.packing`. What that costs
            is said. None stores them whole.

    Raises:
        StageError: when there is no teacher.
        ModelError: when a teacher's outputs do not match the task's classes, are not finite, or are numbers that half
            precision cannot hold.
        EnvironmentFault: when another process of the group has ended, or the group has no store in common.
    """
    first, taps = work.teacher, taps or {}
    limit_bytes = limit_bytes if first.task.fixed_size else 0.0
    stored = choose_taps(taps, samples=len(samples) * len(views), limit_bytes=limit_bytes)
    kept_of = [
        None if pack_for is None else _choose_kept(member, samples, views[0], host, readings=pack_for)
        for member in work.teachers
    ]
    count = -(-len(samples) // SHARD)
    wanted = {
        view: [
            [Part(member, view, stored if member is first else (), number, count, kept) for number in range(count)]
            for member, kept in zip(work.teachers, kept_of, strict=True)
        ]
        for view in views
    }
    every = [part for members in wanted.values() for parts in members for part in parts]
    found = _make_missing(every, samples, host)
    cached = {
        view: tuple(_read({part: found[part] for part in parts}, samples) for parts in members)
        for view, members in wanted.items()
    }
    total = sum(member.weight for member in work.teachers)
    return TeacherOutputs(
        teachers=work.teachers,
        host=host,
        seed=work.seed,
        samples=samples,
        cached=cached,
        weights=tuple(member.weight / total for member in work.teachers),
        taps=tuple(taps),
        live=load_model(first.artifact.path, code=host.code) if len(stored) < len(taps) else None,
        rereads=first.task is not work.task,
        columns=_columns(work, samples),
    )


def choose_taps(taps: Mapping[Tap, Shape], *, samples: int, limit_bytes: float) -> tuple[Tap, ...]:
    """Return the taps that are worth storing: short vectors always, others while all of them stay below the limit.

    Args:
        taps: with the shape of one sample.
        samples: in all views together.
        limit_bytes: of the stored taps that are no short vectors, at four bytes a number.
    """
    stored: list[Tap] = []
    used = 0
    for tap, shape in taps.items():
        short = len(shape) == 1 and shape[0] <= VECTOR
        size = 0 if short else 4 * samples * math.prod(shape)
        if short or used + size <= limit_bytes:
            stored.append(tap)
            used += size
    return tuple(stored)


def live_features(module: nn.Module, task: Task, host: Host, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    """Return tapped tensors of a teacher on a batch, in evaluation mode without gradients."""
    with capture_taps(module, taps) as capture, torch.no_grad(), host.autocast():
        task.forward(module, batch)
        return capture.take()


@dataclass(frozen=True, eq=False)
class Part:
    """One shard of one teacher's outputs on one view of a role: what is computed, or found in the store, at a time."""

    teacher: Member
    view: View | None
    taps: tuple[Tap, ...]
    number: int
    of: int
    kept: int | None = None
    """Classes whose logits are stored, packed; None stores all of them as they are."""

    def index(self, samples: Samples) -> Tensor:
        """Return its samples."""
        start = self.number * SHARD
        return torch.arange(start, min(start + SHARD, len(samples)))

    def inputs(self, samples: Samples, host: Host) -> dict[str, Any]:
        """Return all that decides it, as JSON values."""
        return {
            "outputs": ["logits", *map(str, self.taps)],
            "version": VERSION,
            "teacher": self.teacher.artifact.digest,
            "samples": samples.digest,
            "task": self.teacher.task.digest,
            "view": None if self.view is None else self.view.number,
            "mixup": 0.0 if self.view is None else self.view.mixup,
            "shard": [self.number, SHARD, BATCH],
            "precision": host.execution.precision,
            **host.execution.in_keys,
            "torch": importlib.metadata.version("torch"),
            **({} if self.kept is None else {"packed": [packing.VERSION, self.kept]}),
        }

    @property
    def title(self) -> str:
        """Its name in progress."""
        name = "teacher outputs" if self.view is None else f"teacher outputs, view {self.view}"
        return name if self.of == 1 else f"{name}, part {self.number + 1} of {self.of}"


def _make_missing(parts: Sequence[Part], samples: Samples, host: Host) -> dict[Part, Artifact]:
    """Return the parts from the store, after those that it lacks were computed: by each process of the group some.

    The first process says which are missing; each commits what it has computed.

    Raises:
        EnvironmentFault: when one does not see what another has committed.
    """
    group, found = host.group, dict[Part, Artifact | None]()
    if group.writes:
        found = {part: host.store.find(hash_values(part.inputs(samples, host))) for part in parts}
    missing = group.tell([number for number, part in enumerate(parts) if found.get(part) is None])
    own = [parts[number] for number in missing[group.rank :: group.size]]
    modules: dict[Path, nn.Module] = {}
    for part in own:
        path = part.teacher.artifact.path
        if path not in modules:
            modules[path] = load_model(path, code=host.code)
        computed = forward_all(
            modules[path],
            part.teacher.task,
            host,
            samples,
            index=part.index(samples),
            view=part.view,
            taps=part.taps,
            name=part.title,
        )
        _check(computed[0], classes=len(part.teacher.task.classes))
        if part.kept is not None and part.teacher.task.problem == "regression":
            _refuse_beyond_half(computed[0])
        found[part] = _commit(host, part.inputs(samples, host), *computed, kept=part.kept)
    group.total(0)  # all are there
    return {part: found.get(part) or _find_of_others(part.inputs(samples, host), host) for part in parts}


def _find_of_others(inputs: dict[str, Any], host: Host) -> Artifact:
    """Return what another process of the group has committed."""
    found = host.store.find(hash_values(inputs))
    if found is None:
        raise unshared(host.store.root)
    return found


def _read(parts: Mapping[Part, Artifact], samples: Samples) -> Cached:
    """Return one teacher's outputs on one view from their shards, in their order."""
    first = next(iter(parts))
    paths = [found.path for found in parts.values()]
    units = torch.from_numpy(first.teacher.task.units(samples))
    whole = [] if first.kept is not None else [np.load(path / "logits.npy", mmap_mode="r") for path in paths]
    return Cached(
        _in_memory(whole) if whole else (),
        {
            tap: _in_memory([np.load(path / f"feature{position}.npy", mmap_mode="r") for path in paths])
            for position, tap in enumerate(first.taps)
        },
        None if bool((units == 1).all()) else units,
        None if whole else Packed.load(paths, _gather, classes=len(first.teacher.task.classes)),
    )


def _in_memory(parts: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Return one array where it is small, because each step gathers from all shards; else the parts as they are."""
    return tuple(parts) if sum(part.nbytes for part in parts) > SMALL else (np.concatenate(parts),)


def _choose_kept(
    teacher: Member, samples: Samples, view: View | None, host: Host, *, readings: Sequence[Reading]
) -> int:
    """Return how many classes of a teacher are stored, as measured on some samples, and say what that costs."""
    told = None
    if host.group.writes:
        told, words = measure_packing(teacher, samples, view, host, readings=readings)
        host.reporter.say(words)
    return host.group.tell(told)


def measure_packing(
    teacher: Member, samples: Samples, view: View | None, host: Host, *, readings: Sequence[Reading]
) -> tuple[int, str]:
    """Return how many classes of a teacher are worth storing, and what that costs, in words, on some of the samples.

    Raises:
        ModelError: when its outputs do not match the data, or are not finite.
    """
    index = torch.linspace(0, len(samples) - 1, min(packing.PROBED, len(samples))).round().long().unique()
    module = load_model(teacher.artifact.path, code=host.code)
    logits, _ = forward_all(module, teacher.task, host, samples, index=index, view=view)
    _check(logits, classes=len(teacher.task.classes))
    probabilities = teacher.task.problem == "single-label"
    fidelity = packing.measure(logits, readings=readings, probabilities=probabilities)
    return fidelity.kept, f"teacher outputs are stored in less: {fidelity}, on {len(index)} samples"


def _commit(
    host: Host, inputs: dict[str, Any], logits: Tensor, features: Mapping[Tap, Tensor], *, kept: int | None
) -> Artifact:
    def write(directory: Path) -> dict[str, Any]:
        if kept is None:
            np.save(directory / "logits.npy", logits.numpy())
        else:
            packing.save(directory, logits, kept=kept)
        for position, value in enumerate(features.values()):
            bits = value.contiguous().view(torch.int16) if value.dtype == torch.bfloat16 else value.float()
            np.save(directory / f"feature{position}.npy", bits.numpy())
        return {"samples": len(logits)}

    return host.store.commit(inputs, kind="outputs", rounding=host.execution.rounding, write=write)


def _check(logits: Tensor, *, classes: int) -> None:
    if logits.dim() != 2 or logits.shape[1] != classes:
        raise ModelError(
            "the teacher's outputs do not match the data",
            expected=f"logits [units, {classes}]",
            got=list(logits.shape),
            where="teacher",
            hint="give a teacher trained on the same classes",
        )
    if not bool(logits.isfinite().all()):
        raise ModelError("the teacher's outputs are not finite", got="NaN or infinity", where="teacher")


def _refuse_beyond_half(numbers: Tensor) -> None:
    """Refuse numbers that half precision cannot hold; so large a logit is certain of its class, and stays so."""
    if (largest := float(numbers.abs().max())) > packing.LARGEST:
        raise ModelError(
            "the teacher's outputs are too large for half precision",
            expected=f"at most {packing.LARGEST:,.0f}",
            got=f"{largest:,.0f}",
            where="teacher",
            hint="leave `outputs: packed` out",
        )
