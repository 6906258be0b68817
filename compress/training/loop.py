"""fit(): the one training loop, for every stage that trains and for a user's own module and batches."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.loss import BoundLoss, GuidedLoss, LossTerms
from compress.stage import Compute, Optimization, Unrecorded, coupling_faults
from compress.tasks import Batch
from compress.tasks.batch import split
from compress.training.checkpoint import restore_checkpoint, save_checkpoint
from compress.training.fitting import fitting_rows
from compress.training.loader import Loader
from compress.training.numerics import (
    choose_layout,
    compiled,
    lay_out,
    lay_out_images,
    numerics,
    place_batch,
    placed,
)
from compress.training.optimisation import learning_rate, make_optimizer
from compress.training.sharing import SharedUpdate
from compress.training.teaching import Objective, Teaching, targets_of

SMALLER = "lower batch_size, and raise accumulate by as much: the update stays the same; or say --batch-size auto"
LOGGED_POINTS = 1000  # of one training; every step counts in one of them


@dataclass(frozen=True)
class Fit:
    """What a training run did.

    Attributes:
        steps: updates of the weights.
        final_loss: mean of the total loss over the last logged window.
        images_per_s: throughput of this process's share of the run; 0 when everything was done before.
        rows: samples of a pass, where the asked batch did not fit; None where it did, or nobody looked.
        drawn: what became of the texts that the student drew itself; None where it drew none.
    """

    steps: int
    final_loss: float
    images_per_s: float
    rows: int | None = None
    drawn: Mapping[str, int] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept of it with the artifact."""
        split = {} if self.rows is None else {"samples_per_pass": self.rows}
        own = {} if self.drawn is None else {"on_policy": dict(self.drawn)}
        return {"steps": self.steps, "images_per_s": self.images_per_s, "final_loss": self.final_loss, **split, **own}


