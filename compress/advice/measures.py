"""The cheap probes of one distillation: which samples they look at, and what they measure there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import testing
from compress.advice import probes
from compress.data import Data, Samples
from compress.errors import ModelError
from compress.loss import BoundLoss, GuidedLoss, bind
from compress.loss.attention import DynamicLayers
from compress.loss.features import pool
from compress.loss.logits import Hard
from compress.loss.pairing import stages
from compress.loss.taps import Tap, Trace, capture_taps, dry_run, evaluating
from compress.loss.term import ALWAYS
from compress.measures.intervals import Estimate, wilson_interval
from compress.models.fold import duplicate
from compress.stage import Host, Work
from compress.surgery.cost import model_cost
from compress.tasks import View
from compress.training.numerics import numerics, place_batch, placed
from compress.training.teacher import TeacherOutputs, teacher_outputs
from compress.training.teaching import targets_of

PROBED = 2048  # samples of each role that the probes look at
PAIRED = 256  # samples whose features are compared
BATCH = 128  # samples
BATCHES = 4  # of the gradient audit
POOLED = 4  # pixels on each side of the maps whose similarity is measured
TAPS_LIMIT_BYTES = 1e9  # of the teacher's features that are stored for the audit
Labels = tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]
SEED = 0  # of resamples and of the domain classifier; apart from the recipe's, so that advice is the same for all seeds


@dataclass(frozen=True)
class Measure:
    """What one probe found.

    Attributes:
        probe: which one; names a rule.
        value: with its interval.
        subject: the term, pair or stage that it is of; empty for the whole recipe.
        detail: what else is worth showing.
    """

    probe: str
    value: Estimate
    subject: str = ""
    detail: str = ""


def draw_probe(data: Data) -> Data:
    """Return train and select with at most PROBED samples each; the other roles are left empty, so nothing reads them.

    Roles are ordered by hash, so their first samples are a random draw that is the same every time.
    """
    few = {role: data.roles[role].take(np.arange(min(PROBED, len(data.roles[role])))) for role in ("train", "select")}
    none = {role: samples.take(np.arange(0)) for role, samples in data.roles.items() if role not in few}
    return replace(data, roles={**few, **none})


def exactly(value: float) -> Estimate:
    """Return a number that no sample decided."""
    return Estimate(value, value, value)


def capacity(student: nn.Module, teacher: nn.Module, example: tuple[Tensor, ...]) -> list[Measure]:
    """Measure the student's parameters over the teacher's."""
    ours, theirs = model_cost(student, example), model_cost(teacher, example)
    detail = f"{ours.parameters:,} of {theirs.parameters:,} parameters; MACs {ours.macs / theirs.macs:.3f}"
    return [Measure("capacity", exactly(ours.parameters / theirs.parameters), detail=detail)]


def logits_only(loss: GuidedLoss, student: nn.Module, teacher: nn.Module, example: tuple[Tensor, ...]) -> list[Measure]:
    """Measure the same where the loss reads logits alone, which a very small student makes little of."""
    if loss.feature_terms:
        return []
    return [replace(measure, probe="logits-only", detail="") for measure in capacity(student, teacher, example)]


def shift(data: Data, reference: Samples | None) -> list[Measure]:
    """Measure how well the distillation data are told apart from a sample of what the teacher knows.

    Args:
        data: the train role is what the student learns from.
        reference: what the teacher was trained on; None takes select, which the student will be judged on.
    """
    known = data.select if reference is None else reference
    sides = [probes.summaries(samples.inputs[:PROBED]) for samples in (known, data.train)]
    area = probes.domain_auc(*sides, seed=SEED)
    return [Measure("shift", area, detail=f"train against {'select' if reference is None else 'the reference'}")]


def conformance(loss: GuidedLoss) -> list[Measure]:
    """Measure how many of the properties that each logit term declares it has; see `compress.testing`."""
    found = []
    for name, term in loss.logit_terms.items():
        held = testing.term_properties(term)
        broken = sorted(declared for declared in term.declared if not held.get(declared, True))
        share = 1 - len(broken) / max(1, len(term.declared))
        found.append(Measure("conformance", exactly(share), name, "broken: " + ", ".join(broken) if broken else ""))
    return found


def calibration(select: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Measure]:
    """Measure whether the teacher is as right as it is sure, on held-out logits [N, C]."""
    correct, sure = select.argmax(axis=1) == labels, probes.confidence(select)
    nats = probes.negative_log_likelihood(select, labels)
    fitted = probes.fit_temperature(select, labels)
    after = probes.negative_log_likelihood(select, labels, temperature=fitted.value)
    return [
        Measure("calibration", probes.debias(probes.expected_calibration_error, (sure, correct), seed=SEED)),
        Measure("fitted-temperature", fitted, detail=f"NLL {nats:.3f} nats, {after:.3f} at the fitted temperature"),
    ]


def memorisation(
    train: NDArray[np.float32], select: NDArray[np.float32], known: NDArray[np.float32], labels: Labels
) -> list[Measure]:
    """Measure how the teacher differs between the distillation data, held-out data and what it knows.

    Args:
        train: logits [N, C] on the distillation data.
        select: on held-out data.
        known: on a sample of what it was trained on, or held-out data again.
        labels: of the first two; either may have none.
    """
    sure = probes.confidence(train), probes.confidence(select)
    found = [
        Measure("confidence-gap", probes.bootstrap(_gap, (sure[0],), (sure[1],), seed=SEED)),
        Measure("confidence-drop", probes.bootstrap(_gap, (probes.confidence(known),), (sure[0],), seed=SEED)),
    ]
    if labels[0] is None or labels[1] is None:
        return found
    right = train.argmax(axis=1) == labels[0], select.argmax(axis=1) == labels[1]
    rates = f"{right[0].mean():.1%} on train, {right[1].mean():.1%} on select"
    found.append(Measure("accuracy-drop", probes.bootstrap(_gap, (right[1],), (right[0],), seed=SEED), detail=rates))
    return [*found, *_filter(sure, right)]


def _gap(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    return float(left.mean() - right.mean())


def _filter(
    sure: tuple[probes.Array, probes.Array], right: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> list[Measure]:
    """Measure the teacher's errors on train over those on select, where it is no surer on train than when it is right.

    A teacher that learnt train by heart is surer there than on held-out data that it decides rightly; one whose errors
    were filtered away is not.
    """
    errors = [wilson_interval(int((~side).sum()), len(side)) for side in right]
    if errors[1].low <= 0.01:
        return []  # a teacher that is nearly always right leaves nothing to filter
    surer = float(sure[0].mean() - sure[1][right[1]].mean())
    if surer > 0.01:
        return []
    quotient = Estimate(
        errors[0].value / errors[1].value, errors[0].low / errors[1].high, errors[0].high / errors[1].low
    )
    return [Measure("filtered", quotient, detail=f"{(~right[0]).sum()} errors on {len(right[0]):,} train samples")]


def softness(train: NDArray[np.float32], loss: GuidedLoss) -> list[Measure]:
    """Measure what the teacher says of the classes that it does not decide for, at each term's temperature."""
    suggested = probes.suggest_temperature(train)
    table = ", ".join(
        f"{temperature:g}: {probes.non_target_mass(train, temperature=temperature).mean():.3f} "
        f"({probes.effective_classes(train, temperature=temperature):.1f} classes)"
        for temperature in probes.TEMPERATURES
    )
    found = []
    for name, term in loss.logit_terms.items():
        if not term.reads_teacher or "temperature" not in vars(term) or vars(term).get("standardise"):
            continue
        temperature = vars(term)["temperature"]
        mass = probes.bootstrap(np.mean, (probes.non_target_mass(train, temperature=temperature),), seed=SEED)
        detail = f"at temperature {temperature:g}; {suggested:g} is suggested; by temperature {table}"
        found.append(Measure("non-target-mass", mass, name, detail))
    return found


