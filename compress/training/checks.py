"""A user's own modules, loss and example, tried out before anything long begins."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress.config.user_code import USER_ERRORS, users_lines
from compress.data.samples import Samples
from compress.errors import CompressError, DataError, ModelError
from compress.loss import GuidedLoss
from compress.loss.taps import evaluating
from compress.models.fold import duplicate
from compress.stage import Precision
from compress.tasks import Batch, Task
from compress.tasks.probabilities import refuse_probabilities
from compress.tasks.task import Problem
from compress.training.guided import refuse_equal
from compress.training.teaching import Objective, refuse_unlabelled

AnyLoss = GuidedLoss | str | Mapping[str, Any]
Example = Tensor | tuple[Tensor, ...]
# What a module may raise when it is called with tensors that do not fit it.
CALL_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def readable_loss(given: AnyLoss, problem: Problem | None, teacher: nn.Module | None) -> GuidedLoss:
    """Return a loss that can be computed on batches of one's own.

    Args:
        given: terms as values, as a recipe spells them, or the name of a preset.
        problem: what the outputs are; None where nobody knows yet.
        teacher: None when there is none.

    Raises:
        ModelError: when it needs a teacher.
        DataError: when there is no such loss, a term means nothing for the problem, or samples would have to be mixed.
    """
    try:
        loss = given if isinstance(given, GuidedLoss) else GuidedLoss.model_validate(given)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'loss'}: {fault['msg']}" for fault in error.errors())
        raise DataError("the loss is not understood", got="; ".join(faults)) from None
    if loss.needs_teacher and teacher is None:
        reading = ", ".join(name for name, term in loss.terms.items() if term.reads_teacher)
        raise ModelError(
            "the loss needs a teacher",
            expected="a module",
            got="none",
            where=f"the terms {reading}",
            hint="give one, or a loss on labels alone: loss={'hard': {}}",
        )
    if loss.mixup:
        raise DataError("batches of one's own are not mixed", expected="a loss without mixup", got=f"{loss.mixup:g}")
    if loss.on_policy is not None:
        raise DataError("batches of one's own are learnt as they are", expected="a loss without on_policy")
    odd = [name for name, term in loss.terms.items() if problem is not None and problem not in term.problems]
    if odd:
        raise DataError(f"the loss has terms that mean nothing for {problem} outputs", got=", ".join(odd))
    return loss


def refuse_pair(
    student: nn.Module,
    teacher: nn.Module | None,
    task: Objective,
    batch: Batch,
    *,
    loss: GuidedLoss,
    problem: Problem,
    precision: Precision,
) -> None:
    """Refuse student, teacher and batches that cannot be trained with, before anything is trained.

    Raises:
        ModelError: when a model does not run on the batch, there is nothing to train, or the outputs differ in shape or
            are no logits.
        DataError: when labels are missing or do not fit.
        StageError: when the student is its teacher already and there is nothing to learn.
    """
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ModelError("the student has nothing to train", expected="parameters that require a gradient")
    device = batch.inputs[0].device
    if precision == "tf32" and device.type != "cuda":
        raise ModelError(
            "only CUDA devices compute in tf32", expected="float32 or bfloat16", got=precision, where=device
        )
    outputs = outputs_of(student, task, batch, role="student")
    if teacher is not None and loss.needs_teacher:
        said = outputs_of(teacher, task, batch, role="teacher")
        if said.shape != outputs.shape:
            raise ModelError(
                "student and teacher have other outputs",
                expected=f"the teacher's {list(said.shape)}",
                got=f"the student's {list(outputs.shape)}",
                hint="build the student for the teacher's classes, in the same order",
            )
        refuse_equal(student, teacher, loss=loss, name="distill")
        if problem == "single-label":
            refuse_probabilities(said, teacher, where=f"the teacher, {type(teacher).__name__}")
    if problem == "single-label":
        refuse_probabilities(outputs, student, where=f"the student, {type(student).__name__}")
    if loss.needs_labels:
        if batch.labels is None:
            raise refuse_unlabelled(loss)
        task.hard_loss(outputs, batch)


def refuse_untrainable(module: nn.Module, task: Task, samples: Samples, *, where: str) -> None:
    """Refuse a model that runs in evaluation mode and not in training mode, as one that wants targets there.

    Args:
        module: not changed.
        task: reads samples for it.
        samples: a role.
        where: the stage that would train it.

    Raises:
        ModelError: with what it raised, and the user's own line; or with what it returned.
    """
    batch, tried = task.batch(samples, torch.arange(2)), duplicate(module).train()
    expected = "from the same arguments, in both modes, the same logits"
    hint = "its loss is the recipe's: take no targets in forward, and return the logits in training mode too"
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = task.forward(tried, batch)
    except USER_ERRORS as error:
        raise ModelError(
            "the model does not run in training mode",
            expected=expected,
            got="\n".join(f"{type(error).__name__}: {error}".splitlines()[:1]),
            where="; ".join([where, *users_lines(error)[-1:]]),
            hint=hint,
        ) from error
    wanted = [batch.num_units, len(task.classes)]
    if not isinstance(outputs, Tensor) or list(outputs.shape) != wanted:
        got = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(
            "the model returns something else in training mode", expected=expected, got=got, where=where, hint=hint
        )


def outputs_of(module: nn.Module, task: Objective, batch: Batch, *, role: str) -> Tensor:
    """Return a module's outputs on a batch in evaluation mode."""
    return _call(lambda: task.forward(module, batch), module, batch.inputs, role=role)


def call(module: nn.Module, inputs: tuple[Tensor, ...], *, role: str) -> None:
    """Call a module on an example, to see that it runs."""
    _call(lambda: module(*inputs), module, inputs, role=role)


def _call(run: Callable[[], Any], module: nn.Module, inputs: tuple[Tensor, ...], *, role: str) -> Any:
    """Return what a call of a module gives, in evaluation mode without gradients.

    Raises:
        ModelError: when the module is on another device than its inputs, or cannot be called with them.
    """
    home = next((value.device for value in (*module.parameters(), *module.buffers())), inputs[0].device)
    if home != inputs[0].device:
        raise ModelError(
            f"the {role} is on another device than its inputs",
            expected=inputs[0].device,
            got=home,
            where=type(module).__name__,
            hint="move one of them: module.to(device)",
        )
    try:
        with evaluating(module), torch.no_grad():
            return run()
    except CompressError:
        raise
    except CALL_ERRORS as error:
        raise ModelError(
            f"the {role} does not run on these inputs",
            expected="inputs that it can be called with",
            got=f"{type(error).__name__}: {str(error).strip()[:600]}",
            where="; ".join(
                [
                    f"{type(module).__name__}, inputs " + ", ".join(str(list(value.shape)) for value in inputs),
                    *users_lines(error)[-1:],
                ]
            ),
        ) from error


def arguments(example: Example) -> tuple[Tensor, ...]:
    """Return an example as positional arguments.

    Raises:
        DataError: when it holds something else than tensors, or fewer than two samples.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(value, Tensor) and value.dim() for value in inputs):
        raise DataError(
            "an example is not understood",
            expected="a tensor, or a tuple with one for each argument of the module",
            got=", ".join(type(value).__name__ for value in inputs) or "nothing",
        )
    if min(len(value) for value in inputs) < 2:
        raise DataError(
            "an example is too small",
            expected="at least two samples in dimension 0",
            got=", ".join(str(list(value.shape)) for value in inputs),
        )
    return inputs
