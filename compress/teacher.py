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

from compress.artifact import Artifact, hash_values
from compress.data import Samples
from compress.errors import ModelError, StageError
from compress.loss import GuidedLoss, Tap, bind
from compress.loss.taps import captured
from compress.models import load_model
from compress.stage import Context, Precision
from compress.tasks import Batch
from compress.training import Fit, Optimization, Taught, fit, forward_all

Shape = tuple[int, ...]
SHARD = 8192  # samples per committed directory, a multiple of the batch that they are computed in
CHECKED_SHARE = 0.01
MAX_CHECKED = 256
# Other batches, and so other kernels, may round differently: the errors of bfloat16 activations, and of float32 ones.
TOLERANCE = {"bfloat16": 0.05, "float32": 1e-3}


@dataclass(frozen=True)
class Cached:
    """Outputs of one teacher on one view of a role.

    Attributes:
        logits: float32 [N, C].
        features: tap to its tensors, one memory-mapped part per shard; bfloat16 is stored as its int16 bits.
    """

    logits: Tensor
    features: Mapping[Tap, tuple[NDArray[Any], ...]]

    def feature(self, tap: Tap, index: Tensor) -> Tensor:
        """Return a tapped tensor of some samples, bfloat16 or float32 [B, ...]."""
        rows, parts = index.numpy(), self.features[tap]
        gathered = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
        for number, part in enumerate(parts):
            here = rows // SHARD == number
            gathered[here] = part[rows[here] - number * SHARD]
        found = torch.from_numpy(gathered)
        return found.view(torch.bfloat16) if found.dtype == torch.int16 else found


@dataclass(frozen=True)
class TeacherOutputs:
    """The teachers' outputs on one role: logits and the cached taps from the store, the others from a live pass.

    Attributes:
        context: task and execution.
        samples: the role.
        mixup: share of mixed samples in a view.
        cached: view to one entry per teacher.
        weights: of the teachers, summing to 1.
        taps: what is read of the first teacher.
        live: the first teacher, when some taps are computed anew for each batch; None when all are cached.
    """

    context: Context
    samples: Samples
    mixup: float
    cached: Mapping[int | None, tuple[Cached, ...]]
    weights: tuple[float, ...]
    taps: tuple[Tap, ...] = ()
    live: nn.Module | None = field(default=None, repr=False)

    @property
    def logits(self) -> dict[int | None, Tensor]:
        """The first teacher's logits, view to float32 [N, C]."""
        return {view: outputs[0].logits for view, outputs in self.cached.items()}

    @cached_property
    def _teacher(self) -> nn.Module:
        """The first teacher as a module, for live checks."""
        assert self.context.teacher is not None
        return self.live or load_model(self.context.teacher.path, code=self.context.code)

    def __call__(self, batch: Batch) -> Taught:
        """Return what the teachers say of a batch of this role."""
        outputs = self.cached[batch.view]
        logits = tuple(teacher.logits[batch.index] for teacher in outputs)
        features = {tap: outputs[0].feature(tap, batch.index) for tap in self.taps if tap in outputs[0].features}
        if self.live is not None:
            features |= live_features(self.live, self.context, batch, [tap for tap in self.taps if tap not in features])
        return Taught(logits, self.weights, features)

    def check(self, epoch: int) -> None:
        """Compute a hundredth of the samples anew, with a random stream of its own, and compare with the cache.

        Raises:
            StageError: when they differ by more than the precision's rounding.
        """
        generator = torch.Generator().manual_seed(7_919 + epoch)
        count = min(max(1, math.ceil(CHECKED_SHARE * len(self.samples))), MAX_CHECKED)
        index = torch.randperm(len(self.samples), generator=generator)[:count].sort().values
        views = list(self.cached)
        view = views[epoch % len(views)]
        logits, _ = forward_all(self._teacher, self.context, self.samples, index=index, view=view, mixup=self.mixup)
        kept = self.cached[view][0].logits[index]
        difference = float((logits - kept).abs().max())
        allowed = TOLERANCE[self.context.execution.precision] * max(1.0, float(kept.abs().max()))
        if not difference <= allowed:
            raise StageError(
                "the stored teacher outputs are not what the teacher says now",
                expected=f"logits within {allowed:.3g} on {count} samples",
                got=f"{difference:.3g}",
                where=f"epoch {epoch}, view {view}",
                hint="delete the store's outputs and run again; if it comes back, the model's output is not a function "
                "of its input",
            )