def audit(loss: GuidedLoss, work: Work, host: Host, *, student: nn.Module, teacher: nn.Module | None) -> list[Measure]:
    """Measure each weighted term's gradient at step 0 against the labels': its length over theirs, and the angle.

    Schedules are left out: every term counts fully. Where the loss has no `hard` term and the samples have labels, that
    term with weight 1 is the yardstick; without labels the first term is.

    Args:
        loss: the terms.
        work: with the teacher, and the probe set as its data.
        host: store, execution.
        student: as training begins with it; not changed.
        teacher: the loaded teacher; None when no term reads one.
    """
    student, samples = duplicate(student), work.data.train
    labelled = loss.hard is not None or (samples.labels is not None and not loss.mixup)
    terms = {name: term.model_copy(update={"schedule": ALWAYS}) for name, term in loss.terms.items()}
    everything = loss.model_copy(update=({"hard": Hard()} if labelled else {}) | terms)
    yardstick = "hard" if labelled else next(iter(terms))
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    bound = bind(everything, student, teacher, example, seed=SEED)
    ratios: dict[str, list[float]] = {name: [] for name in terms if name != yardstick}
    cosines: dict[str, list[float]] = {name: [] for name in ratios}
    view = work.task.views(mixup=loss.mixup)[0] if loss.mixup else None
    taught = _taught(work, host, bound, view=view) if loss.needs_teacher else None
    student.train()
    running = () if taught is None else taught.running
    with numerics(host, seed=SEED), placed(host, student, bound, *running), bound.attach(student):
        parameters = [value for value in student.parameters() if value.requires_grad]
        for index in torch.arange(len(samples)).split(BATCH)[:BATCHES]:
            batch = place_batch(work.task.batch(samples, index, view=view), host.device)
            says = None if taught is None else taught(batch)
            logits = work.task.forward(student, batch)
            targets = targets_of(work.task, batch, logits, loss=everything, taught=says)
            found = bound(logits, targets, teacher_features=None if says is None else says.features, progress=0.0)
            gradients = {
                name: _gradient(found.weights[name] * value.mean(), parameters) for name, value in found.values.items()
            }
            for name, values in ratios.items():
                values.append(probes.norm_ratio(gradients[name], gradients[yardstick]))
                cosines[name].append(probes.cosine(gradients[name], gradients[yardstick]))
    found = []
    for name, values in ratios.items():
        detail = f"against {yardstick}, on {len(values)} batches"
        found.append(Measure("gradient-ratio", probes.over_batches(values), name, detail))
        found.append(Measure("gradient-cosine", probes.over_batches(cosines[name]), name, detail))
    return found


