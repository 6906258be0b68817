"""Does the file compute what the module computes, or where no module does, the same thing each time?

Measured on real inputs, at several batch sizes and, where the length is dynamic, lengths, both ways ORT runs.

Formulas, over the rows of one output (its last axis holds the classes):

* error: largest absolute difference; allowed: tolerance * max(1, largest absolute reference output);
* argmax agreement: share of rows with the same largest entry;
* KL: mean over rows of sum p (log p - log q), p and q the softmax of reference and output, in float64, in nats.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from compress.errors import StageError
from compress.export.session import Session
from compress.measures.divergence import kl_nats
from compress.models.fold import duplicate

FP32_TOLERANCE = 1e-4


def difference(reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """How far `output` is from `reference` (same shape, any leading axes).

    Returns:
        ``max_abs``, ``mean_abs``, ``scale`` (max(1, largest absolute reference)), and for outputs with at least two
        entries in the last axis ``argmax_agreement`` (0 to 1) and ``kl_nats``.

    Raises:
        StageError: the shapes differ, or a value is not finite.
    """
    if reference.shape != output.shape:
        raise StageError("the outputs differ in shape", expected=reference.shape, got=output.shape)
    if not (np.isfinite(reference).all() and np.isfinite(output).all()):
        raise StageError(
            "an output is not finite",
            expected="finite numbers",
            got=f"{int((~np.isfinite(reference)).sum())} in the reference, {int((~np.isfinite(output)).sum())} in ORT",
        )
    reference = reference.astype(np.float64)
    output = output.astype(np.float64)
    error = np.abs(reference - output)
    report = {
        "max_abs": float(error.max()),
        "mean_abs": float(error.mean()),
        "scale": max(1.0, float(np.abs(reference).max())),
    }
    if reference.ndim > 1 and reference.shape[-1] > 1:
        report["argmax_agreement"] = float((reference.argmax(-1) == output.argmax(-1)).mean())
        report["kl_nats"] = kl_nats(reference, output)
    return report


def check_parity(
    model: nn.Module, path: Path, inputs: tuple[np.ndarray, ...], *, tolerance: float = FP32_TOLERANCE
) -> dict[str, float]:
    """Compares an fp32 file with its module at batch 1, 2 and an odd size, ORT optimisations off and on.

    Args:
        model: the torch module; run on a CPU copy in inference mode and left as it is.
        path: the ONNX file.
        inputs: real inputs, at least 3 along the first axis of each; the odd size is the largest there is.
        tolerance: allowed error relative to max(1, largest absolute output).

    Returns:
        The worst case over batch sizes, lengths, outputs and optimisation levels: the keys of `difference`.

    Raises:
        StageError: outside the tolerance, not finite, or other shapes.
    """
    module = duplicate(model).cpu().eval()
    worst: dict[str, float] = {}
    for optimize in (False, True):
        for report in _against_module(module, path, inputs, optimize=optimize, tolerance=tolerance):
            worst = {key: _worse(key, report, worst) for key in report}
    return worst


def _against_module(
    module: nn.Module, path: Path, inputs: tuple[np.ndarray, ...], *, optimize: bool, tolerance: float
) -> list[dict[str, float]]:
    """The `difference` of each output at each batch size and length; one session at a time, each as large as a file.

    Raises:
        StageError: see `check_parity`.
    """
    session = Session(path, optimize=optimize)
    batches = (tuple(array[:size] for array in inputs) for size in (1, 2, _odd_size(inputs, path)))
    reports: list[dict[str, float]] = []
    for batch in (shortened for whole in batches for shortened in _at_lengths(whole, session)):
        references = _run(module, batch)
        shapes = " and ".join(str(array.shape) for array in batch)
        where = f"{path.name}, inputs {shapes}, ORT optimisations {'on' if optimize else 'off'}"
        for name, expected, got in zip(session.outputs, references, session(*batch), strict=True):
            report = difference(expected, got)
            if report["max_abs"] > tolerance * report["scale"]:
                raise StageError(
                    "the ONNX file does not compute what the model computes",
                    expected=f"largest error at most {tolerance * report['scale']:.3g}",
                    got=f"{report['max_abs']:.3g}",
                    where=f"output {name!r}, {where}",
                )
            reports.append(report)
    return reports


def check_decisions(path: Path, inputs: tuple[np.ndarray, ...], *, min_agreement: float) -> dict[str, float]:
    """Compares a file that no module equals, such as int8, with itself: batch 1, 2 and an odd size, both ways ORT runs.

    The reference is the odd size with ORT's optimisations, as it is deployed. Where ranges are found at run time
    (dynamic int8) they depend on the batch, and where integers replace simulated rounding the last bits differ, so
    that outputs are reported and decisions are judged.

    Args:
        path: the ONNX file.
        inputs: real inputs, at least 3 along the first axis of each; the odd size is the largest there is.
        min_agreement: smallest share of rows with the same decision, 0 to 1; 0 only reports.

    Returns:
        The worst case over sizes, outputs and optimisation levels: the keys of `difference`.

    Raises:
        StageError: too few rows have the same decision, or an output is not finite.
    """
    rows = _odd_size(inputs, path)
    references = _in_batches(Session(path), inputs, rows=rows, size=rows)
    worst: dict[str, float] = {}
    for optimize in (True, False):
        for report in _against_itself(path, inputs, references, optimize=optimize, min_agreement=min_agreement):
            worst = {key: _worse(key, report, worst) for key in report}
    return worst


def _against_itself(
    path: Path,
    inputs: tuple[np.ndarray, ...],
    references: tuple[np.ndarray, ...],
    *,
    optimize: bool,
    min_agreement: float,
) -> list[dict[str, float]]:
    """The `difference` of each output at each batch size; one session at a time.

    Raises:
        StageError: see `check_decisions`.
    """
    session, rows = Session(path, optimize=optimize), _odd_size(inputs, path)
    reports: list[dict[str, float]] = []
    for size in (1, 2, rows):
        where = f"{path.name}, batch {size}, ORT optimisations {'on' if optimize else 'off'}"
        outputs = _in_batches(session, inputs, rows=rows, size=size)
        for name, expected, got in zip(session.outputs, references, outputs, strict=True):
            report = difference(expected, got)
            if report.get("argmax_agreement", 1.0) < min_agreement:
                raise StageError(
                    "the ONNX file decides otherwise at another batch size or without ORT's optimisations",
                    expected=f"the same decision on {min_agreement:.2%} of {rows} rows",
                    got=f"{report['argmax_agreement']:.2%}, outputs up to {report['max_abs']:.3g} apart",
                    where=f"output {name!r}, {where}",
                    hint="keep the most sensitive layers in float (keep_float), or lower min_agreement",
                )
            reports.append(report)
    return reports


def _odd_size(inputs: tuple[np.ndarray, ...], path: Path) -> int:
    """The largest odd number of rows there is."""
    rows = min(len(array) for array in inputs)
    if rows < 3:
        raise StageError("parity needs at least 3 inputs", expected="3 or more", got=rows, where=path)
    return rows - 1 + rows % 2


def _at_lengths(batch: tuple[np.ndarray, ...], session: Session) -> Iterator[tuple[np.ndarray, ...]]:
    """The batch, and where an axis after the first is dynamic, its first half along it, rounded up."""
    yield tuple(np.ascontiguousarray(array) for array in batch)
    if any(isinstance(axis, str) for shape in session.shapes for axis in shape[1:]):
        yield tuple(_first_half(array, shape) for array, shape in zip(batch, session.shapes, strict=True))


def _first_half(array: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    axes = zip(shape[1:], array.shape[1:], strict=True)
    kept = (slice(math.ceil(size / 2) if isinstance(axis, str) else size) for axis, size in axes)
    return np.ascontiguousarray(array[:, *kept])


def _in_batches(session: Session, inputs: tuple[np.ndarray, ...], *, rows: int, size: int) -> tuple[np.ndarray, ...]:
    """The outputs of the first ``rows`` inputs, ``size`` at a time."""
    parts = [
        session(*(np.ascontiguousarray(array[start : min(start + size, rows)]) for array in inputs))
        for start in range(0, rows, size)
    ]
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


def _worse(key: str, report: dict[str, float], worst: dict[str, float]) -> float:
    pick = min if key == "argmax_agreement" else max
    return pick(report[key], worst.get(key, report[key]))


@torch.no_grad()
def _run(module: nn.Module, batch: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    outputs = module(*(torch.from_numpy(array) for array in batch))
    return tuple(leaf.float().numpy() for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor))
