"""Which layers a run would compare, before it runs: the table of pairs of every stage that reads features."""

import torch
from torch import nn

from compress.loss import BoundLoss, bind
from compress.pipeline.estimate import FORWARD_SHARE
from compress.pipeline.planned import Pairing
from compress.recipe import Recipe
from compress.stage import Work
from compress.surgery.cost import model_cost
from compress.training.teacher import choose_taps


def pairings(recipe: Recipe, work: Work, *, student: nn.Module, teacher: nn.Module) -> list[Pairing]:
    """Return the pairs of all trainings on the guided loss, on the student before any surgery.

    Args:
        recipe: its stages and loss count.
        work: task and data.
        student: untrained; its shapes count.
        teacher: the same.

    Raises:
        ModelError: when a tap matches nothing or two tensors cannot be compared.
    """
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    found: list[Pairing] = []
    for stage in recipe.stages:
        training, loss = stage.training, stage.guided_loss(recipe.loss)
        if training is None or not loss.feature_terms:
            continue
        bound = bind(loss, student, teacher, example, seed=0)
        views = len(work.task.views(mixup=bound.loss.mixup))
        stored = choose_taps(
            bound.teacher_shapes,
            samples=views * len(work.data.train),
            limit_bytes=training.cache_limit_gb * 1e9 if work.task.fixed_size else 0.0,
        )
        costs = [model_cost(module, example).macs for module in (teacher, student)]
        overhead = 0.0 if len(stored) == len(bound.teacher_shapes) else FORWARD_SHARE * costs[0] / costs[1]
        for name, pairs in bound.pairs.items():
            for index, pair in enumerate(pairs):
                found.append(
                    Pairing(
                        stage=stage.title,
                        term=name,
                        student=str(pair.student),
                        student_shape=pair.shapes[0][1:],
                        teacher=str(pair.teacher),
                        teacher_shape=pair.shapes[1][1:],
                        projector_parameters=_projector_parameters(bound, name, index),
                        stored=pair.teacher in stored,
                        live_overhead=overhead,
                    )
                )
    return found


def _projector_parameters(bound: BoundLoss, term: str, index: int) -> int:
    place = bound.projector_of[term][index]
    projectors = bound.projectors[term]
    assert isinstance(projectors, nn.ModuleList)
    return 0 if place is None else sum(value.numel() for value in projectors[place].parameters())
