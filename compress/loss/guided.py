"""The one teacher-guided loss that trains, ranks channels, recovers and ranks layers for quantization."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, get_args

import torch
from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from torch import Tensor

from compress.config import Values
from compress.config.user_code import dump, origin
from compress.errors import InputError
from compress.loss.attention import DynamicLayers, Layers, Relations, Scores
from compress.loss.features import AttentionTransfer, Cosine, FeatureTerm, Hidden, Hint, LastFeature, Rkd
from compress.loss.logits import Bernoulli, Dist, Dkd, Hard, HardToken, Kl, LogitTerm, Mse, Uniform
from compress.loss.on_policy import OnPolicy
from compress.loss.own import AnyOwnTerm, OwnTerm, name_fault
from compress.loss.presets import PRESETS, PresetName
from compress.loss.term import Schedule, Share, Targets, Term, zscore


@dataclass(frozen=True)
class LossTerms:
    """What one batch costs.

    Attributes:
        values: named terms, unweighted: float32 [N] per unit, or a float32 scalar for a coupled term.
        weights: the weight of each term now.
        by_sample: the terms that have a value per sample where a sample has several units: those on features.
    """

    values: dict[str, Tensor]
    weights: dict[str, float]
    by_sample: set[str] = field(default_factory=set)

    @property
    def total_per_unit(self) -> Tensor:
        """Weighted sum of the terms, float32 [N]; there must be no coupled term."""
        assert all(value.dim() == 1 for value in self.values.values())
        return torch.stack([self.weights[name] * value for name, value in self.values.items()]).sum(dim=0)

    @property
    def total(self) -> Tensor:
        """Weighted sum of coupled terms and of the means of the others, a float32 scalar; 0 without terms."""
        means = [self.weights[name] * value.mean() for name, value in self.values.items()]
        return torch.stack(means).sum() if means else torch.zeros(())

    def objective(self, *, units: int, samples: int) -> Tensor:
        """Return what to differentiate: the sum of each term's values over the number of them in the whole update.

        Args:
            units: of all forward passes of the update, which terms on logits have a value for.
            samples: of all of them, which terms on features have a value for; with a coupled term there is one pass.
        """
        shares = []
        for name, value in self.values.items():
            count = samples if name in self.by_sample else units
            shares.append(self.weights[name] * (value.sum() / count if value.dim() else value))
        # The step at which one term ends and the next begins to rise may have none.
        return torch.stack(shares).sum() if shares else torch.zeros((), requires_grad=True)

    def average(self) -> dict[str, Tensor]:
        """The mean of each unweighted term and of the total, detached scalars."""
        means = {name: value.detach().mean() for name, value in self.values.items()}
        shares = [self.weights[name] * mean for name, mean in means.items()]  # `total` takes them anew
        return {"total": torch.stack(shares).sum() if shares else torch.zeros(()), **means}


@dataclass(frozen=True)
class Reading:
    """How logits are read before they become probabilities.

    Attributes:
        temperature: that they are divided by.
        standardised: whether each row is z-scored first.
    """

    temperature: float = 1.0
    standardised: bool = False

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the log of the probabilities that are read, float64 [units, C]."""
        read = zscore(logits) if self.standardised else logits
        return (read.double() / self.temperature).log_softmax(1)

    def __str__(self) -> str:
        """In words."""
        return f"temperature {self.temperature:g}{' of standardised logits' if self.standardised else ''}"


