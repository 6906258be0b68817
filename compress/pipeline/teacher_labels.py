"""Where nobody knows labels, the teacher is asked once; what it has decided is noted, whatever device decided it."""

import numpy as np
import torch

from compress.data import Data
from compress.data.teacher_labels import DECIDED, label
from compress.errors import DataError, ModelError
from compress.pipeline.nodes import Node
from compress.stage import Host, Work
from compress.store.notes import Notes
from compress.training.inference import predict


def label_by_teacher(data: Data, teacher: Node, work: Work, host: Host) -> Data:
    """Return the data with what a given teacher decides as the labels of select and test.

    Args:
        data: unlabelled.
        teacher: as it is given.
        work: on these data, with any labels.
        host: in float32, so that no rounding of training decides what is right.

    Raises:
        DataError: when the task's outputs are no single classes, or the teacher gives all samples of a role the same.
        ModelError: when the teacher cannot be built, or does not fit the data.
    """
    if work.task.problem != "single-label":
        raise DataError("only single classes are taken from a teacher", got=work.task.problem, where="data.labels")
    name = {
        "labels of": teacher.stage.inputs(None, work, host),
        "samples": {role: data.roles[role].digest for role in DECIDED},
    }
    notes = Notes(host.store.root)
    if (told := notes.find(name, of=None)) is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(work.seed)
            module = teacher.stage.build(work, host)
        with host.reporter.bar("asking the teacher"):
            logits = {role: predict(module, work.task, host, data.roles[role]) for role in DECIDED}
        for role, values in logits.items():
            if values.shape[1] != len(data.classes) or not bool(values.isfinite().all()):
                raise ModelError(
                    "the teacher decides nothing for these classes",
                    expected=f"{len(data.classes)} finite outputs of each sample, one of each class",
                    got=f"{values.shape[1]} outputs" + ", some not finite" * (not bool(values.isfinite().all())),
                    where=f"teacher, {role}",
                    hint="state as many data.labels.classes as it has outputs, and how it reads images",
                )
        told = {role: values.argmax(dim=1).tolist() for role, values in logits.items()}
        notes.keep(name, told, of=None)
    return label(data, {role: np.array(told[role], np.int64) for role in DECIDED})
