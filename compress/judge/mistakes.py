"""What the student gets wrong that the teacher got right, class by class; for single classes only."""

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data import Samples
from compress.judge.scores import Scores
from compress.measures.intervals import Estimate, wilson_interval
from compress.tasks import Task

MAX_CONFUSIONS = 12
MAX_EXAMPLES = 24
THUMBNAIL_PIXELS = 64


def mistakes(teacher: Scores, student: Scores, task: Task, samples: Samples) -> dict[str, Any] | None:
    """Return how the decisions of two files compare with the labels, as JSON values; None without single classes.

    Classes that count as one (``data.judge.merge``) are kept apart here.

    Args:
        teacher: its scores on the role.
        student: the scores of the file that ships, on the same role.
        task: says what is decided.
        samples: the role. Of images, the first samples that only the teacher got right become thumbnails; texts stay
            where they are, because a report is passed on.
    """
    if task.problem != "single-label":
        return None
    labels = np.asarray(task.labels(samples), np.int64)
    theirs, ours = (np.asarray(task.decisions(scores.logits), np.int64) for scores in (teacher, student))
    lost = np.flatnonzero((theirs == labels) & (ours != labels))
    pairs = Counter(zip(labels[lost].tolist(), ours[lost].tolist(), strict=True))
    names = task.classes
    return {
        "units": len(labels),
        "both_right": int(((theirs == labels) & (ours == labels)).sum()),
        "teacher_alone_right": len(lost),
        "student_alone_right": int(((theirs != labels) & (ours == labels)).sum()),
        "neither_right": int(((theirs != labels) & (ours != labels)).sum()),
        "classes": [
            {
                "name": name,
                "units": int((labels == number).sum()),
                "teacher": _recall(labels == number, theirs == number),
                "student": _recall(labels == number, ours == number),
            }
            for number, name in enumerate(names)
        ],
        "confusions": [
            {"label": names[label], "decided": names[decided], "count": count}
            for (label, decided), count in pairs.most_common(MAX_CONFUSIONS)
        ],
        "examples": [
            {
                "sample": int(index),
                "label": names[labels[index]],
                "decided": names[ours[index]],
                "picture": thumbnail(samples.inputs[index]),
            }
            for index in (lost[:MAX_EXAMPLES] if len(labels) == len(samples) else ())
        ],
    }


def thumbnail(sample: Any) -> str | None:
    """Return an image as the data URI of a PNG of at most 64 x 64 pixels; None for anything that cannot be shown.

    Args:
        sample: an image of 1 or 3 channels, [C, H, W]; float values are stretched to the range of the screen.
    """
    if not isinstance(sample, np.ndarray) or sample.ndim != 3 or sample.shape[0] not in (1, 3):
        return None
    pixels: NDArray[Any] = np.moveaxis(sample, 0, -1).squeeze()
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _recall(here: NDArray[np.bool_], decided: NDArray[np.bool_]) -> dict[str, float] | None:
    """Return the share of a class's units that are decided so, with its interval; None when there are none."""
    count = int(here.sum())
    if not count:
        return None
    found: Estimate = wilson_interval(int((here & decided).sum()), count)
    return {"value": found.value, "low": found.low, "high": found.high}
