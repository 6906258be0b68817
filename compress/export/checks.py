"""Whether a file computes what its module computes, or decides the same each time: one graph, or a program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from compress.data import Samples
from compress.export.decoding import Decoder
from compress.export.feed import first_inputs, parity_inputs
from compress.export.parity import check_decisions, check_parity, difference
from compress.export.program import check_program, check_texts, in_torch, text_difference
from compress.export.program_file import is_program, open_program
from compress.export.session import Session
from compress.tasks import Task

DECISION_SAMPLES = 129  # where decisions are judged: two may differ at 98%
TEXT_SAMPLES = 256  # where texts are: one may differ at 99.5%


def check_against_module(
    path: Path, module: nn.Module, task: Task, samples: Samples, *, first: int = 0
) -> dict[str, float]:
    """Return how far at most a float file is from its module on real samples; see `check_parity` and `check_program`.

    Args:
        path: of the file.
        module: not changed.
        task: as the module reads samples.
        samples: the select role.
        first: so many samples are checked besides, in one batch.

    Raises:
        StageError: when the file computes something else.
    """
    if is_program(path):
        inputs = first_inputs(task, samples, TEXT_SAMPLES)
        return check_program(module, _opener(path), inputs, where=path.name)
    more = [first_inputs(task, samples, first)] if first else []
    checked = [check_parity(module, path, inputs) for inputs in (*more, *parity_inputs(task, samples))]
    return max(checked, key=lambda found: found["max_abs"])


def check_against_itself(path: Path, task: Task, samples: Samples, min_agreement: float) -> dict[str, float]:
    """Return how far apart at most a file's outputs are at other batch sizes; see `check_decisions` and `check_texts`.

    Args:
        path: of the file.
        task: as its model reads samples.
        samples: the select role.
        min_agreement: smallest share of equal decisions, 0 to 1; 0 only reports.

    Raises:
        StageError: too few decisions are equal.
    """
    inputs = first_inputs(task.deployed, samples, DECISION_SAMPLES)
    if is_program(path):
        return check_texts(_opener(path), inputs, min_agreement=min_agreement, where=path.name)
    return check_decisions(path, inputs, min_agreement=min_agreement)


def compare(path: Path, module: nn.Module, rows: tuple[NDArray[Any], ...]) -> dict[str, float]:
    """Return how far any file is from its module, which judges nothing; see `difference` and `text_difference`.

    Args:
        path: of the file.
        module: on the CPU, in evaluation mode.
        rows: what the file takes.
    """
    if is_program(path):
        decoder = open_program(path).decoder
        return text_difference(in_torch(module, decoder.writing).write(*rows), decoder.write(*rows))
    with torch.no_grad():
        logits = module(*map(torch.from_numpy, rows)).numpy()
    return difference(logits, Session(path)(*rows)[0])


def _opener(path: Path) -> Callable[[bool], Decoder]:
    return lambda optimize: open_program(path, optimize=optimize).decoder
