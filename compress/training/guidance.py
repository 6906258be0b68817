"""The guided loss in a training loop of one's own."""

from contextlib import ExitStack
from typing import Self

from torch import Tensor, nn

from compress.errors import ModelError, StageError
from compress.loss import BoundLoss, LossTerms, Targets
from compress.loss.taps import Capture, capture_taps
from compress.tasks.task import Problem, hard_loss
from compress.training.given import fitting_labels, problem_of
from compress.training.teaching import refuse_unlabelled


class Guidance:
    """A guided loss bound to a student and a teacher, for a training loop of one's own.

    ::

        with guidance:
            for inputs, labels in loader:
                with torch.no_grad():
                    taught = teacher(inputs)
                terms = guidance(student(inputs), taught, labels)
                terms.total.backward()

    In the ``with`` block both models' features are read by hooks as they pass, which terms on features need; the
    others work outside too.

    Attributes:
        bound: the loss with its taps and projectors.
        problem: what the outputs are; None reads it off the labels.
    """

    def __init__(
        self, bound: BoundLoss, student: nn.Module, teacher: nn.Module | None, *, problem: Problem | None = None
    ) -> None:
        self.bound = bound
        self.problem: Problem | None = problem
        self._student, self._teacher = student, teacher
        self._stack = ExitStack()
        self._capture: Capture | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return the projectors' parameters, to be trained beside the student's; there may be none."""
        return list(self.bound.parameters())

    def __enter__(self) -> Self:
        self._stack.enter_context(self.bound.attach(self._student))
        if self._teacher is not None:
            self._capture = self._stack.enter_context(capture_taps(self._teacher, list(self.bound.teacher_shapes)))
        return self

    def __exit__(self, *_: object) -> None:
        self._capture = None
        self._stack.close()

    def __call__(
        self,
        logits: Tensor,
        teacher_logits: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        progress: float = 1.0,
        mask: Tensor | None = None,
    ) -> LossTerms:
        """Return the terms of a batch, right after both models made its outputs; differentiate their ``total``.

        Args:
            logits: the student's, [N, C].
            teacher_logits: the teacher's, [N, C]; None when no term reads any.
            labels: int64 [N], or [N, C]; None when no term reads any.
            progress: share of the training steps done, 0 to 1, for terms with a schedule.
            mask: bool [N, L], true for tokens that terms on features compare; None when all are.

        Raises:
            ModelError: when the teacher's logits are missing or have another shape, or a model has not run.
            DataError: when labels are missing or do not fit.
            StageError: when features are to be read outside the ``with`` block.
        """
        loss = self.bound.loss
        if loss.needs_teacher and (teacher_logits is None or teacher_logits.shape != logits.shape):
            raise ModelError(
                "the loss compares the student's logits with the teacher's",
                expected=f"teacher_logits {list(logits.shape)}",
                got="none" if teacher_logits is None else list(teacher_logits.shape),
                where="guided loss",
            )
        if loss.needs_labels and labels is None:
            raise refuse_unlabelled(loss)
        hard = None
        if labels is not None:
            problem = problem_of(labels, self.problem)
            labels = fitting_labels(labels, logits, problem=problem)
            hard = hard_loss(logits, labels, problem=problem) if loss.needs_labels else None
        targets = Targets(teachers=() if teacher_logits is None else (teacher_logits,), labels=labels, hard=hard)
        features = None if self._capture is None else self._capture.take()
        if self.bound.pairs and (features is None or len(features) < len(self.bound.teacher_shapes)):
            raise StageError(
                "the loss compares features, and the teacher's were not seen",
                expected="the teacher run on each batch, inside the block `with` this object",
                got="a call outside the block" if features is None else "a teacher that did not run",
                where=", ".join(self.bound.pairs),
            )
        return self.bound(logits, targets, teacher_features=features, progress=progress, mask=mask)
