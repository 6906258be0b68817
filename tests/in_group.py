"""One process of a group: ``in_group.py RANK SIZE MEETING FOLDER DIES_AT ROWS [KIND]`` trains and prints a hash.

The hash is that of its weights. ROWS above 0 are the samples of a pass that are taken to fit its device. KIND
``on-policy`` trains a model that writes on its own texts; without it digits are classified.
"""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import writing_zoo
from sklearn.datasets import load_digits
from torch import distributed

from compress.data import Data, Samples
from compress.loss import GuidedLoss
from compress.models import Cnn, Mlp
from compress.progress import Reporter
from compress.stage import Execution, Host, Member, Optimization, Work
from compress.stage.group import Group
from compress.stages.create import Create
from compress.store.store import Store
from compress.tasks import Augment, ImageClassification
from compress.training import loop
from compress.training.guided import fit_guided


def train(folder: Path, group: Group, *, dies_at: int = -1, rows: int = 0) -> str:
    """Distil a small network with dropout, and return its weights' SHA-256."""
    raw = load_digits()
    samples = Samples((raw.images * 15).astype(np.uint8)[:, None], raw.target.astype(np.int64))
    roles = {"train": (0, 400), "calibration": (400, 450), "select": (450, 500), "test": (500, 550)}
    data = Data(
        roles={role: samples.take(np.arange(*ends)) for role, ends in roles.items()}, classes=tuple("0123456789")
    )
    task = ImageClassification.of(data, augment=Augment(crop_padding=1))
    work = Work(task=task, data=data, loss=GuidedLoss(preset="hinton"), seed=0)
    asked = iter(range(10**6))

    def interrupted() -> bool:
        if next(asked) == dies_at:
            os._exit(9)
        return False

    host = Host(store=Store.open(folder), execution=Execution(1, "float32"), reporter=Reporter(quiet=True), group=group)
    with group.in_turn():
        teacher = Create(model=Cnn(widths=(8, 16), strides=(1, 2))).run(None, work, host)
    module = Create(model=Mlp(widths=(32,), dropout=0.3)).build(work, host)
    torch.manual_seed(1)
    for value in module.parameters():
        torch.nn.init.normal_(value, std=0.1)
    loop.fitting_rows = lambda *_, **__: rows or None
    taught = replace(work, teachers=(Member(teacher, task),))
    return fit(module, taught, replace(host, interrupted=interrupted, checkpoint_every_s=0.0), folder)


def train_on_policy(folder: Path, group: Group) -> str:
    """Distil a small model that writes, on texts that it draws, and return its weights' SHA-256."""
    data = writing_zoo.data(200)
    work = Work(
        task=writing_zoo.task(data), data=data, loss=GuidedLoss(preset="gkd", on_policy={"fraction": 0.7}), seed=0
    )
    host = Host(store=Store.open(folder), execution=Execution(1, "float32"), reporter=Reporter(quiet=True), group=group)
    with group.in_turn():
        teacher = Create(model=writing_zoo.TINY).run(None, work, host)
    torch.manual_seed(1)
    module = Create(model=writing_zoo.SMALLER.model_copy(update={"dropout": 0.2})).build(work, host)
    return fit(module, replace(work, teachers=(Member(teacher, work.task),)), host, folder)


def fit(module: torch.nn.Module, work: Work, host: Host, folder: Path) -> str:
    """Train and return the weights' SHA-256."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    fit_guided(
        module,
        work,
        host,
        loss=work.loss,
        optimization=Optimization(epochs=2, batch_size=20, accumulate=4, optimizer="adamw", learning_rate=0.01),
        seed=3,
        checkpoints=folder / "checkpoints",
        name="shared",
    )
    state = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        state.update(name.encode() + value.contiguous().numpy().tobytes())
    return state.hexdigest()


if __name__ == "__main__":
    rank, size, dies_at = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[5])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=size)
    folder, group = Path(sys.argv[4]), Group.joined()
    if sys.argv[7:] == ["on-policy"]:
        print(train_on_policy(folder, group))
    else:
        print(train(folder, group, dies_at=dies_at if rank else -1, rows=int(sys.argv[6])))
    distributed.destroy_process_group()
