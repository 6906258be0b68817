"""What the student gets wrong that the teacher got right: class by class, and of texts in their own words."""

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data import Samples
from compress.judge.contenders import Contender
from compress.judge.scores import Scores
from compress.measures.intervals import wilson_interval
from compress.report.document import Confusion, Example, Mistakes, Recalls
from compress.stage import Work
from compress.tasks import Task
from compress.tasks.contrast import Contrast, Spelled, contrast

MAX_CONFUSIONS = 12
MAX_EXAMPLES = 24
THUMBNAIL_PIXELS = 64


def mistakes(teacher: Scores, student: Scores, task: Task, samples: Samples, *, quote: bool = True) -> Mistakes | None:
    """Return how the decisions of two files compare with the labels; None without single classes.

    Classes that count as one (``data.judge.merge``) are kept apart here.

    Args:
        teacher: its scores on the role.
        student: the scores of the file that ships, on the same role.
        task: says what is decided.
        samples: the role. Of images, the first samples that only the teacher got right become thumbnails; texts of test
            stay where they are.
        quote: whether pictures may be kept: a report is passed on.
    """
    if task.problem != "single-label":
        return None
    labels = np.asarray(task.labels(samples), np.int64)
    theirs, ours = (np.asarray(task.decisions(scores.logits), np.int64) for scores in (teacher, student))
    known, kept = theirs == labels, ours == labels
    lost, names = np.flatnonzero(known & ~kept), task.classes
    pairs = Counter(zip(labels[lost].tolist(), ours[lost].tolist(), strict=True))
    return Mistakes(
        units=len(labels),
        both_right=int((known & kept).sum()),
        teacher_alone_right=len(lost),
        student_alone_right=int((~known & kept).sum()),
        neither_right=int((~known & ~kept).sum()),
        classes=_recalls(names, labels, known, kept),
        confusions=tuple(
            Confusion(names[label], names[decided], count)
            for (label, decided), count in pairs.most_common(MAX_CONFUSIONS)
        ),
        examples=tuple(
            Example(
                int(index),
                names[labels[index]],
                names[ours[index]],
                thumbnail(samples.inputs[index]) if quote else None,
            )
            for index in (lost[:MAX_EXAMPLES] if len(labels) == len(samples) else ())
        ),
    )


def contrast_texts(teacher: Contender, student: Contender, work: Work) -> Contrast | None:
    """Return how two models answer the texts of select; None where there are none, or answers have no names.

    Args:
        teacher: with its scores on select.
        student: the file that ships, or the last stage, likewise.
        work: each model reads samples by its own task.
    """
    theirs, ours = _spell(teacher, work), _spell(student, work)
    if theirs is None or ours is None:
        return None
    return contrast(theirs, ours, writes=work.task.deployed.problem == "written")


def _spell(entry: Contender, work: Work) -> Spelled | None:
    return work.reading(entry.artifact).task.deployed.spell(entry.scores.logits, work.data.select)


def thumbnail(sample: Any) -> str | None:
    """Return an image as the data URI of a PNG of at most 64 x 64 pixels; None for anything that cannot be shown.

    Args:
        sample: an image of 1 or 3 channels, [C, H, W]; float values are stretched to the range of the screen.
    """
    if not isinstance(sample, np.ndarray) or sample.ndim != 3 or sample.shape[0] not in (1, 3):
        return None
    pixels: NDArray[Any] = sample[0] if len(sample) == 1 else np.moveaxis(sample, 0, -1)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _recalls(
    names: tuple[str, ...], labels: NDArray[np.int64], known: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> tuple[Recalls, ...]:
    """Return the recalls of each class from labels, and what the teacher and the student got right, [units] each."""
    counts = (np.bincount(chosen, minlength=len(names)).tolist() for chosen in (labels, labels[known], labels[kept]))
    return tuple(
        Recalls(name, units, *(wilson_interval(right, units) if units else None for right in found))
        for name, units, *found in zip(names, *counts, strict=True)
    )