def _taught(work: Work, host: Host, bound: BoundLoss, *, view: View | None) -> TeacherOutputs:
    return teacher_outputs(
        work,
        host,
        work.data.train,
        views=(view,),
        taps=bound.teacher_shapes,
        limit_bytes=TAPS_LIMIT_BYTES,
    )


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> probes.Array:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    parts = [
        (torch.zeros_like(own) if value is None else value).flatten()
        for own, value in zip(parameters, found, strict=True)
    ]
    return torch.cat(parts).cpu().double().numpy()  # in this order: not every device has float64


def pairing(loss: GuidedLoss, student: nn.Module, teacher: nn.Module, work: Work, host: Host) -> list[Measure]:
    """Measure how similar the layers are that each term compares, and which ones are most similar.

    Linear CKA of an untrained student says how much of a layer's geometry comes from the input alone; a pair that even
    so has nothing in common is a poor target. The pairs that dynamic layers choose from are not judged one by one.
    """
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    traces = dry_run(student, example, role="student"), dry_run(teacher, example, role="teacher")
    compared = bind(loss, student, teacher, example, seed=SEED).pairs
    named = {
        (pair.student, pair.teacher): term
        for term, pairs in compared.items()
        if not isinstance(loss.terms[term], DynamicLayers)
        for pair in pairs
    }
    candidates = [_stages(module, trace, work, host) for module, trace in zip((student, teacher), traces, strict=True)]
    taps = [list(dict.fromkeys([*candidates[side], *(pair[side] for pair in named)])) for side in (0, 1)]
    features = [_features(module, work, host, side) for module, side in zip((student, teacher), taps, strict=True)]
    similarity = {
        (ours, theirs): probes.linear_cka(features[0][ours], features[1][theirs])
        for ours in taps[0]
        for theirs in taps[1]
    }
    best = probes.best_match({(str(ours), str(theirs)): value for (ours, theirs), value in similarity.items()})
    if not named:
        if not best:
            return []
        listed = "; ".join(f"{ours} : {theirs}" for ours, theirs in best.items())
        return [Measure("best-pairs", exactly(max(similarity.values())), detail=listed)]
    return [
        Measure(
            "pair-similarity",
            probes.jackknife(probes.linear_cka, features[0][ours], features[1][theirs]),
            f"{term}, {ours} : {theirs}",
            f"{best[str(ours)]} is the teacher's most similar layer",
        )
        for (ours, theirs), term in named.items()
    ]


