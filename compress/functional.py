"""The methods on a plain module and batches of one's own: no recipe, no store, no tracking.

A batch is what a `DataLoader` of torch gives, or anything alike: inputs, a pair (inputs, labels), or a mapping of named
inputs with ``labels`` among them or not. An example is what a module is called with: a tensor, or a tuple of them, the
samples in dimension 0. Of several outputs the logits are those called ``logits`` (a key or field), or else the only
ones [samples, outputs]. The stages of a pipeline call the same functions below this module.

All names are imported from here; ``compress.export`` is the package of that name, and no function.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import DataError, ModelError
from compress.export import write
from compress.export.graph import OPSET, to_onnx
from compress.export.session import Session
from compress.export.write import Exported, read_signature
from compress.loss import GuidedLoss, bound
from compress.loss.logits import Hard
from compress.loss.taps import evaluating
from compress.models.outputs import USUAL as USUAL_OUTPUT
from compress.progress import Reporter
from compress.quantization import quantize as quantization
from compress.quantization.calibration import finder
from compress.quantization.placement import Mode
from compress.quantization.quantize import Bounds, Quantized
from compress.stage import Compute, Execution, Optimization, Precision
from compress.stage.device import device_of
from compress.surgery import encoders
from compress.surgery import prune as surgery
from compress.surgery.find import DEFAULT_UNITS
from compress.surgery.groups import Group
from compress.surgery.importance import Importance, magnitude
from compress.surgery.prune import Pruned
from compress.surgery.widths import Measure, Ranking
from compress.tasks.signature import Signature
from compress.tasks.task import Problem
from compress.training.checks import AnyLoss, Example, arguments, call, outputs_of, readable_loss, refuse_pair
from compress.training.given import Given, GivenLoader, Plain, problem_of, read_batch, read_calibration
from compress.training.guidance import Guidance
from compress.training.importance import loader_importance
from compress.training.loop import Fit, fit
from compress.training.numerics import lay_out, numerics
from compress.training.teaching import live_teacher

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Exported", "Fit", "Guidance", "Pruned", "Quantized", "bind", "distill", "export", "prune", "quantize"]

USUAL = Optimization()
LABELS_ALONE = GuidedLoss(hard=Hard())


def bind(
    loss: AnyLoss,
    student: nn.Module,
    teacher: nn.Module | None,
    example: Example | Mapping[str, Tensor],
    *,
    problem: Problem | None = None,
    seed: int = 0,
) -> Guidance:
    """Return a guided loss for a training loop of one's own; see `Guidance`.

    Args:
        loss: terms, as `GuidedLoss` or as a recipe spells them; or the name of a preset.
        student: not changed.
        teacher: not changed; None when no term reads one. In the loop, run it in evaluation mode without gradients.
        example: inputs of at least two samples; a mapping gives them by name.
        problem: what the outputs are; None reads it off the labels.
        seed: draws the projectors' weights.

    Raises:
        ModelError: when a model does not run on the example, or a term's taps cannot be paired.
        DataError: when a term means nothing for the problem.
    """
    loss = readable_loss(loss, problem, teacher)
    named = isinstance(example, Mapping)
    given = read_batch(example if named else (arguments(example),))
    task = Plain(problem or "single-label", given.names)
    for role, module in (("student", student), ("teacher", teacher)):
        if module is not None:
            outputs_of(module, task, given.batch, role=role)
    return Guidance(_bind(loss, student, teacher, given, seed=seed), student, teacher, problem=problem)


def distill(
    student: nn.Module,
    teacher: nn.Module | None,
    loader: Iterable[Any],
    *,
    loss: AnyLoss = "hinton",
    epochs: int = USUAL.epochs,
    learning_rate: float = USUAL.learning_rate,
    optimizer: Literal["sgd", "adamw"] = USUAL.optimizer,
    accumulate: int = USUAL.accumulate,
    warmup_fraction: float = USUAL.warmup_fraction,
    weight_decay: float = USUAL.weight_decay,
    clip_norm: float = USUAL.clip_norm,
    steps_per_epoch: int | None = None,
    problem: Problem | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    quiet: bool = False,
) -> Fit:
    """Train the student in place on the guided loss, and say what was done; the teacher is not changed.

    The teacher is run on each batch, in evaluation mode without gradients. Ctrl-C stops at once and leaves the student
    with the weights of the last update. A shuffling DataLoader without a generator of its own follows the seed.

    Args:
        student: trained in place, and left in evaluation mode.
        teacher: None when no term of the loss reads one.
        loader: batches; iterated anew in each epoch.
        loss: terms, as `GuidedLoss` or as a recipe spells them; or the name of a preset.
        epochs: passes over the loader.
        learning_rate: the peak of the schedule: linear warm-up, then a cosine to zero.
        optimizer: ``sgd`` with Nesterov momentum 0.9, or ``adamw``.
        accumulate: batches per update.
        warmup_fraction: share of the steps spent warming up.
        weight_decay: applied to matrices and kernels, not to biases and norms.
        clip_norm: largest gradient norm; larger ones are scaled down.
        steps_per_epoch: updates in an epoch; None takes as many as the loader has batches for.
        problem: what the outputs are; None reads it off the labels.
        precision: of the forward passes of both models; bfloat16 means autocast.
        seed: of dropout, projectors and a shuffling DataLoader.
        quiet: show no progress.

    Raises:
        DataError: when batches or labels are not understood, or labels are missing.
        ModelError: when a model does not run on a batch, is on another device, or has other outputs than the other.
        StageError: when there is nothing to learn, or the loss is no longer finite.
    """
    optimization = Optimization(
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        accumulate=accumulate,
        warmup_fraction=warmup_fraction,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    host = _compute(student, precision=precision, quiet=quiet)
    with numerics(host, seed=seed), evaluating(student if teacher is None else teacher):
        batches = GivenLoader(loader, accumulate=accumulate, steps_per_epoch=steps_per_epoch)
        first = batches.first
        task = Plain(problem_of(first.batch.labels, problem), first.names)
        loss = readable_loss(loss, task.problem, teacher)
        refuse_pair(student, teacher, task, first.batch, loss=loss, problem=task.problem, precision=precision)
        guide = _bind(loss, student, teacher, first, seed=seed)
        teaching = None
        if teacher is not None and loss.needs_teacher:
            teaching = live_teacher(teacher, task, host, list(guide.teacher_shapes))
        try:
            return fit(
                student,
                task,
                batches,
                host,
                loss=guide,
                teacher=teaching,
                optimization=optimization,
                seed=seed,
                name="distill",
            )
        finally:
            lay_out(student, torch.contiguous_format)
            student.eval()


def prune(
    module: nn.Module,
    example: Example,
    *,
    kept_macs_fraction: float | None = None,
    kept_params_fraction: float | None = None,
    loss: AnyLoss = LABELS_ALONE,
    loader: Iterable[Any] | None = None,
    teacher: nn.Module | None = None,
    batches: int = 16,
    units: Sequence[encoders.Unit] = DEFAULT_UNITS,
    ranking: Ranking | None = None,
    round_to: int | None = None,
    tolerance: float | None = None,
    protected: Sequence[str] = (),
    problem: Problem | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Pruned:
    """Return a new, smaller module with its plan; the given one is not changed.

    Channels, heads and layers are removed with everything coupled to them, and the result is proved against a masked
    copy. It has lost accuracy: train it again, as with `distill`.

    Args:
        module: a plain module, in any mode.
        example: inputs of at least two samples; multiply-accumulates are those of samples of this size.
        kept_macs_fraction: share of the multiply-accumulates to keep; this or the next, not both.
        kept_params_fraction: share of the parameters to keep.
        loss: what channels are ranked by, on the loader's batches; by default the labels alone.
        loader: batches; None ranks by the norms of weights, and reads no loss.
        teacher: for terms that read one.
        batches: how many of the loader's are read at most.
        units: what may be cut in a transformer.
        ranking: ``global``, ``uniform`` or ``per_cost``; None takes ``per_cost`` for a transformer with a loader, else
            ``global``.
        round_to: widths are multiples of it; None takes what kernels like.
        tolerance: largest shortfall below the target, as a share of the unpruned cost; None allows any.
        protected: globs of module paths whose outputs keep all their channels.
        problem: what the outputs are; None reads it off the labels.
        seed: of labels drawn from the module's own outputs, where the loss has no gradient to rank by.
        quiet: show no progress.

    Raises:
        DataError: when not exactly one share is given, or batches are not understood.
        ModelError: when the module does not run on the example, or a layer cannot be cut; it is named.
        StageError: when the share cannot be reached, or nothing was removed.
    """
    kept: dict[Measure, float | None] = {"macs": kept_macs_fraction, "parameters": kept_params_fraction}
    asked: list[tuple[Measure, float]] = [(name, share) for name, share in kept.items() if share is not None]
    if len(asked) != 1 or not 0 < asked[0][1] < 1:
        raise DataError(
            "pruning needs one share to keep",
            expected="kept_macs_fraction or kept_params_fraction, between 0 and 1",
            got=f"kept_macs_fraction={kept_macs_fraction}, kept_params_fraction={kept_params_fraction}",
        )
    measure, target = asked[0]
    inputs = arguments(example)
    call(module, inputs, role="module")
    host = _compute(module, precision="float32", quiet=quiet)

    def scores(unpruned: nn.Module, groups: Sequence[Group]) -> Importance:
        if loader is None:
            return magnitude(unpruned, groups)
        with numerics(host, seed=seed), evaluating(unpruned if teacher is None else teacher):
            return loader_importance(
                unpruned, groups, loader, host, loss=loss, teacher=teacher, count=batches, problem=problem, seed=seed
            )

    return surgery.prune(
        module,
        inputs,
        scores,
        measure=measure,
        target=target,
        units=units,
        ranking=ranking,
        round_to=round_to,
        tolerance=tolerance,
        protected=protected,
    )


def quantize(
    module: nn.Module,
    example: Example,
    calibration: Example | Iterable[Any],
    *,
    mode: Mode | None = None,
    method: Literal["minmax", "percentile", "entropy"] = "percentile",
    percentile: float = 99.99,
    keep_float: Sequence[str] = (),
    reduce_range: bool = False,
    bounds: Bounds = quantization.USUAL,
    axes: Mapping[int, str] | None = None,
    problem: Problem = "single-label",
    opset: int = OPSET,
    quiet: bool = False,
) -> Quantized:
    """Return the int8 form of a module: its plan, and the ONNX file's bytes as ``onnx``; the module is not changed.

    Every layer with an int8 kernel is in int8 but for those that ``keep_float`` names. What ONNX Runtime really runs,
    the size of the weights and the decisions on the calibration samples are held to the bounds.

    Args:
        module: a plain module, in any mode.
        example: inputs of at least two samples.
        calibration: inputs of a few hundred samples that look like those of production: a tensor, a tuple with one for
            each input, or an iterable of batches, whose labels are not read.
        mode: ``static`` (ranges from the calibration samples) or ``dynamic`` (ranges of each batch); None takes dynamic
            for a module with attention that is not mostly convolutions, else static.
        method: how a range is picked from what was seen.
        percentile: for ``percentile``, per cent of all elements on the near side of each bound.
        keep_float: globs of module paths that stay in float.
        reduce_range: 7-bit weights, for CPUs without VNNI.
        bounds: what is asserted of the result.
        axes: dynamic axes of the inputs by number, besides 0, the batch: ``{1: "length"}``.
        problem: what the outputs are; says what a decision is.
        opset: the ONNX opset.
        quiet: show no progress.

    Raises:
        ModelError: when the module does not run on the example.
        StageError: when it cannot be exported, or a bound is missed, with the layers that did it.
    """
    inputs = arguments(example)
    call(module, inputs, role="module")
    batches = read_calibration(calibration, inputs)
    signature = read_signature(module, inputs, axes=axes)

    logits = 0 if problem == "regression" else _find_logits(signature)

    def decide(graph: "ModelProto") -> NDArray[Any] | None:
        if problem == "regression":
            return None
        session = Session(graph)
        outputs = np.concatenate([session(*batch)[logits] for batch in batches])
        return outputs.argmax(axis=-1) if problem == "single-label" else outputs > 0

    with Reporter(quiet=quiet).bar("quantize"):
        return quantization.quantize(
            to_onnx(module, signature, inputs, opset=opset),
            lambda: batches,
            find=finder(method, percent=percentile),
            decide=decide,
            mode=mode,
            keep_float=keep_float,
            reduce_range=reduce_range,
            bounds=bounds,
        )


def _find_logits(signature: Signature) -> int:
    """Return the position of the output that decides: the one called ``logits``, else the only [samples, outputs]."""
    outputs = signature.outputs
    named = [index for index, output in enumerate(outputs) if output.name == USUAL_OUTPUT]
    flat = [index for index, output in enumerate(outputs) if len(output.shape) == 2]
    found = named or flat or range(len(outputs))
    if len(found) > 1:
        raise ModelError(
            "which of the module's outputs are its logits is not clear",
            expected=f"one called {USUAL_OUTPUT!r}, or a single one of shape [samples, outputs]",
            got=", ".join(f"{output.name} {list(output.shape)}" for output in outputs),
        )
    return found[0]


def export(
    module: nn.Module,
    example: Example,
    path: Path | str,
    *,
    axes: Mapping[int, str] | None = None,
    classes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    opset: int = OPSET,
    quiet: bool = False,
) -> Exported:
    """Write a module as an fp32 ONNX file, once it computes what the module computes; the module is not changed.

    Args:
        module: a plain module that returns a tensor or a tuple of tensors, in any mode.
        example: inputs of at least two samples, real ones: file and module are compared on them.
        path: of the file; its directory is there.
        axes: dynamic axes of the inputs by number, besides 0, the batch: ``{1: "length"}``.
        classes: names of the outputs, in order, for the file's metadata.
        preprocessing: what turns raw data into inputs, as JSON values, for the file's metadata.
        opset: the ONNX opset.
        quiet: show no progress.

    Raises:
        ModelError: when the module does not run on the example.
        StageError: when it cannot be exported, or the file computes something else.
        EnvironmentFault: when the file cannot be written.
    """
    inputs = arguments(example)
    call(module, inputs, role="module")
    signature = read_signature(module, inputs, axes=axes, classes=classes)
    with Reporter(quiet=quiet).bar("export"):
        return write.export(module, signature, inputs, Path(path), preprocessing=preprocessing or {}, opset=opset)


def _bind(
    loss: GuidedLoss, student: nn.Module, teacher: nn.Module | None, given: Given, *, seed: int
) -> bound.BoundLoss:
    """Bind a loss on a batch of inputs, by name where they have names."""
    inputs = given.batch.inputs
    example = dict(zip(given.names, inputs, strict=True)) if given.names else inputs
    return bound.bind(loss, student, teacher, example, seed=seed)


def _compute(module: nn.Module, *, precision: Precision, quiet: bool) -> Compute:
    execution = Execution(torch.get_num_threads(), precision, str(device_of(module)))
    return Compute(execution=execution, reporter=Reporter(quiet=quiet))
