"""Terms on logits: divergences from the teacher's soft targets, and the labels' own term.

Every divergence is summed over classes and divided by nothing, so it does not shrink with their number; it is computed
in float32 and, where a temperature softens both sides, multiplied by its square.

Shape letters: N units (images, or valid tokens), C classes.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compress.loss.term import (
    ANY_PROBLEM,
    Kind,
    Property,
    Share,
    Targets,
    Temperature,
    Term,
    average_log,
    zscore,
)
from compress.tasks.task import Problem

Divergence = Literal["forward", "reverse", "jensen-shannon", "skew"]


class LogitTerm(Term):
    """A term that needs nothing but logits: it can also rank channels and layers."""

    problems: ClassVar[frozenset[Problem]] = frozenset({"single-label"})

    @abstractmethod
    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return float32 [N], or a float32 scalar for a coupled term.

        Args:
            student: logits [N, C], any float dtype; computed in float32.
            targets: what they are compared with.
        """


class Hard(LogitTerm):
    """The task's own loss against the labels: cross-entropy for a classifier; see `Task.hard_loss`."""

    properties: ClassVar[frozenset[Property]] = frozenset(
        {"duplication", "micro-batching", "bfloat16", "impossible-classes", "shift"}
    )
    reads_labels: ClassVar[bool] = True
    reads_teacher: ClassVar[bool] = False
    problems: ClassVar[frozenset[Problem]] = ANY_PROBLEM

    def value(self, student: Tensor, targets: Targets) -> Tensor:  # noqa: ARG002 # the task computed it
        """Return the task's hard loss [N]."""
        assert targets.hard is not None
        return targets.hard


class Uniform(LogitTerm):
    """Cross-entropy with the uniform distribution: what label smoothing adds (Szegedy et al. 2016, section 7).

    Label smoothing of e is `Hard` with weight 1 - e and this with weight e.
    """

    properties: ClassVar[frozenset[Property]] = frozenset({"duplication", "micro-batching", "bfloat16", "shift"})
    reads_teacher: ClassVar[bool] = False

    weight: Annotated[float, Field(gt=0, le=1e6)] = 0.1

    def value(self, student: Tensor, targets: Targets) -> Tensor:  # noqa: ARG002 # it is the same for all
        """Return the mean over classes of minus the log-probability, in nats, float32 [N]."""
        return -student.float().log_softmax(dim=-1).mean(dim=-1)


