"""The teacher-guided loss."""

from compress.loss.guided import GuidedLoss, LossTerms
from compress.loss.logits import softened_kl

__all__ = ["GuidedLoss", "LossTerms", "softened_kl"]
