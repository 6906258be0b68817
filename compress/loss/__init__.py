"""The teacher-guided loss."""

from compress.loss.attention import DynamicLayers, Layers, Relations, Scores
from compress.loss.bound import BoundLoss, bind
from compress.loss.features import (
    AttentionTransfer,
    Compared,
    Cosine,
    FeatureTerm,
    Hidden,
    Hint,
    LastFeature,
    Pair,
    Rkd,
    last_features,
    stage_pairs,
    unit_mean,
)
from compress.loss.guided import GuidedLoss, LossTerms
from compress.loss.logits import Bernoulli, Dist, Dkd, Hard, HardToken, Kl, LogitTerm, Mse
from compress.loss.own import OwnTerm
from compress.loss.taps import Tap, Trace
from compress.loss.term import Schedule, Targets, Term

__all__ = [
    "AttentionTransfer",
    "Bernoulli",
    "BoundLoss",
    "Compared",
    "Cosine",
    "Dist",
    "Dkd",
    "DynamicLayers",
    "FeatureTerm",
    "GuidedLoss",
    "Hard",
    "HardToken",
    "Hidden",
    "Hint",
    "Kl",
    "LastFeature",
    "Layers",
    "LogitTerm",
    "LossTerms",
    "Mse",
    "OwnTerm",
    "Pair",
    "Relations",
    "Rkd",
    "Schedule",
    "Scores",
    "Tap",
    "Targets",
    "Term",
    "Trace",
    "bind",
    "last_features",
    "stage_pairs",
    "unit_mean",
]