def teacher_outputs(
    context: Context,
    samples: Samples,
    *,
    views: Sequence[int | None],
    taps: Mapping[Tap, Shape] | None = None,
    mixup: float = 0.0,
    limit_bytes: float = 0.0,
) -> TeacherOutputs:
    """Return the teachers' outputs on a role, from the store where they are there already.

    A teacher runs in evaluation mode without gradients, in the pipeline's precision, in a fixed order and batch size.
    Each view is committed in shards, so an interrupted pass continues. Vectors are always cached; other taps while all
    of them together stay below the limit, else they come from a live pass of each batch.

    Args:
        context: teacher, task, store.
        samples: the role.
        views: which views of it.
        taps: what is read of the first teacher besides its logits, and the shapes of one sample.
        mixup: share of mixed samples in each view.
        limit_bytes: of the cached taps that are no vectors, all views together.

    Raises:
        StageError: when the context has no teacher.
        ModelError: when a teacher's outputs do not match the task's classes, or are not finite.
    """
    if context.teacher is None:
        raise StageError(
            "the guided loss needs a teacher", hint="name a teacher, or give the loss no term that reads one"
        )
    taps = taps or {}
    stored = stored_taps(
        taps, samples=len(samples) * len(views), precision=context.execution.precision, limit_bytes=limit_bytes
    )
    teachers = (context.teacher, *(member.artifact for member in context.ensemble))
    weights = (1.0, *(member.weight for member in context.ensemble))
    cached = {
        view: tuple(
            _cached(context, teacher, samples, view=view, mixup=mixup, taps=stored if number == 0 else ())
            for number, teacher in enumerate(teachers)
        )
        for view in views
    }
    return TeacherOutputs(
        context=context,
        samples=samples,
        mixup=mixup,
        cached=cached,
        weights=tuple(weight / sum(weights) for weight in weights),
        taps=tuple(taps),
        live=load_model(context.teacher.path, code=context.code) if len(stored) < len(taps) else None,
    )


def fit_guided(
    module: nn.Module,
    context: Context,
    *,
    loss: GuidedLoss,
    optimization: Optimization,
    seed: int,
    work: Path,
    name: str,
    cache_limit_gb: float = 4.0,
) -> Fit:
    """Train a module in place on the guided loss against the context's teacher; see `fit`.

    Teacher and student see the identical view of every sample, drawn from the task's fixed views.

    Raises:
        StageError: when the loss is no longer finite, there is no teacher, or stored outputs are not the teacher's.
        ModelError: when taps cannot be paired, or the teacher's outputs do not match the task.
    """
    views = context.task.views(mixup=loss.mixup)
    teacher = None
    if loss.needs_teacher and context.teacher is not None:
        teacher = load_model(context.teacher.path, code=context.code)
    example = context.task.batch(context.data.select, torch.arange(2)).inputs
    bound = bind(loss, module, teacher, example, seed=seed)
    taught = None
    if loss.needs_teacher:
        taught = teacher_outputs(
            context,
            context.data.train,
            views=views,
            taps=bound.teacher_shapes,
            mixup=loss.mixup,
            limit_bytes=cache_limit_gb * 1e9,
        )
    return fit(
        module,
        context,
        loss=bound,
        teacher=taught,
        optimization=optimization,
        seed=seed,
        work=work,
        name=name,
        views=lambda _epoch, generator: views[int(torch.randint(len(views), (1,), generator=generator))],
        on_epoch=(lambda _epoch: None) if taught is None else taught.check,
    )