def _stages(module: nn.Module, trace: Trace, work: Work, host: Host) -> list[Tap]:
    """Return the ends of a model's stages; none where they cannot be told apart, or are changed in place afterwards."""
    try:
        found = stages(trace)
        _features(module, work, host, found, samples=2)
    except ModelError:
        return []
    return found


def _features(
    module: nn.Module, work: Work, host: Host, taps: Sequence[Tap], *, samples: int = PAIRED
) -> dict[Tap, probes.Array]:
    """Return tapped tensors of the first train samples as rows [N, D]; see `_row`."""
    rows: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    with (
        numerics(host, seed=SEED),
        placed(host, module),
        evaluating(module),
        torch.no_grad(),
        capture_taps(module, taps) as capture,
    ):
        for index in torch.arange(min(samples, len(work.data.train))).split(64):
            batch = work.task.batch(work.data.train, index)
            work.task.forward(module, place_batch(batch, host.device))
            for tap, value in capture.take().items():
                rows[tap].append(_row(value.cpu(), batch.mask).flatten(1))
    return {tap: torch.cat(parts).double().numpy() for tap, parts in rows.items()}


def _row(value: Tensor, mask: Tensor | None) -> Tensor:
    """Return maps averaged down to POOLED pixels a side, tokens to the mean of those that are no padding."""
    if value.dim() == 4:
        size = min(POOLED, value.shape[2]), min(POOLED, value.shape[3])
        return nn.functional.adaptive_avg_pool2d(value.float(), size)
    return pool(value, mask if mask is not None and value.shape[:2] == mask.shape else None)


def train_logits(
    work: Work, host: Host, loss: GuidedLoss, student: nn.Module, teacher: nn.Module
) -> NDArray[np.float32]:
    """Return the teacher's logits [N, C] on train, from the pass whose features `audit` reads too."""
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    return _taught(work, host, bind(loss, student, teacher, example, seed=SEED), view=None).logits(None).numpy()


def of_teacher(work: Work, host: Host, train: NDArray[np.float32], *, reference: Samples | None) -> list[Measure]:
    """Measure calibration and what the teacher makes of train, held-out and known samples.

    Args:
        work: with the teacher, and the probe set as its data.
        host: store, execution.
        train: the teacher's logits [N, C] on the train samples.
        reference: a sample of what the teacher was trained on; None when that is the train role itself.
    """
    data = work.data
    select = _says(work, host, data.select)
    known = select if reference is None else _says(work, host, reference)
    labels = data.train.labels, data.select.labels
    found = [] if labels[1] is None else calibration(select, labels[1])
    return [*found, *memorisation(train, select, known, labels)]


def _says(work: Work, host: Host, samples: Samples) -> NDArray[np.float32]:
    return teacher_outputs(work, host, samples, views=(None,)).logits(None).numpy()