class Kl(LogitTerm):
    """A softened divergence between student and teacher (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Attributes:
        temperature: softens both distributions.
        divergence: ``forward`` KL(teacher || student), ``reverse`` KL(student || teacher), ``jensen-shannon`` between
            them (Agarwal et al. 2024, arXiv 2306.13649, equation 1), or ``skew`` KL(teacher || mixture) (Ko et al.
            2024, arXiv 2402.03898, equation 4).
        beta: of ``jensen-shannon``: share of the teacher in the mixture; 0 is the forward and 1 the reverse KL.
        skew: of ``skew``: share of the teacher in the mixture; 0 is the forward KL.
        top_k: compare only the teacher's k likeliest classes and one bucket for all others; None compares all.
        standardise: z-score each row of logits first (Sun et al. 2024; their temperature is 2, their weight 9).
    """

    properties: ClassVar[frozenset[Property]] = frozenset(
        {
            "zero-at-equality",
            "duplication",
            "micro-batching",
            "bfloat16",
            "impossible-classes",
            "shift",
            "high-temperature",
            "uniform-teacher",
        }
    )

    temperature: Temperature = 4.0
    divergence: Divergence = "forward"
    beta: Share = 0.5
    skew: Annotated[float, Field(ge=0, lt=1)] = 0.1
    top_k: Annotated[int, Field(ge=1)] | None = None
    standardise: bool = False

    def model_post_init(self, _context: object) -> None:
        """Refuse fields that do nothing, and a mixture so lopsided that its divergence is nearly 0 everywhere."""
        for name, owner in (("beta", "jensen-shannon"), ("skew", "skew")):
            if self.divergence != owner and self.__dict__[name] != type(self).model_fields[name].default:
                raise ValueError(f"{name} is read by divergence {owner} alone, and this is {self.divergence}")
        if 0 < self.beta < 0.05 or 0.95 < self.beta < 1:
            raise ValueError(
                f"beta {self.beta:g} trains on a loss of nearly 0; expected 0 (forward), 1 (reverse) or 0.05 to 0.95"
            )
        if self.skew > 0.95:
            raise ValueError(f"skew {self.skew:g} trains on a loss of nearly 0; expected 0 (forward) to 0.95")

    @property
    def declared(self) -> frozenset[Property]:
        """A z-score, a bucket and a mixture each cost some of the properties of the plain divergence."""
        lost: set[Property] = set()
        if self.standardise:
            lost |= {"impossible-classes", "high-temperature", "uniform-teacher"}
        if self.top_k is not None:
            lost |= {"high-temperature", "uniform-teacher"}
        if self.divergence != "forward":
            lost.add("uniform-teacher")
        if self.divergence in ("jensen-shannon", "skew"):
            lost.add("high-temperature")
        return self.properties - lost

    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return the divergence times temperature squared, float32 [N]."""
        teacher = targets.teacher(temperature=self.temperature, standardise=self.standardise)
        student = zscore(student) if self.standardise else student
        return soften(student, teacher, temperature=self.temperature, top_k=self.top_k, divergence=self._divergence())

    def _divergence(self) -> Callable[[Tensor, Tensor], Tensor]:
        if self.divergence == "reverse":
            return lambda student, teacher: kl(teacher, student)
        if self.divergence == "jensen-shannon":
            return lambda student, teacher: jensen_shannon(student, teacher, beta=self.beta)
        if self.divergence == "skew":
            return lambda student, teacher: skew_kl(student, teacher, skew=self.skew)
        return kl


class HardToken(LogitTerm):
    """Cross-entropy with the teacher's decision (DeiT, Touvron et al. 2021, arXiv 2012.12877, equation 3).

    Deviation: one head serves labels and teacher; the paper adds a distillation token and a head of its own.
    """

    properties: ClassVar[frozenset[Property]] = frozenset(
        {"duplication", "micro-batching", "bfloat16", "impossible-classes", "shift"}
    )

    weight: Annotated[float, Field(gt=0, le=1e6)] = 0.5

    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return the cross-entropy in nats, float32 [N]."""
        return F.cross_entropy(student.float(), targets.teacher().argmax(dim=-1), reduction="none")


class Dkd(LogitTerm):
    """Decoupled distillation (Zhao et al. 2022, arXiv 2203.08679, equation 7).

    The target class against the rest, and the rest among themselves, each with a weight of its own. Weights of 1 and
    of the teacher's non-target mass give back the KL. The target is the label, as in the paper.

    Attributes:
        temperature: softens both distributions.
        target_weight: alpha of the paper.
        non_target_weight: beta of the paper: 8 for its CIFAR ResNets, 0.5 to 2 with temperature 1 on ImageNet.
        standardise: z-score each row of logits first.
    """

    properties: ClassVar[frozenset[Property]] = frozenset(
        {"zero-at-equality", "duplication", "micro-batching", "bfloat16", "impossible-classes", "shift"}
    )
    reads_labels: ClassVar[bool] = True

    temperature: Temperature = 4.0
    target_weight: Annotated[float, Field(ge=0, le=1e3)] = 1.0
    non_target_weight: Annotated[float, Field(ge=0, le=1e3)] = 8.0
    standardise: bool = False

    @property
    def declared(self) -> frozenset[Property]:
        """A z-score does not bear impossible classes."""
        return self.properties - {"impossible-classes"} if self.standardise else self.properties

    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return the weighted sum times temperature squared, float32 [N]."""
        assert targets.labels is not None
        teacher = targets.teacher(temperature=self.temperature, standardise=self.standardise)
        student = zscore(student) if self.standardise else student
        target, non_target = split_kl(student, teacher, targets.labels, temperature=self.temperature)
        return self.target_weight * target + self.non_target_weight * non_target


class Dist(LogitTerm):
    """Correlations instead of probabilities (DIST, Huang et al. 2022, arXiv 2205.10536, equations 8 to 10).

    Each unit's probabilities should correlate with the teacher's over the classes, and each class's over the batch.
    As in the authors' code both are multiplied by temperature squared, which the paper's appendix leaves out.

    Attributes:
        temperature: 1 on ImageNet, 4 on CIFAR in the paper.
        inter_weight: beta of the paper, of the correlation over classes.
        intra_weight: gamma of the paper, of the correlation over the batch.
        standardise: z-score each row of logits first.
    """

    kind: ClassVar[Kind] = "coupled"
    unit: ClassVar[str] = "1 - correlation"
    properties: ClassVar[frozenset[Property]] = frozenset({"zero-at-equality", "duplication", "bfloat16", "shift"})

    weight: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    temperature: Temperature = 1.0
    inter_weight: Annotated[float, Field(ge=0, le=1e3)] = 1.0
    intra_weight: Annotated[float, Field(ge=0, le=1e3)] = 1.0
    standardise: bool = False

    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return the weighted sum, a float32 scalar."""
        logits = targets.teacher(temperature=self.temperature, standardise=self.standardise)
        teacher = torch.softmax(logits / self.temperature, dim=-1)
        student = zscore(student) if self.standardise else student.float()
        student = torch.softmax(student / self.temperature, dim=-1)
        inter = 1 - correlation(student, teacher, dim=1).mean()
        intra = 1 - correlation(student, teacher, dim=0).mean()
        return self.temperature**2 * (self.inter_weight * inter + self.intra_weight * intra)


