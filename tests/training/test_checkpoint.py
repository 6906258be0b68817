"""A damaged checkpoint neither stops a training nor changes its bits: it is set aside, and said."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compress.models import Mlp
from compress.progress import Reporter
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.train import Train
from compress.store.store import Store

STAGE = Train(epochs=2, batch_size=100, learning_rate=0.01)
NEWEST, EARLIER = "checkpoint.safetensors", "checkpoint.earlier.safetensors"


class Told(Reporter):
    """A quiet reporter that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text):
        self.lines.append(text)


def flip(path: Path, *, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_the_earlier_one_under_another_step(path: Path) -> None:
    content = (path.parent / EARLIER).read_bytes()
    path.write_bytes(content.replace(b'"step":"', b'"step":"1', 1).replace(b" ", b"", 1))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "header": lambda path: flip(path, at=0.0),
    "names": lambda path: flip(path, at=0.02),
    "a weight": lambda path: flip(path, at=0.6),
    "the generator": lambda path: flip(path, at=1.0),
    "cut": cut,
    "empty": empty,
    "step": put_the_earlier_one_under_another_step,
}


@pytest.fixture
def stopped(make_context, tmp_path):
    """A training with two checkpoints, and the digest that it ends with when nothing happens."""
    context = replace(make_context(), reporter=Told(), checkpoint_every_s=0.0)
    undisturbed = replace(context, store=Store.open(tmp_path / "undisturbed"))
    model = Create(model=Mlp(widths=(16,), dropout=0.3))
    expected = STAGE.run(model.run(None, *undisturbed), *undisturbed).digest
    created = model.run(None, *context)
    questions = iter(range(7))
    with pytest.raises(KeyboardInterrupt):
        STAGE.run(created, *replace(context, interrupted=lambda: next(questions, None) is None))
    return context, created, expected, context.store.work(STAGE.key(created, *context))


def test_the_one_before_is_kept_and_the_whole_one_is_gone_on_from(stopped):
    context, created, expected, work = stopped
    assert {path.name for path in work.iterdir()} == {NEWEST, EARLIER}
    assert STAGE.run(created, *context).digest == expected
    assert context.reporter.lines == []


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("both", [False, True])
def test_what_is_damaged_is_set_aside_and_the_bits_stay(stopped, damage, both):
    context, created, expected, work = stopped
    names = [NEWEST, EARLIER] if both else [NEWEST]
    for name in names:
        DAMAGE[damage](work / name)
    assert STAGE.run(created, *context).digest == expected
    assert len(context.reporter.lines) == len(names)
    assert all("is damaged" in line and "set aside as" in line for line in context.reporter.lines)


def test_a_checkpoint_of_another_training_is_not_taken(stopped):
    context, created, expected, work = stopped
    other = STAGE.model_copy(update={"learning_rate": 0.02})
    theirs = context.store.work(other.key(created, *context))
    shutil.copyfile(work / NEWEST, theirs / NEWEST)
    undisturbed = other.run(created, *replace(context, store=Store.open(work.parent / "other")))
    assert other.run(created, *context).digest == undisturbed.digest
    assert len(context.reporter.lines) == 1


def test_killed_between_the_two_names_the_earlier_one_counts(stopped):
    context, created, expected, work = stopped
    os.replace(work / NEWEST, work / EARLIER)
    assert STAGE.run(created, *context).digest == expected
    assert context.reporter.lines == []


def test_a_flipped_bit_in_a_teachers_outputs_gives_the_same_student(make_context, trained_digits, tmp_path):
    said: list[str] = []
    context = replace(make_context(teacher=trained_digits), store=Store.open(tmp_path / "kept", say=said.append))
    created = Create(model=Mlp(widths=(8,))).run(None, *context)
    stage = Distill(epochs=1, batch_size=100)
    expected = stage.run(created, *context)
    context.store.discard(expected.key)
    (logits,) = (path for path in context.store.root.glob("artifacts/*/logits.npy"))
    flip(logits, at=0.5)
    assert stage.run(created, *context).digest == expected.digest
    assert len(said) == 1
    assert "logits.npy is not the file that was committed" in said[0]
