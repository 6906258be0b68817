"""What samples must be before they may play a role; every refusal names the role."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.named import check_fields
from compress.data.samples import IGNORED, Role, Samples
from compress.data.stored import Stored
from compress.errors import DataError, listing

MIN_SELECT_SAMPLES = 32  # a bundle ships as many for its check on other machines; fewer choose nothing either

UNKNOWN = "where nobody knows any, data.labels: {of: teacher, classes: 1000} takes what a given teacher decides"


def check_inputs(roles: Mapping[Role, Samples]) -> None:
    """Refuse what no role may hold, before anything is computed from it.

    Raises:
        DataError: naming the role and the sample.
    """
    first = roles["train"].inputs
    for role, samples in roles.items():
        inputs, labels = samples.inputs, samples.labels
        if len(inputs) == 0:
            raise DataError(f"the {role} role is empty", expected="at least 1 sample", got=0, where=role)
        if inputs.dtype == object:
            _check_text(role, samples.array)
        elif inputs.dtype.names is not None:
            check_fields(role, samples.array)
        else:
            _check_numbers(role, inputs)
        if inputs.dtype != first.dtype or inputs.shape[1:] != first.shape[1:]:
            raise DataError(
                "the roles hold different kinds of inputs",
                expected=f"{first.dtype} {list(first.shape[1:])}, as in train",
                got=f"{inputs.dtype} {list(inputs.shape[1:])}",
                where=role,
            )
        if labels is not None:
            _check_labels(role, samples, labels)


def _check_numbers(role: Role, inputs: NDArray[Any] | Stored) -> None:
    """Refuse what no task reads; which shape it needs, a task says."""
    if inputs.dtype not in (np.uint8, np.float32) or inputs.ndim < 2:
        raise DataError(
            "the inputs are neither text nor arrays of numbers",
            expected="uint8 or float32 [samples, ...]; images are [samples, channels, height, width]",
            got=f"{inputs.dtype} {list(inputs.shape)}",
            where=role,
            hint="convert them with .astype(np.float32)",
        )
    if inputs.dtype != np.float32:
        return
    before = 0
    for part in Samples(inputs, None).parts():
        if not np.isfinite(part).all():
            bad = before + int(np.argmax(~np.isfinite(part.reshape(len(part), -1)).all(axis=1)))
            raise DataError("an input is not finite", got="NaN or infinity", where=f"{role}, sample {bad}")
        before += len(part)


def _check_text(role: Role, inputs: NDArray[Any]) -> None:
    empty = [position for position, text in enumerate(inputs) if not "".join(text).strip()]
    if empty:
        raise DataError(
            f"{len(empty)} of the {role} role's {len(inputs)} texts are empty",
            expected="at least one character that is not white space",
            where=f"{role}, sample {empty[0]}",
            hint="leave those rows out of the file",
        )


def _check_labels(role: Role, samples: Samples, labels: NDArray[Any]) -> None:
    if len(labels) != len(samples) or labels.ndim > 2:
        raise DataError(
            "inputs and labels do not pair",
            expected=f"labels [{len(samples)}], or [{len(samples)}, outputs]",
            got=f"labels {list(labels.shape)}",
            where=role,
        )
    if isinstance(labels.flat[0], tuple):
        _check_written(role, labels)
    elif labels.dtype == object and samples.inputs.dtype == object:
        for position, (words, tags) in enumerate(zip(samples.array, labels, strict=True)):
            if len(words) != len(tags):
                raise DataError(
                    "words and tags do not pair",
                    expected=f"{len(words)} tags",
                    got=len(tags),
                    where=f"{role}, sample {position}",
                )
    if labels.dtype == np.float32 and not np.isfinite(labels).all():
        bad = int(np.argmax(~np.isfinite(labels).all(axis=1)))
        raise DataError("a target is not finite", got="NaN or infinity", where=f"{role}, sample {bad}")


def _check_written(role: Role, labels: NDArray[Any]) -> None:
    for position, answers in enumerate(labels):
        if not answers or not all(isinstance(text, str) and text.strip() for text in answers):
            raise DataError(
                "a text to write is empty",
                expected="at least one character that is not white space",
                got=answers,
                where=f"{role}, sample {position}",
                hint="leave those rows out of the file",
            )


def class_names(roles: Mapping[Role, Samples], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the outputs after checking every label against them.

    Without names, outputs are numbered; class numbers must then be 0 to C - 1 without a gap.

    Raises:
        DataError: when a label is out of range or a number is skipped without a reason.
    """
    labelled: dict[Role, NDArray[Any]] = {
        role: samples.labels for role, samples in roles.items() if samples.labels is not None
    }
    if not labelled:
        raise DataError("no role has labels", hint=f"label at least the select and test roles; {UNKNOWN}")
    if len(set(names)) != len(names):
        raise DataError(
            "two classes have the same name",
            got=listing(sorted(name for name, count in Counter(names).items() if count > 1)),
        )
    forms = {role: f"{'one' if labels.ndim == 1 else 'several'} a sample" for role, labels in labelled.items()}
    if len(set(forms.values())) > 1:
        raise DataError(
            "the roles have different kinds of labels",
            expected="one class a sample in every role, or several labels a sample in every role",
            got=", ".join(f"{role}: {form}" for role, form in forms.items()),
            hint="a role in which every row of 0 and 1 has a single 1 is read as one-hot; draw other roles",
        )
    if next(iter(labelled.values())).ndim == 2:
        return _columns(labelled, names)
    if any(samples.written for samples in roles.values()):
        return names
    numbers = {role: _numbers(roles[role].inputs, labels) for role, labels in labelled.items()}
    count = len(names) or max(int(labels.max(initial=-1)) for labels in numbers.values()) + 1
    for role, labels in numbers.items():
        outside = (labels < 0) | (labels >= count)
        if outside.any():
            raise DataError(
                "a label is out of range",
                expected=f"0 to {count - 1}",
                got=f"{labels[outside][0]} ({int(outside.sum())} such labels)",
                where=f"{role}, sample {int(np.argmax(outside))}",
                hint="name every class in label order under classes" if names else None,
            )
    if names:
        return names
    seen = np.unique(np.concatenate(list(numbers.values())))
    if len(seen) != count:
        # Between the numbers that occur: one label of 2^40 has as many below it.
        gaps = [(before + 1, after) for before, after in pairwise([-1, *seen.tolist()]) if after > before + 1]
        absent = [number for start, end in gaps[:9] for number in range(start, min(end, start + 9))]
        raise DataError(
            "labels skip numbers, and no class names say that this is meant",
            expected=f"every number from 0 to {count - 1}",
            got=f"no sample of {', '.join(map(str, absent[:8]))}{' and others' if len(absent) > 8 else ''}",
            hint="renumber the labels, leave out samples whose number stands for no class, or name every class in "
            "label order under classes",
        )
    return tuple(map(str, range(count)))


