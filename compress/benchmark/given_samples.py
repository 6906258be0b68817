"""Samples and labels that a user hands in to compare two files, refused before anything is measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.benchmark.accuracy import Accuracy
from compress.benchmark.runtimes.worker import LENGTHS
from compress.data.npy import read_array, read_arrays
from compress.errors import InputError
from compress.export.onnx_file import read_graph


def count_samples(path: Path, *, model: Path) -> int:
    """Return how many samples a file holds for a model.

    Args:
        path: .npz of one array per input, samples first; an array ``__lengths__`` may tell the lengths of samples.
        model: an ONNX file.

    Raises:
        InputError: when the file cannot be read, its arrays are not named as the inputs, hold no numbers or differ in
            their number of samples.
    """
    arrays = read_arrays(path)
    graph = read_graph(model).graph
    weights = {tensor.name for tensor in graph.initializer}
    wanted = {given.name: given.type.tensor_type.elem_type for given in graph.input if given.name not in weights}
    if set(arrays) - {LENGTHS} != set(wanted):
        raise InputError(
            "the samples are not named as the model's inputs", expected=list(wanted), got=list(arrays), where=path
        )
    text = onnx.TensorProto.STRING
    wrong = [name for name, kind in wanted.items() if arrays[name].dtype.kind not in ("US" if kind == text else "biuf")]
    if wrong:
        raise InputError(
            "an input holds no numbers", expected="numbers", got=arrays[wrong[0]].dtype, where=f"{path}, {wrong[0]}"
        )
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(
            "the inputs do not pair", expected="as many samples of each, 1 or more", got=counts, where=path
        )
    return next(iter(counts.values()))


def read_labels(path: Path, *, samples: int) -> NDArray[np.int64]:
    """Return the class of every sample.

    Args:
        path: .npy of whole numbers from 0, [samples].
        samples: how many there are.

    Raises:
        InputError: when the file cannot be read, or holds anything else.
    """
    labels = read_array(path)
    if labels.dtype.kind not in "iu":
        raise InputError(
            "the labels are no class numbers",
            expected="integers from 0, in the order of the model's outputs",
            got=f"{labels.dtype} {list(labels.shape)}",
            where=path,
            hint="number the names in the order of the model's outputs" if labels.dtype.kind in "US" else None,
        )
    if labels.shape != (samples,):
        raise InputError(
            "labels and samples do not pair",
            expected=f"one label a sample, [{samples}]",
            got=list(labels.shape),
            where=path,
        )
    return labels.astype(np.int64)


def check_labels(labels: NDArray[np.integer], *, outputs: int, where: Path) -> None:
    """Refuse labels that no output stands for.

    Raises:
        InputError: with the likely cause.
    """
    outside = (labels < 0) | (labels >= outputs)
    if outside.any():
        from_one = int(labels.min()) == 1 and int(labels.max()) == outputs
        raise InputError(
            "a label is out of range",
            expected=f"0 to {outputs - 1}, as the models have {outputs} outputs",
            got=f"{labels[outside][0]} ({int(outside.sum()):,} such labels)",
            where=f"{where}, sample {int(np.argmax(outside))}",
            hint="they are counted from 1: subtract 1" if from_one else None,
        )


def doubt_chance(
    judged: Mapping[str, Accuracy], logits: Mapping[str, NDArray[np.floating]], labels: NDArray[np.integer]
) -> dict[str, Accuracy]:
    """Return what was judged, with a doubt where no file's interval is above chance.

    Args:
        judged: of the files.
        logits: by file, [samples, classes] each.
        labels: int [samples].
    """
    classes = next(iter(logits.values())).shape[1]
    if any(found.accuracy.low > 1 / classes for found in judged.values()):
        return dict(judged)
    share = float((next(iter(logits.values())).argmax(axis=-1) == labels - 1).mean())
    likely = (
        f"labels are counted from 1, as A is right on {share:.0%} of them less 1"
        if share > 2 / classes
        else "labels in the order of other classes than the outputs', or of other samples than the inputs"
    )
    doubt = f"no file is surely right more often than chance, 1 in {classes}; likely: {likely}"
    return {name: replace(found, doubt="; ".join(filter(None, (doubt, found.doubt)))) for name, found in judged.items()}
