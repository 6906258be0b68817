"""The teacher-guided loss; each term has its file, which is where it is imported from."""

from compress.loss.bound import BoundLoss, bind
from compress.loss.features import Compared, FeatureTerm, Pair, unit_mean
from compress.loss.guided import GuidedLoss, LossTerms
from compress.loss.logits import LogitTerm
from compress.loss.on_policy import OnPolicy
from compress.loss.own import OwnTerm
from compress.loss.pairing import last_features, stage_pairs
from compress.loss.taps import Tap, Trace
from compress.loss.term import Schedule, Targets, Term

__all__ = [
    "BoundLoss",
    "Compared",
    "FeatureTerm",
    "GuidedLoss",
    "LogitTerm",
    "LossTerms",
    "OnPolicy",
    "OwnTerm",
    "Pair",
    "Schedule",
    "Tap",
    "Targets",
    "Term",
    "Trace",
    "bind",
    "last_features",
    "stage_pairs",
    "unit_mean",
]