def _numbers(inputs: NDArray[Any] | Stored, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the labels of all units; steps of a sequence may have none."""
    if labels.dtype != object:
        return labels
    tags = np.concatenate(labels)
    return tags if inputs.dtype == object else tags[tags != IGNORED]


def _columns(labelled: Mapping[Role, NDArray[Any]], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a name for every column of labels [N, C]."""
    width = next(iter(labelled.values())).shape[1]
    for role, labels in labelled.items():
        if labels.shape[1] != (len(names) or width):
            raise DataError(
                "the labels have another number of columns",
                expected=len(names) or width,
                got=labels.shape[1],
                where=role,
            )
    return names or tuple(map(str, range(width)))


def check_role(role: Role, samples: Samples, classes: tuple[str, ...], *, labelled: bool = True) -> None:
    """Refuse a role that nothing can be learnt from or judged on.

    Args:
        role: its name.
        samples: of it.
        classes: names of the outputs.
        labelled: False where labels follow.

    Raises:
        DataError: when select or test is unlabelled, select is too small, or the role's labels are all the same.
    """
    if role == "select" and len(samples) < MIN_SELECT_SAMPLES:
        raise DataError(
            "the select role is too small to choose by",
            expected=f"{MIN_SELECT_SAMPLES} samples or more",
            got=len(samples),
            where=role,
            hint="raise data.split.select, or add samples where the source fixes the role",
        )
    labels = samples.labels
    if labels is None:
        if labelled and role in ("select", "test"):
            raise DataError(
                f"the {role} role has no labels",
                where=role,
                hint=f"give a labelled select and test role; only train and calibration may be unlabelled; {UNKNOWN}",
            )
        return
    if labels.dtype == object and samples.inputs.dtype != object:
        _check_tags(role, labels)
    if role == "calibration" or samples.written:
        return
    units = _numbers(samples.inputs, labels)
    if (units != units[0]).any():
        return
    if labels.ndim == 2:
        raise DataError(
            f"all labels of the {role} role are the same",
            expected="at least 2 different ones",
            got=listing(units[0].tolist()),
            where=role,
        )
    raise DataError(
        f"the {role} role holds a single class",
        expected="at least 2 classes",
        got=f"{len(samples)} samples of class {classes[int(units[0])]!r}",
        where=role,
    )


def _check_tags(role: Role, labels: NDArray[Any]) -> None:
    bare = [position for position, tags in enumerate(labels) if (tags == IGNORED).all()]
    if bare:
        raise DataError(
            f"{len(bare):,} of the {role} role's {len(labels):,} sequences have no tag",
            expected=f"at least one step with another tag than {IGNORED}",
            where=f"{role}, sample {bare[0]}",
            hint="leave those sequences out",
        )
