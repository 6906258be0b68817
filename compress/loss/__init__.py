"""The teacher-guided loss."""

from compress.loss.attention import DynamicLayers, Layers, Relations, Scores
from compress.loss.bound import BoundLoss, bind
from compress.loss.features import AttentionTransfer, Cosine, Hidden, Hint, LastFeature, Rkd
from compress.loss.guided import GuidedLoss, LossTerms
from compress.loss.logits import Bernoulli, Dist, Dkd, Hard, HardToken, Kl, Mse
from compress.loss.taps import Tap
from compress.loss.term import Schedule, Targets

__all__ = [
    "AttentionTransfer",
    "Bernoulli",
    "BoundLoss",
    "Cosine",
    "Dist",
    "Dkd",
    "DynamicLayers",
    "GuidedLoss",
    "Hard",
    "HardToken",
    "Hidden",
    "Hint",
    "Kl",
    "LastFeature",
    "Layers",
    "LossTerms",
    "Mse",
    "Relations",
    "Rkd",
    "Schedule",
    "Scores",
    "Tap",
    "Targets",
    "bind",
]