class GuidedLoss(Values):
    """A weighted sum of named terms; a value without state.

    Every stage of a pipeline holds the same one and logs its fingerprint. In a recipe each term is a key with its
    fields, and the name of a preset stands for its terms: ``loss: hinton``. A preset under ``preset`` is the base that
    the other keys change: ``loss: {preset: hinton, kl: {temperature: 8}}``.

    A term of the user's own has a name of its own: an object of a subclass of `LogitTerm` or `FeatureTerm` in Python,
    ``mine: {file: my_loss.py, class: Margin, margin: 0.2}`` in a recipe, which `Recipe.resolve` turns into the object.

    Attributes:
        preset: replaced by the terms it stands for.
        mixup: share of the samples of a batch that are mixed with another sample (Zhang et al. 2018, arXiv 1710.09412,
            with a uniform coefficient, as function matching does); teacher and student see the same mixture, so no
            label fits, and terms that read labels are refused.
        on_policy: updates that learn what the student has just written, of tasks that write (Agarwal et al. 2024, arXiv
            2306.13649); it is no label either.
        hard: the labels' term.
        kl: softened divergence from the teacher.
        hard_token: cross-entropy with the teacher's decision.
        dkd: target and non-target classes apart.
        dist: correlations over classes and over the batch.
        bernoulli: independent labels.
        mse: squared error to the teacher's outputs.
        uniform: cross-entropy with the uniform distribution, for label smoothing.
        hint: middle features through a projector.
        hidden: features of all stages, relative to the teacher's size.
        cosine: direction of the last hidden states.
        attention_transfer: where activations are strong.
        rkd: distances and angles within the batch.
        last_feature: last features through an orthogonal projector.
        layers: hidden states of a transformer's layers.
        dynamic_layers: the same, matched with the layers that pruning left.
        scores: attention of a transformer's heads.
        relations: relations between queries, keys and values.
    """

    model_config = ConfigDict(extra="allow")
    if TYPE_CHECKING:  # with this default pydantic would keep further keys among the fields
        __pydantic_extra__: dict[str, Any] | None = Field(init=False)
    else:
        __pydantic_extra__: dict[str, AnyOwnTerm]

    preset: PresetName | None = None
    mixup: Share = 0.0
    on_policy: Annotated[OnPolicy | None, Field(exclude_if=lambda how: how is None)] = None  # keys are what they were
    hard: Hard | None = None
    kl: Kl | None = None
    hard_token: HardToken | None = None
    dkd: Dkd | None = None
    dist: Dist | None = None
    bernoulli: Bernoulli | None = None
    mse: Mse | None = None
    uniform: Annotated[Uniform | None, Field(exclude_if=lambda term: term is None)] = None  # keys are what they were
    hint: Hint | None = None
    hidden: Hidden | None = None
    cosine: Cosine | None = None
    attention_transfer: AttentionTransfer | None = None
    rkd: Rkd | None = None
    last_feature: LastFeature | None = None
    layers: Layers | None = None
    dynamic_layers: DynamicLayers | None = None
    scores: Scores | None = None
    relations: Relations | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        """Replace a preset by its terms; keys beside it change them."""
        if isinstance(given, str):
            given = {"preset": given}
        if not isinstance(given, dict) or given.get("preset") not in PRESETS:
            return given  # what is wrong with it is told by the fields
        changes = {name: _fields(value) for name, value in given.items() if name != "preset"}
        empty = [name for name, value in changes.items() if value is None and name not in PRESETS[given["preset"]]]
        if empty:
            raise ValueError(f"{empty[0]} is empty, and the preset has no such term; write {empty[0]}: {{}} to add it")
        merged = _merge(PRESETS[given["preset"]], changes)
        whole = {name: value for name, value in given.items() if isinstance(value, Term)}
        return merged | {
            name: type(term).model_validate(merged[name]) if name in TERMS else term for name, term in whole.items()
        }

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """A term of the user's own class is written with its class, so that nothing stored is taken for another's."""
        fields = write(self)
        for name, term in self._read.items():
            if name in TERMS and type(term) is not TERMS[name]:
                fields[name] = dump(term, info)
        own = {name: fields.pop(name) for name in self.own}  # in an order that does not depend on the spelling
        return fields | own

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A mapping of terms, or the name of a preset."""
        return {"anyOf": [handler(core), {"enum": list(get_args(PresetName))}]}

    def model_post_init(self, _context: object) -> None:
        """Refuse a loss without any term, labels for mixtures, and own terms without a source or with an odd name."""
        terms = self._read
        if not terms and not self.unread:
            raise ValueError("a loss without terms: nothing would be learnt; name a term such as kl, or a preset")
        for fault in filter(None, map(name_fault, self.own)):
            raise ValueError(fault)
        for name, term in terms.items():
            if type(term) is not TERMS.get(name):
                origin(type(term))
        ends = _ends([term.schedule for term in terms.values()])
        if ends < 1 and not self.unread:
            raise ValueError(f"no term counts after {ends:g} of the steps; let a schedule begin there, or end later")
        labelled = [name for name, term in terms.items() if term.reads_labels]
        if self.mixup and labelled:
            raise ValueError(f"no label fits a mixture of two samples; leave out mixup or {', '.join(labelled)}")
        if self.on_policy and labelled:
            raise ValueError(f"what the student writes is no label; leave out on_policy or {', '.join(labelled)}")

    @property
    def own(self) -> dict[str, Term | OwnTerm]:
        """What stands under names of the user's own, by name."""
        return dict(sorted((self.__pydantic_extra__ or {}).items()))

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of the terms whose file is still to be run; see `Recipe.resolve`."""
        return tuple(name for name, term in self.own.items() if isinstance(term, OwnTerm))

    @property
    def _read(self) -> dict[str, Term]:
        terms = {**self.__dict__, **self.own}
        return {name: value for name, value in terms.items() if isinstance(value, Term)}

    @property
    def terms(self) -> dict[str, Term]:
        """The terms by name, in a fixed order: ours, and then the user's own.

        Raises:
            InputError: when the file of one is still to be run.
        """
        if self.unread:
            raise InputError(
                "the loss has terms in a file that was not run",
                expected="Recipe.resolve(code=...) first",
                got=", ".join(self.unread),
            )
        return self._read

    @property
    def logit_terms(self) -> dict[str, LogitTerm]:
        """The terms that need logits only."""
        return {name: term for name, term in self.terms.items() if isinstance(term, LogitTerm)}

    @property
    def feature_terms(self) -> dict[str, FeatureTerm]:
        """The terms that need taps."""
        return {name: term for name, term in self.terms.items() if isinstance(term, FeatureTerm)}

    @property
    def coupled(self) -> tuple[str, ...]:
        """Names of the terms that compare the units of a batch with each other."""
        return tuple(name for name, term in self.terms.items() if term.kind == "coupled")

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be there."""
        return any(term.reads_teacher for term in self.terms.values())

    @property
    def needs_labels(self) -> bool:
        """Whether samples must be labelled."""
        return any(term.reads_labels for term in self.terms.values())

    @property
    def readings(self) -> tuple[Reading, ...]:
        """How terms read the teachers' logits: at the largest temperature, as they are and standardised if some do so.

        A term without a temperature reads them at 1.
        """
        terms = [(term, bool(getattr(term, "standardise", False))) for term in self.logit_terms.values()]
        found: list[Reading] = []
        for standardised in (False, True):
            alike = [term for term, how in terms if how == standardised]
            if any(term.reads_teacher for term in alike):
                said = (getattr(term, "temperature", 1.0) for term in alike)
                found.append(
                    Reading(max(float(value) for value in said if isinstance(value, int | float)), standardised)
                )
        return tuple(found) or (Reading(),)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any term, weight or schedule."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()[:12]

    def on_logits(
        self, student: Tensor, targets: Targets, *, progress: float = 1.0, per_unit: bool = False
    ) -> LossTerms:
        """Return the terms that need logits only; by default with their final weights.

        Terms whose weight is 0 now are not computed.

        Args:
            student: logits [N, C].
            targets: the teacher's logits and the labels.
            progress: share of the training steps done, 0 to 1.
            per_unit: leave out coupled terms too, for a score of each sample.
        """
        values: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for name, term in self.logit_terms.items():
            weight = term.weight * term.schedule.factor(progress)
            if weight > 0 and not (per_unit and term.kind == "coupled"):
                values[name] = term.check_value(term.value(student, targets), name=name, units=len(student))
                weights[name] = weight
        return LossTerms(values, weights)

    def final_logit_terms(self, *, per_unit: bool = False) -> tuple[str, ...]:
        """Return the names of the terms, or of the per-unit ones, that read logits alone and have weight at the end."""
        return tuple(
            name
            for name, term in self.logit_terms.items()
            if term.schedule.factor(1.0) > 0 and not (per_unit and term.kind == "coupled")
        )


TERMS: dict[str, type[Term]] = {
    name: kind
    for name, field_info in GuidedLoss.model_fields.items()
    for kind in get_args(field_info.annotation)
    if isinstance(kind, type) and issubclass(kind, Term)
}


def _ends(schedules: Sequence[Schedule]) -> float:
    """Return up to which share of the steps some term counts, without a gap from the beginning."""
    ends = 0.0
    for begin, end in sorted((schedule.begin_fraction, schedule.end_fraction) for schedule in schedules):
        if begin > ends:
            break
        ends = max(ends, end)
    return ends


def _fields(value: Any) -> Any:
    """Return the fields of a term that were given."""
    return value.model_dump(exclude_unset=True) if isinstance(value, Term) else value


def _merge(base: Any, changes: Any) -> Any:
    """Return mappings merged at every depth; anything else is replaced."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{name: _merge(base.get(name), value) for name, value in changes.items()}}
