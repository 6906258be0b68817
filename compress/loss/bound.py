"""A guided loss bound to a student and a teacher: taps resolved, hooks and projectors in place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.loss.features import Compared, FeatureTerm, Pair
from compress.loss.guided import GuidedLoss, LossTerms
from compress.loss.projectors import Shape
from compress.loss.taps import Capture, Tap, capture_taps, dry_run
from compress.loss.term import Targets


class BoundLoss(nn.Module):
    """What training minimises: the guided loss with its pairs of taps and its projectors.

    The projectors are this module's parameters: trained with the student, saved in its checkpoints, never part of it.
    After surgery a loss is bound anew.
    """

    def __init__(self, loss: GuidedLoss, pairs: Mapping[str, tuple[Pair, ...]]) -> None:
        super().__init__()
        self.loss = loss
        self.feature_terms = loss.feature_terms
        self.pairs = pairs
        self.projectors = nn.ModuleDict()
        self.projector_of: dict[str, list[int | None]] = {}
        for name, term in loss.feature_terms.items():
            made = term.projectors(pairs[name])
            unique = list({id(module): module for module in made if module is not None}.values())
            self.projectors[name] = nn.ModuleList(unique)
            places = {id(module): index for index, module in enumerate(unique)}
            self.projector_of[name] = [None if module is None else places[id(module)] for module in made]
        self.capture: Capture | None = None

    @property
    def student_taps(self) -> tuple[Tap, ...]:
        """What is read of the student, each once."""
        return tuple(dict.fromkeys(pair.student for pairs in self.pairs.values() for pair in pairs))

    @property
    def teacher_shapes(self) -> dict[Tap, Shape]:
        """What is read of the teacher, each once, with the shape of one sample."""
        return {pair.teacher: pair.shapes[1][1:] for pairs in self.pairs.values() for pair in pairs}

    @contextmanager
    def attach(self, student: nn.Module) -> Iterator[None]:
        """Read the student's taps in the block; the hooks are gone after it."""
        with capture_taps(student, self.student_taps) as capture:
            self.capture = capture
            try:
                yield
            finally:
                self.capture = None

    def forward(
        self,
        student: Tensor,
        targets: Targets,
        *,
        teacher_features: Mapping[Tap, Tensor] | None = None,
        progress: float = 1.0,
        mask: Tensor | None = None,
    ) -> LossTerms:
        """Return the terms of one batch, right after the attached student made it.

        Args:
            student: logits [N, C].
            targets: the teacher's logits and the labels.
            teacher_features: the teacher's tapped tensors, by tap; may be None when no term reads any.
            progress: share of the training steps done, 0 to 1.
            mask: bool [N, L], true for valid tokens; None when all are.
        """
        terms = self.loss.on_logits(student, targets, progress=progress)
        features = {} if self.capture is None else self.capture.take()
        for name, term in self.feature_terms.items():
            weight = term.weight * term.schedule.factor(progress)
            if weight == 0:
                continue
            assert teacher_features is not None
            compared = [
                self._compare(name, index, features, teacher_features)
                for index in active(term, len(self.pairs[name]), progress=progress)
            ]
            samples = len(compared[0].student)
            terms.values[name] = term.check_value(term.value(compared, mask=mask), name=name, units=samples)
            terms.weights[name] = weight
            terms.by_sample.add(name)
        return terms

    def _compare(self, name: str, index: int, student: Mapping[Tap, Tensor], teacher: Mapping[Tap, Tensor]) -> Compared:
        pair, place = self.pairs[name][index], self.projector_of[name][index]
        feature = student[pair.student]
        if place is not None:
            projectors = self.projectors[name]
            assert isinstance(projectors, nn.ModuleList)
            feature = projectors[place](feature.float())
        return Compared(pair, feature, teacher[pair.teacher])


def active(term: FeatureTerm, count: int, *, progress: float) -> range:
    """Return the indices of the pairs that a term compares now: all, or for a progressive one the pair in turn."""
    if not term.progressive:
        return range(count)
    begin, end = term.schedule.begin_fraction, term.schedule.end_fraction
    blocks = count // term.taps_per_pair
    block = min(int((progress - begin) / (end - begin) * blocks), blocks - 1)
    return range(block * term.taps_per_pair, (block + 1) * term.taps_per_pair)


def bind(
    loss: GuidedLoss,
    student: nn.Module,
    teacher: nn.Module | None,
    inputs: Sequence[Tensor] | Mapping[str, Tensor],
    *,
    seed: int,
) -> BoundLoss:
    """Resolve a loss's taps on two models and build its projectors.

    Args:
        loss: the terms.
        student: not changed.
        teacher: whose features are read; None when no term reads a teacher.
        inputs: at least two samples; a model's arguments, in order or by name.
        seed: draws the projectors' weights.

    Raises:
        ModelError: when a tap matches nothing, two tensors cannot be compared, or student and teacher share weights.
    """
    if teacher is not None:
        refuse_shared(student, teacher)
    pairs: dict[str, tuple[Pair, ...]] = {}
    if loss.feature_terms:
        assert teacher is not None
        ours, theirs = dry_run(student, inputs, role="student"), dry_run(teacher, inputs, role="teacher")
        pairs = {name: term.pair(ours, theirs) for name, term in loss.feature_terms.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BoundLoss(loss, pairs)


def refuse_shared(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that shares weights with the student: it would change while the student learns from it.

    Raises:
        ModelError: naming one of the shared parameters.
    """
    owned = {_storage(value) for _, value in _tensors(teacher)}
    shared = next((name for name, value in _tensors(student) if value.numel() and _storage(value) in owned), None)
    if shared is not None:
        raise ModelError(
            "student and teacher share weights",
            expected="two modules of their own",
            got=f"{shared} in both",
            hint="copy one of them: copy.deepcopy(model)",
        )


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