def fit(
    module: nn.Module,
    task: Objective,
    loader: Loader,
    host: Compute,
    *,
    loss: BoundLoss,
    teacher: Teaching | None,
    optimization: Optimization,
    seed: int,
    name: str,
    checkpoints: Path | None = None,
    on_epoch: Callable[[int], None] = lambda _epoch: None,
    frozen: Sequence[nn.Module] = (),
) -> Fit:
    """Train a module in place on a loader's batches, continuing from the last whole checkpoint if there is one.

    On the CPU the same call ends with bitwise the same weights whether or not it was killed and repeated, when the
    loader's batches depend on the epoch alone: dropout's generator is checkpointed.

    Args:
        module: trained in place; left in evaluation mode.
        task: runs the module on a batch, computes the hard loss.
        loader: the batches of each update.
        host: execution, progress, recorder; and the group: each of its processes makes the same call with its own
            batches, and all end with the same weights.
        loss: the guided loss, bound to the module; its projectors are trained and checkpointed too.
        teacher: says what the teachers make of a batch; None when the loss needs no teacher.
        optimization: schedule and update rule; what is in a batch and in an update, the loader says.
        seed: decides dropout.
        name: shown in progress.
        checkpoints: directory for them; None writes none.
        on_epoch: called before each epoch's first step; a resumed epoch is not begun again.
        frozen: parts of the module that stay as they are, in evaluation mode.

    Raises:
        StageError: when the loss is no longer finite, or compares a whole batch that ``accumulate`` splits, or that the
            device has no memory for.
        DataError: when the loss reads labels and a batch has none.
        EnvironmentFault: when another process of the group has ended.
        KeyboardInterrupt: when ``host.interrupted`` says so, in any process, after writing a checkpoint.
    """
    for fault in coupling_faults(loss.loss, optimization):
        raise StageError(fault, where=name)
    total_steps, group = loader.steps_per_epoch * optimization.epochs, host.group
    layout = choose_layout(module, task, loader.example)
    home = placed(host, module, loss, hint=SMALLER)
    with numerics(host, seed=seed), home, loss.attach(module), compiled(host, module):
        module.train()
        for part in frozen:
            part.eval().requires_grad_(False)
        lay_out(module, layout)
        made = partial(_forward, module, task, host, loss=loss, teacher=teacher, layout=layout)
        trained = nn.ModuleDict({"model": module, "loss": loss})
        updates = make_optimizer(module, loss, optimization)
        rows = fitting_rows(loader, made, trained, host, optimization=optimization, loss=loss.loss, name=name)
        first = 0
        if checkpoints is not None:
            with host.group.in_turn():
                first = restore_checkpoint(trained, updates, checkpoints, say=host.reporter.say)
        # Apart, so that large gradients of projectors do not hold the student back.
        clipped = [values for values in (list(module.parameters()), list(loss.parameters())) if values]
        parted = seed if optimization.accumulate > 1 or rows is not None else None
        shared = SharedUpdate(group, trained, seed=parted, reduction=host.execution.reduction)
        recorder = host.recorder if group.writes else Unrecorded()
        window = Window(loss.loss)
        logged_steps, samples_seen = -(-total_steps // LOGGED_POINTS), 0
        started_s, saved_s = time.monotonic(), time.monotonic()
        with host.reporter.bar(name, total_steps) as bar:
            bar.advance(first)
            for step, batches in _updates(loader, epochs=optimization.epochs, first=first, on_epoch=on_epoch):
                rate = learning_rate(step, total_steps, optimization)
                for rule in updates.param_groups:
                    rule["lr"] = rate
                updates.zero_grad(set_to_none=True)
                forward = partial(made, progress=(step + 0.5) / total_steps)
                samples = _sum_gradients(_split(batches, rows), forward, shared, window, step=step)
                for parameters in clipped:
                    nn.utils.clip_grad_norm_(parameters, optimization.clip_norm)
                updates.step()
                bar.advance()
                done, samples_seen = step + 1, samples_seen + samples
                if done % logged_steps == 0 or done == total_steps:
                    means = window.take(name=name, step=done)
                    bar.advance(0, note=f"loss {means['total']:.4f}")
                    curves = {f"train/loss_{term}": value for term, value in means.items()}
                    recorder.metrics({**curves, "train/learning_rate": rate}, step=done)
                stop = group.any(host.interrupted())
                due = stop or time.monotonic() - saved_s > host.checkpoint_every_s
                if group.writes and checkpoints is not None and due and done < total_steps:
                    save_checkpoint(trained, updates, checkpoints, step=done)
                    saved_s = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        elapsed_s = time.monotonic() - started_s
    module.eval()
    for part in frozen:
        part.requires_grad_(True)
    return Fit(
        steps=total_steps,
        final_loss=window.last["total"] if window.last else math.nan,
        images_per_s=samples_seen / elapsed_s if samples_seen else 0.0,
        rows=rows,
    )


def _updates(
    loader: Loader, *, epochs: int, first: int, on_epoch: Callable[[int], None]
) -> Iterator[tuple[int, Sequence[Batch]]]:
    """Yield (step, its batches) from step ``first`` on."""
    step = first
    for epoch in range(first // loader.steps_per_epoch, epochs):
        for batches in loader.epoch(epoch, skip=step - epoch * loader.steps_per_epoch):
            if step == epoch * loader.steps_per_epoch:
                on_epoch(epoch)
            yield step, batches
            step += 1


def _split(batches: Sequence[Batch], rows: int | None) -> Sequence[Batch]:
    """Return the batches of an update in parts of so many samples; as they are where nothing was found to be split.

    The first part of every batch comes first, then every second one: so the parts of processes that have some of the
    batches each, taken in turn, are in the order in which one process that has all of them takes them.
    """
    if rows is None:
        return batches
    return [part for parts in zip_longest(*(split(batch, rows) for batch in batches)) for part in parts if part]


def _sum_gradients(
    batches: Sequence[Batch],
    forward: Callable[[Batch], LossTerms],
    shared: SharedUpdate,
    window: "Window",
    *,
    step: int,
) -> int:
    """Leave the gradients of an update in the parameters; return how many samples it has, of all processes."""
    units, samples = shared.group.total(*map(sum, zip(*map(_counts, batches), strict=True)))
    for number, batch in enumerate(batches):
        with shared.part(step, number):
            terms = forward(batch)
            terms.objective(units=units, samples=samples).backward()
        for means in shared.add(terms.average()):
            window.add(means)
    shared.release()
    return samples


def _counts(batch: Batch) -> tuple[int, int]:
    """Return how many units and samples a batch has."""
    return batch.num_units, len(batch.index)


def _forward(
    module: nn.Module,
    task: Objective,
    host: Compute,
    batch: Batch,
    *,
    loss: BoundLoss,
    teacher: Teaching | None,
    layout: torch.memory_format,
    progress: float,
) -> LossTerms:
    batch = place_batch(batch, host.device)
    with host.autocast():
        logits = task.forward(module, lay_out_images(batch, layout))
    taught = None if teacher is None else teacher(batch)
    targets = targets_of(task, batch, logits, loss=loss.loss, taught=taught)
    features = None if taught is None else taught.features
    return loss(logits, targets, teacher_features=features, progress=progress, mask=batch.mask)


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
                hint="lower learning_rate, or look for extreme values in the training samples",
            )
        self.sums, self.counts, self.last = {}, {}, means
        return means
