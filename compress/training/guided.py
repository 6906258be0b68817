"""fit_guided(): training on the guided loss against the teachers of a pipeline."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from compress.errors import StageError
from compress.loss import BoundLoss, GuidedLoss, bind
from compress.models import load_model
from compress.stage import CACHE_LIMIT_GB, Host, Optimization, Work
from compress.tasks import View
from compress.training.loader import Loader, RoleLoader
from compress.training.loop import Fit, fit
from compress.training.numerics import placed
from compress.training.on_policy import on_policy
from compress.training.teacher import LiveTeachers, TeacherOutputs, live_teachers, teacher_outputs


def fit_guided(
    module: nn.Module,
    work: Work,
    host: Host,
    *,
    loss: GuidedLoss,
    optimization: Optimization,
    seed: int,
    checkpoints: Path,
    name: str,
    cache_limit_gb: float = CACHE_LIMIT_GB,
    fresh: bool = False,
    pack: bool = False,
    frozen: Sequence[nn.Module] = (),
) -> Fit:
    """Train a module in place on the guided loss against the work's teachers; see `fit`.

    Teacher and student see the identical view of every sample: one of the task's fixed views, whose teacher outputs are
    stored, or a fresh one in each epoch, on which the teachers run; likewise where the student writes what is learnt.

    Raises:
        StageError: when the train role is smaller than one update, the loss is no longer finite, there is no teacher,
            the student is a copy of it and the loss is 0 there, stored outputs are not the teacher's, or token by token
            is compared what both split otherwise, or the student is to write where nothing is written.
        ModelError: when taps cannot be paired, or the teacher's outputs do not match the task.
    """
    views = work.task.views(mixup=loss.mixup)
    loader: Loader = RoleLoader(
        work.task,
        work.data.train,
        optimization,
        seed=seed,
        views=(lambda epoch, _: View(epoch, loss.mixup))
        if fresh
        else (lambda _epoch, generator: views[int(torch.randint(len(views), (1,), generator=generator))]),
        group=host.group,
    )
    own = None
    if loss.on_policy is not None:
        loader = own = on_policy(loader, module, work, host, loss.on_policy, seed=seed)
    teacher = None
    if loss.needs_teacher:
        teacher = load_model(work.teacher.artifact.path, code=host.code)
        if len(work.teachers) == 1:
            refuse_equal(module, teacher, loss=loss, name=name)
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    # Projectors are drawn apart from the student's own weights, which may come from the same seed.
    bound = bind(loss, module, teacher, example, seed=seed + 500_009)
    taught: LiveTeachers | TeacherOutputs | None = None
    if loss.needs_teacher:
        _refuse_other_tokens(bound, work, name=name)
        if fresh or loss.on_policy is not None:
            taught = live_teachers(work, host, work.data.train, taps=tuple(bound.teacher_shapes))
        else:
            taught = teacher_outputs(
                work,
                host,
                work.data.train,
                views=views,
                taps=bound.teacher_shapes,
                limit_bytes=cache_limit_gb * 1e9,
                pack_for=loss.readings if pack else None,
            )
    with placed(host, *(() if taught is None else taught.running)):
        result = fit(
            module,
            work.task,
            loader,
            host,
            loss=bound,
            teacher=taught,
            optimization=optimization,
            seed=seed,
            checkpoints=checkpoints,
            name=name,
            on_epoch=(lambda _epoch: None) if taught is None else taught.check,
            frozen=frozen,
        )
    if own is None:
        return result
    if own.drawn.runaway:
        host.reporter.say(f"{name}: {own.drawn}")
    return replace(result, drawn=asdict(own.drawn))


def _refuse_other_tokens(bound: BoundLoss, work: Work, *, name: str) -> None:
    """Refuse terms that compare tokens with tokens when student and teacher split the train role otherwise."""
    by_token = [term for term, pairs in bound.pairs.items() if any(len(pair.shapes[1]) > 2 for pair in pairs)]
    if not by_token or work.task.splits_like(work.teacher.task, work.data.train):
        return
    raise StageError(
        "the loss compares student and teacher token by token, and their tokenizers split the train role otherwise",
        expected="the same number of tokens in every sample",
        got=", ".join(by_token),
        where=name,
        hint="give the stage a loss on logits alone, or prune the vocabulary with min_count 1",
    )


def refuse_equal(student: nn.Module, teacher: nn.Module, *, loss: GuidedLoss, name: str) -> None:
    """Refuse a student that is its only teacher already, for a loss that is 0 there and has no gradient.

    Raises:
        StageError: when they have the same weights and every term is 0 at equality.
    """
    if not all("zero-at-equality" in term.declared for term in loss.terms.values()):
        return
    ours, theirs = student.state_dict(), teacher.state_dict()
    if ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items()):
        raise StageError(
            "the student is a copy of its only teacher, where every term of the loss is 0: there is nothing to learn",
            where=name,
            hint="prune it first, add the term `hard`, or name a fresh student instead of `student: teacher`",
        )