class Bernoulli(LogitTerm):
    """Multi-label soft targets: the KL of each label's Bernoulli distribution, summed over the labels.

    Hinton's term for independent labels: both logits are divided by the temperature and the sum is multiplied by its
    square. Several teachers are averaged label by label.

    Attributes:
        temperature: softens both distributions.
    """

    properties: ClassVar[frozenset[Property]] = frozenset(
        {"zero-at-equality", "duplication", "micro-batching", "bfloat16", "impossible-classes"}
    )

    problems: ClassVar[frozenset[Problem]] = frozenset({"multi-label"})

    temperature: Temperature = 1.0

    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return the summed divergence times temperature squared, float32 [N]."""
        teachers = [teacher.detach().float() / self.temperature for teacher in targets.teachers]
        student = student.float() / self.temperature
        divergences = list[Tensor]()
        for sign in (1, -1):  # yes, and no
            logs = [F.logsigmoid(sign * teacher) for teacher in teachers]
            averaged = average_log(logs, targets.teacher_weights)
            divergences.append(kl(F.logsigmoid(sign * student).unsqueeze(-1), averaged.unsqueeze(-1)))
        return sum(divergences[1:], divergences[0]).sum(dim=-1) * self.temperature**2


class Mse(LogitTerm):
    """Squared error to the teacher's outputs, summed over them.

    For regression, and as logit matching (Ba & Caruana 2014, arXiv 1312.6184, equation 1, without its one half).
    Several teachers are averaged as numbers, not as probabilities.
    """

    unit: ClassVar[str] = "squared units of the output"
    problems: ClassVar[frozenset[Problem]] = ANY_PROBLEM
    properties: ClassVar[frozenset[Property]] = frozenset(
        {"zero-at-equality", "duplication", "micro-batching", "bfloat16"}
    )

    def value(self, student: Tensor, targets: Targets) -> Tensor:
        """Return the squared error, float32 [N]."""
        weighted = [
            weight * teacher.detach().float()
            for teacher, weight in zip(targets.teachers, targets.teacher_weights, strict=True)
        ]
        return (student.float() - torch.stack(weighted).sum(dim=0)).square().sum(dim=-1)


def kl(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    """Return KL(teacher || student) over the last dimension, from log-probabilities; exactly 0 where they are equal.

    Where the teacher says impossible (minus infinity) nothing is added, whatever the student says.
    """
    # Written out because 0 * (-inf - -inf) is NaN.
    gap = torch.where(teacher_log.isneginf(), 0.0, teacher_log - student_log)
    return (teacher_log.exp() * gap).sum(dim=-1)


def jensen_shannon(student_log: Tensor, teacher_log: Tensor, *, beta: float) -> Tensor:
    """Return beta KL(teacher || m) + (1 - beta) KL(student || m), with m = beta teacher + (1 - beta) student.

    Agarwal et al. 2024 (arXiv 2306.13649), equation 1. As there, beta 0 means KL(teacher || student) and beta 1 means
    KL(student || teacher): the limits of the value over beta and over 1 - beta, whose own limits are 0.
    """
    if beta == 0:
        return kl(student_log, teacher_log)
    if beta == 1:
        return kl(teacher_log, student_log)
    mixture = mix(student_log, teacher_log, share=beta)
    return beta * kl(mixture, teacher_log) + (1 - beta) * kl(mixture, student_log)


def skew_kl(student_log: Tensor, teacher_log: Tensor, *, skew: float) -> Tensor:
    """Return KL(teacher || skew teacher + (1 - skew) student); Ko et al. 2024 (arXiv 2402.03898), equation 4."""
    if skew == 0:
        return kl(student_log, teacher_log)
    return kl(mix(student_log, teacher_log, share=skew), teacher_log)


def mix(student_log: Tensor, teacher_log: Tensor, *, share: float) -> Tensor:
    """Return the log-probabilities of share teacher + (1 - share) student, for a share inside (0, 1)."""
    # Where both are minus infinity, logaddexp has no gradient but NaN.
    impossible = torch.isneginf(student_log) & torch.isneginf(teacher_log)
    ours, theirs = (side.masked_fill(impossible, 0.0) for side in (student_log, teacher_log))
    mixture = torch.logaddexp(theirs + math.log(share), ours + math.log1p(-share))
    return mixture.masked_fill(impossible, -math.inf)


def soften(
    student_NC: Tensor,
    teacher_NC: Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    divergence: Callable[[Tensor, Tensor], Tensor] = kl,
) -> Tensor:
    """Return T^2 times a divergence of softmax(logits / T), float32 [N] in nats.

    The factor keeps the gradient's size when T changes (Hinton et al. 2015, section 2.1). Nothing is divided by the
    number of classes. No gradient flows to the teacher. A class of logit minus infinity in both counts nothing.

    Args:
        student_NC: logits, any float dtype; computed in float32.
        teacher_NC: logits, any float dtype.
        temperature: T > 0.
        top_k: keep the teacher's k likeliest classes and add up the others into one bucket, so that the divergence of
            the coarser distributions is never negative and becomes the full one as k grows; a truncated sum is neither.
        divergence: of log-probabilities (student, teacher) over the last dimension.
    """
    student = F.log_softmax(student_NC.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_NC.detach().float() / temperature, dim=-1)
    if top_k is not None and top_k < teacher.shape[-1]:
        kept = teacher.topk(top_k, dim=-1).indices
        student, teacher = _bucket(student, kept), _bucket(teacher, kept)
    return divergence(student, teacher) * temperature**2


def _bucket(log_NC: Tensor, kept_NK: Tensor) -> Tensor:
    """Return log-probabilities [N, K + 1]: the kept classes, then the sum of all others."""
    others = log_sum(log_NC.scatter(-1, kept_NK, -math.inf)).unsqueeze(-1)
    return torch.cat([log_NC.gather(-1, kept_NK), others], dim=-1)


def log_sum(log_NC: Tensor) -> Tensor:
    """Return the log of the sum of probabilities [N]; minus infinity, without a NaN gradient, where all are 0."""
    impossible = torch.isneginf(log_NC).all(dim=-1, keepdim=True)
    return log_NC.masked_fill(impossible, 0.0).logsumexp(dim=-1).masked_fill(impossible.squeeze(-1), -math.inf)


def split_kl(student_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return T^2 KL of (target, rest) and T^2 KL among the rest, each float32 [N] in nats.

    Zhao et al. 2022 (arXiv 2203.08679), equations 4 to 6. Deviation: the target is left out of the rest exactly, where
    the authors' code subtracts 1000 from its logit.
    """
    target = F.one_hot(labels_N, student_NC.shape[-1]).bool()
    binary, rest = [], []
    for logits in (student_NC.float(), teacher_NC.detach().float()):
        log = F.log_softmax(logits / temperature, dim=-1)
        others = log.masked_fill(target, -math.inf)
        mass = log_sum(others)
        chosen = log.gather(-1, labels_N.unsqueeze(-1)).squeeze(-1)  # by a mask, a device would be waited for
        binary.append(torch.stack([chosen, mass], dim=-1))
        rest.append(others - mass.unsqueeze(-1))
    return kl(*binary) * temperature**2, kl(*rest) * temperature**2


def correlation(first: Tensor, second: Tensor, *, dim: int) -> Tensor:
    """Return Pearson's correlation along a dimension, in [-1, 1]; 0 where either side does not vary."""
    centred = [values - values.mean(dim=dim, keepdim=True) for values in (first, second)]
    return F.cosine_similarity(*centred, dim=dim, eps=1e-8)