def stored_taps(
    taps: Mapping[Tap, Shape], *, samples: int, precision: Precision, limit_bytes: float
) -> tuple[Tap, ...]:
    """Return the taps that are worth storing: vectors always, others while all of them stay below the limit.

    Args:
        taps: with the shape of one sample.
        samples: in all views together.
        precision: of the teacher's activations.
        limit_bytes: of the stored taps that are no vectors.
    """
    stored: list[Tap] = []
    used = 0
    for tap, shape in taps.items():
        size = samples * math.prod(shape) * (2 if precision == "bfloat16" else 4) if len(shape) > 1 else 0
        if used + size <= limit_bytes or not size:
            stored.append(tap)
            used += size
    return tuple(stored)


def live_features(module: nn.Module, context: Context, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    """Return tapped tensors of a teacher on a batch, in evaluation mode without gradients."""
    with captured(module, taps) as capture, torch.no_grad(), context.autocast():
        context.task.forward(module, batch)
        return capture.take()


def _cached(
    context: Context, teacher: Artifact, samples: Samples, *, view: int | None, mixup: float, taps: Sequence[Tap]
) -> Cached:
    """Return one teacher's outputs on one view; each shard is found or computed by itself."""
    module: nn.Module | None = None
    logits: list[Tensor] = []
    features: dict[Tap, list[NDArray[Any]]] = {tap: [] for tap in taps}
    starts = range(0, len(samples), SHARD)
    for number, start in enumerate(starts):
        index = torch.arange(start, min(start + SHARD, len(samples)))
        inputs = {
            "outputs": ["logits", *map(str, taps)],
            "teacher": teacher.digest,
            "samples": samples.digest,
            "task": context.task.digest,
            "view": view,
            "mixup": mixup,
            "shard": [number, SHARD],
            "threads": context.execution.threads,
            "precision": context.execution.precision,
            "torch": importlib.metadata.version("torch"),
        }
        found = context.store.find(hash_values(inputs))
        if found is None:
            module = module or load_model(teacher.path, code=context.code)
            name = "teacher outputs" if view is None else f"teacher outputs, view {view}"
            title = name if len(starts) == 1 else f"{name}, part {number + 1} of {len(starts)}"
            computed = forward_all(module, context, samples, index=index, view=view, mixup=mixup, taps=taps, name=title)
            found = _commit(context, inputs, *computed)
        logits.append(torch.from_numpy(np.load(found.path / "logits.npy", mmap_mode="c")))
        for position, tap in enumerate(taps):
            features[tap].append(np.load(found.path / f"feature{position}.npy", mmap_mode="r"))
    return Cached(torch.cat(logits), {tap: tuple(parts) for tap, parts in features.items()})


def _commit(context: Context, inputs: dict[str, Any], logits: Tensor, features: Mapping[Tap, Tensor]) -> Artifact:
    _check(logits, context)

    def write(directory: Path) -> dict[str, Any]:
        np.save(directory / "logits.npy", logits.numpy())
        for position, value in enumerate(features.values()):
            bits = value.contiguous().view(torch.int16) if value.dtype == torch.bfloat16 else value.float()
            np.save(directory / f"feature{position}.npy", bits.numpy())
        return {"samples": len(logits)}

    return context.store.commit(inputs, kind="outputs", write=write)


def _check(logits: Tensor, context: Context) -> None:
    classes = len(context.task.classes)
    if logits.dim() != 2 or logits.shape[1] != classes:
        raise ModelError(
            "the teacher's outputs do not match the data",
            expected=f"logits [samples, {classes}]",
            got=list(logits.shape),
            where="teacher",
            hint="give a teacher trained on the same classes",
        )
    if not bool(logits.isfinite().all()):
        raise ModelError("the teacher's outputs are not finite", got="NaN or infinity", where="teacher")
