"""How weights are updated: the schedule of the learning rate, and the update rule."""

import math

import torch
from torch import nn

from compress.loss import BoundLoss
from compress.stage import Optimization


def learning_rate(step: int, total: int, optimization: Optimization) -> float:
    """Return the rate of a step: linear warm-up to the peak, then a half cosine to zero."""
    warmup = optimization.warmup_fraction * total
    if step < warmup:
        return optimization.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(total - warmup, 1)
    return optimization.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(module: nn.Module, loss: BoundLoss, optimization: Optimization) -> torch.optim.Optimizer:
    """Return the update rule; projectors share the student's, without decay, which orthogonal ones do not bear."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [value for value in parameters if value.dim() > 1], "weight_decay": optimization.weight_decay},
        {"params": [value for value in parameters if value.dim() <= 1], "weight_decay": 0.0},
        {"params": list(loss.parameters()), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimization.optimizer == "sgd":
        # The fused rule has no momentum for parameters that get their first gradient later than others.
        fused = _is_steady(loss)
        return torch.optim.SGD(groups, lr=optimization.learning_rate, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=optimization.learning_rate, fused=True)


def _is_steady(loss: BoundLoss) -> bool:
    """Whether every term counts from the first step on, so that no parameter gets its first gradient later."""
    begins = all(term.schedule.begin_fraction == 0 for term in loss.loss.terms.values())
    return begins and not any(term.progressive for term in loss.loss.feature_terms.values())
