"""fit(): the one training loop, for every stage that trains."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.data import Samples
from compress.errors import DataError, StageError
from compress.loss import BoundLoss, GuidedLoss, LossTerms, Tap, Targets
from compress.loss.taps import captured, evaluating
from compress.stage import Host, Optimization, Work, coupling_faults
from compress.store.artifact import writable
from compress.tasks import Batch, Task
from compress.tasks.batch import unit_rows

LOGGED_POINTS = 1000  # of one training; every step counts in one of them
BATCH = 512  # of forward passes without gradients


@dataclass(frozen=True)
class Taught:
    """What the teachers say of one batch.

    Attributes:
        logits: of each teacher, [units, C].
        weights: of the teachers, summing to 1.
        features: the first teacher's tapped tensors.
    """

    logits: tuple[Tensor, ...]
    weights: tuple[float, ...] = (1.0,)
    features: Mapping[Tap, Tensor] = field(default_factory=dict)


Teaching = Callable[[Batch], Taught]


@dataclass(frozen=True)
class Fit:
    """What a training run did.

    Attributes:
        steps: updates of the weights.
        final_loss: mean of the total loss over the last logged window.
        images_per_s: throughput of this process's share of the run; 0 when everything was done before.
    """

    steps: int
    final_loss: float
    images_per_s: float


def fit(
    module: nn.Module,
    work: Work,
    host: Host,
    *,
    loss: BoundLoss,
    teacher: Teaching | None,
    optimization: Optimization,
    seed: int,
    checkpoints: Path,
    name: str,
    views: Callable[[int, torch.Generator], int | None],
    on_epoch: Callable[[int], None] = lambda _epoch: None,
) -> Fit:
    """Train a module in place on the train role, continuing from the last checkpoint if there is one.

    On the CPU the same call ends with bitwise the same weights whether or not it was killed and repeated: order and
    views are drawn from (seed, epoch), dropout's generator is checkpointed.

    Args:
        module: trained in place; left in evaluation mode.
        work: task and data.
        host: execution, progress, recorder.
        loss: the guided loss, bound to the module; its projectors are trained and checkpointed too.
        teacher: says what the teachers make of a batch; None when the loss needs no teacher.
        optimization: schedule and update rule.
        seed: decides order, views and dropout.
        checkpoints: directory for them.
        name: shown in progress.
        views: gives the view of a batch from the epoch and a generator.
        on_epoch: called before each epoch's first step; a resumed epoch is not begun again.

    Raises:
        StageError: when the loss is no longer finite, there are fewer samples than one batch, or the loss compares a
            whole batch that ``accumulate`` splits.
        DataError: when the loss reads labels and the train role has none.
        KeyboardInterrupt: when ``host.interrupted`` says so, after writing a checkpoint.
    """
    samples = work.data.train
    per_update = optimization.batch_size * optimization.accumulate
    steps_per_epoch = len(samples) // per_update
    if steps_per_epoch == 0:
        raise StageError(
            "the train role is smaller than one update",
            expected=f"at least {per_update} samples (batch_size x accumulate)",
            got=len(samples),
            where=name,
            hint="lower batch_size",
        )
    for fault in coupling_faults(loss.loss, optimization):
        raise StageError(fault, where=name)
    total_steps = steps_per_epoch * optimization.epochs
    with _numerics(host, seed=seed), loss.attached(module):
        module.train()
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        trained = nn.ModuleDict({"model": module, "loss": loss})
        updates = _optimizer(module, loss, optimization)
        first = _restore(trained, updates, checkpoints)
        # Apart, so that large gradients of projectors do not hold the student back.
        clipped = [values for values in (list(module.parameters()), list(loss.parameters())) if values]
        window = Window(loss.loss)
        logged_steps = -(-total_steps // LOGGED_POINTS)
        started_s, saved_s = time.monotonic(), time.monotonic()
        with host.reporter.bar(name, total_steps) as bar:
            bar.advance(first)
            mixup = loss.loss.mixup
            for step, batches in _updates(
                work.task, samples, optimization, seed=seed, views=views, first=first, mixup=mixup
            ):
                if step % steps_per_epoch == 0:
                    on_epoch(step // steps_per_epoch)
                rate = _learning_rate(step, total_steps, optimization)
                for group in updates.param_groups:
                    group["lr"] = rate
                updates.zero_grad(set_to_none=True)
                units = sum(batch.num_units for batch in batches)
                for batch in batches:
                    terms = _forward(
                        module,
                        work.task,
                        host,
                        batch,
                        loss=loss,
                        teacher=teacher,
                        progress=(step + 0.5) / total_steps,
                    )
                    terms.objective(units=units, samples=per_update).backward()
                    window.add(terms.named())
                for parameters in clipped:
                    nn.utils.clip_grad_norm_(parameters, optimization.clip_norm)
                updates.step()
                bar.advance()
                done = step + 1
                if done % logged_steps == 0 or done == total_steps:
                    means = window.take(name=name, step=done)
                    bar.advance(0, note=f"loss {means['total']:.4f}")
                    curves = {f"train/loss_{term}": value for term, value in means.items()}
                    host.recorder.metrics({**curves, "train/learning_rate": rate}, step=done)
                stop = host.interrupted()
                if done < total_steps and (stop or time.monotonic() - saved_s > host.checkpoint_every_s):
                    _save(trained, updates, checkpoints, step=done)
                    saved_s = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        elapsed_s = time.monotonic() - started_s
    module.eval()
    return Fit(
        steps=total_steps,
        final_loss=window.last["total"] if window.last else math.nan,
        images_per_s=(total_steps - first) * per_update / elapsed_s if total_steps > first else 0.0,
    )


class Window:
    """Running sums of the loss terms between two log lines; turned into numbers only there."""

    def __init__(self, loss: GuidedLoss) -> None:
        self.loss = loss
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.last: dict[str, float] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the means of one batch; a term that its schedule turns off is not among them."""
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self, *, name: str, step: int) -> dict[str, float]:
        """Return the mean of each term and start anew.

        Raises:
            StageError: when one of them is not finite.
        """
        means = {term: float(value) / self.counts[term] for term, value in self.sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise StageError(
                "the loss is not finite",
                expected="finite loss terms",
                got=means,
                where=f"{name}, step {step}, loss {self.loss}",
                hint="lower learning_rate, or look for extreme values in the train role",
            )
        self.sums, self.counts, self.last = {}, {}, means
        return means


def predict(module: nn.Module, task: Task, host: Host, samples: Samples) -> Tensor:
    """Return the logits of every unit of the plain samples, float32 [units, C]; see `forward_all`."""
    return forward_all(module, task, host, samples, index=torch.arange(len(samples)))[0]


def forward_all(
    module: nn.Module,
    task: Task,
    host: Host,
    samples: Samples,
    *,
    index: Tensor,
    view: int | None = None,
    mixup: float = 0.0,
    taps: Sequence[Tap] = (),
    name: str = "",
) -> tuple[Tensor, dict[Tap, Tensor]]:
    """Return logits, float32 [units, C], and tapped tensors [N, ...], in evaluation mode without gradients.

    Batches have a fixed order and size, so that the same call gives the same bits. Tapped tensors have one size.

    Args:
        module: put back into its mode afterwards.
        task: how it reads samples.
        host: execution, progress.
        samples: a role.
        index: int64 [N], which of its samples.
        view: which view of them.
        mixup: share of them that are mixed with another.
        taps: what to read besides the logits.
        name: shown in progress; empty shows none.

    Raises:
        KeyboardInterrupt: when ``host.interrupted`` says so.
    """
    logits: list[Tensor] = []
    features: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    order: list[Tensor] = []
    with (
        _numerics(host, seed=0),
        evaluating(module),
        torch.no_grad(),
        captured(module, taps) as capture,
        host.reporter.bar(name, len(index)) if name else _silent() as bar,
    ):
        for positions in task.parts(samples, index, size=BATCH):
            if host.interrupted():
                raise KeyboardInterrupt
            batch = task.batch(samples, index[positions], view=view, mixup=mixup)
            with host.autocast():
                logits.append(task.forward(module, _channels_last(batch)).float())
            for tap, value in capture.take().items():
                features[tap].append(value)
            order.append(positions)
            if bar is not None:
                bar.advance(len(positions))
    found, taken = torch.cat(logits), torch.cat(order)
    if bool((taken.diff() == 1).all()):
        return found, {tap: torch.cat(values) for tap, values in features.items()}
    back, units = taken.argsort(), torch.from_numpy(task.units(samples))[index]
    return found[unit_rows(units[taken], back)], {tap: torch.cat(values)[back] for tap, values in features.items()}


@contextmanager
def _silent() -> Iterator[None]:
    yield None


@contextmanager
def _numerics(host: Host, *, seed: int) -> Iterator[None]:
    """Fix thread count and seed for the block, and restore both after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(host.execution.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _channels_last(batch: Batch) -> Batch:
    inputs = tuple(value.to(memory_format=torch.channels_last) if value.dim() == 4 else value for value in batch.inputs)
    return replace(batch, inputs=inputs)


def per_sample_loss(
    module: nn.Module, task: Task, batch: Batch, *, loss: GuidedLoss, teacher: Teaching | None
) -> Tensor:
    """Return the loss of each unit, float32 [units], in full precision with final weights: what importance ranks by.

    Only terms that read logits and give each unit a value of its own count: features change width under surgery.
    """
    logits = task.forward(module, batch)
    targets = targets_of(task, batch, logits, loss=loss, taught=None if teacher is None else teacher(batch))
    return loss.on_logits(logits, targets, per_unit=True).total_per_unit


def targets_of(task: Task, batch: Batch, logits: Tensor, *, loss: GuidedLoss, taught: Taught | None) -> Targets:
    """Return what a batch's student logits [units, C] are compared with.

    Raises:
        DataError: when the loss reads labels and the batch has none.
    """
    if loss.needs_labels and batch.labels is None:
        raise DataError(
            "the loss reads labels, and these samples have none",
            expected="labels, or a loss without " + ", ".join(n for n, term in loss.terms.items() if term.reads_labels),
            hint="leave those terms out, as the preset function-matching does",
        )
    return Targets(
        teachers=() if taught is None else taught.logits,
        teacher_weights=(1.0,) if taught is None else taught.weights,
        labels=batch.labels,
        hard=task.hard_loss(logits, batch) if loss.needs_labels else None,
    )


def _forward(
    module: nn.Module,
    task: Task,
    host: Host,
    batch: Batch,
    *,
    loss: BoundLoss,
    teacher: Teaching | None,
    progress: float,
) -> LossTerms:
    with host.autocast():
        logits = task.forward(module, _channels_last(batch))
    taught = None if teacher is None else teacher(batch)
    targets = targets_of(task, batch, logits, loss=loss.loss, taught=taught)
    features = None if taught is None else taught.features
    return loss(logits, targets, teacher_features=features, progress=progress, mask=batch.mask)


def _updates(
    task: Task,
    samples: Samples,
    optimization: Optimization,
    *,
    seed: int,
    views: Callable[[int, torch.Generator], int | None],
    first: int,
    mixup: float,
) -> Iterator[tuple[int, Sequence[Batch]]]:
    """Yield (step, its batches) from step ``first`` on; order and views depend on (seed, epoch) alone."""
    size, accumulate = optimization.batch_size, optimization.accumulate
    steps_per_epoch = len(samples) // (size * accumulate)
    for epoch in range(first // steps_per_epoch, optimization.epochs):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = task.order(samples, generator, size=size * accumulate)
        for within in range(steps_per_epoch):
            step = epoch * steps_per_epoch + within
            drawn = [views(epoch, generator) for _ in range(accumulate)]
            if step < first:
                continue
            start = within * size * accumulate
            rows = order[start : start + size * accumulate].split(size)
            yield (
                step,
                [task.batch(samples, index, view=view, mixup=mixup) for index, view in zip(rows, drawn, strict=True)],
            )


def _learning_rate(step: int, total: int, optimization: Optimization) -> float:
    """Return the rate of a step: linear warm-up to the peak, then a half cosine to zero."""
    warmup = optimization.warmup_fraction * total
    if step < warmup:
        return optimization.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(total - warmup, 1)
    return optimization.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(module: nn.Module, loss: nn.Module, optimization: Optimization) -> torch.optim.Optimizer:
    """Return the update rule; projectors share the student's, without decay, which orthogonal ones do not bear."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [value for value in parameters if value.dim() > 1], "weight_decay": optimization.weight_decay},
        {"params": [value for value in parameters if value.dim() <= 1], "weight_decay": 0.0},
        {"params": list(loss.parameters()), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimization.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optimization.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=optimization.learning_rate, fused=True)


def _save(trained: nn.Module, updates: torch.optim.Optimizer, directory: Path, *, step: int) -> None:
    """Write a checkpoint under a temporary name, then rename it over the previous one.

    Raises:
        EnvironmentFault: when the disk is full or not writable.
    """
    state = updates.state_dict()
    tensors = {name: value.contiguous() for name, value in trained.state_dict().items()}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    tensors["rng"] = torch.get_rng_state()
    draft = directory / f"checkpoint.draft-{os.getpid()}"
    with writable(directory):
        save_file(tensors, draft, metadata={"step": json.dumps(step)})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(directory / "checkpoint.safetensors")


def _restore(trained: nn.Module, updates: torch.optim.Optimizer, directory: Path) -> int:
    """Load the checkpoint, if any; return the step to go on from."""
    path = directory / "checkpoint.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        step = json.loads(file.metadata()["step"])
    tensors = load_file(path)
    trained.load_state_dict({name: value for name, value in tensors.items() if name.startswith(("model.", "loss."))})
    parameters = [parameter for group in updates.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # Fused updates walk parameter and state side by side in memory, so both need the same strides.
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            state.setdefault(int(index), {})[entry] = value
    updates.load_state_dict({"state": state, "param_groups": updates.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    return step
