"""Turn a trained teacher into the smallest, fastest ONNX student that still passes an accuracy gate."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read when the libraries are imported: nothing a user runs here reports home unless they say so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:
    from compress.benchmark.own import OwnRuntime
    from compress.data.arrays import ArrayPair
    from compress.data.own import OwnSource
    from compress.data.roles import Split
    from compress.data.samples import Samples
    from compress.data.source import Raw, Source
    from compress.data.sources import (
        Digits,
        File,
        HubData,
        Idx,
        ImageFolder,
        Numpy,
        Table,
    )
    from compress.errors import CompressError
    from compress.functional import bind, distill, prune, quantize
    from compress.loss import (
        Compared,
        FeatureTerm,
        GuidedLoss,
        LogitTerm,
        OwnTerm,
        Pair,
        Schedule,
        Tap,
        Targets,
        Term,
        Trace,
        last_features,
        stage_pairs,
        unit_mean,
    )
    from compress.loss.attention import DynamicLayers, Layers, Relations, Scores
    from compress.loss.features import AttentionTransfer, Cosine, Hidden, Hint, LastFeature, Rkd
    from compress.loss.logits import Bernoulli, Dist, Dkd, Hard, HardToken, Kl, Mse
    from compress.measures.own import OwnMeasure
    from compress.measures.tally import Tally, shares
    from compress.models import (
        Cnn,
        HuggingFace,
        Mlp,
        MobileNet,
        ResNet,
        Timm,
        UserFile,
        load_model,
        load_structure,
    )
    from compress.pipeline.run import Options, Outcome, run
    from compress.recipe import (
        Baseline,
        Benchmark,
        Colleague,
        DataConfig,
        Gates,
        Limits,
        OwnStage,
        ProfileChoice,
        Recipe,
        Teacher,
        Tracking,
    )
    from compress.stage import Host, Optimization, Stage, Work
    from compress.stages.distill import Distill
    from compress.stages.export import Export
    from compress.stages.prune import Prune
    from compress.stages.quantize import Quantize
    from compress.stages.shorten import Ends, Shorten
    from compress.stages.train import Train
    from compress.stages.vocabulary import PruneVocabulary
    from compress.store.artifact import Artifact
    from compress.tasks import Augment, Judge, Normalize, OwnTask, Task, Tokenize

# Where each public name lives. It is imported on first use, so that the command line answers at once.
_HOMES = {
    "ArrayPair": "compress.data.arrays",
    "Artifact": "compress.store.artifact",
    "AttentionTransfer": "compress.loss.features",
    "Augment": "compress.tasks",
    "Baseline": "compress.recipe",
    "Benchmark": "compress.recipe",
    "Bernoulli": "compress.loss.logits",
    "Cnn": "compress.models",
    "Colleague": "compress.recipe",
    "Compared": "compress.loss",
    "CompressError": "compress.errors",
    "Cosine": "compress.loss.features",
    "DataConfig": "compress.recipe",
    "Digits": "compress.data.sources",
    "Dist": "compress.loss.logits",
    "Distill": "compress.stages.distill",
    "Dkd": "compress.loss.logits",
    "DynamicLayers": "compress.loss.attention",
    "Ends": "compress.stages.shorten",
    "Export": "compress.stages.export",
    "FeatureTerm": "compress.loss",
    "File": "compress.data.sources",
    "Gates": "compress.recipe",
    "GuidedLoss": "compress.loss",
    "Hard": "compress.loss.logits",
    "HardToken": "compress.loss.logits",
    "Hidden": "compress.loss.features",
    "Hint": "compress.loss.features",
    "Host": "compress.stage",
    "HubData": "compress.data.sources",
    "HuggingFace": "compress.models",
    "Idx": "compress.data.sources",
    "ImageFolder": "compress.data.sources",
    "Judge": "compress.tasks",
    "Kl": "compress.loss.logits",
    "LastFeature": "compress.loss.features",
    "Layers": "compress.loss.attention",
    "Limits": "compress.recipe",
    "LogitTerm": "compress.loss",
    "Mlp": "compress.models",
    "MobileNet": "compress.models",
    "Mse": "compress.loss.logits",
    "Normalize": "compress.tasks",
    "Numpy": "compress.data.sources",
    "Optimization": "compress.stage",
    "Options": "compress.pipeline.run",
    "Outcome": "compress.pipeline.run",
    "OwnMeasure": "compress.measures.own",
    "OwnRuntime": "compress.benchmark.own",
    "OwnSource": "compress.data.own",
    "OwnStage": "compress.recipe",
    "OwnTask": "compress.tasks",
    "OwnTerm": "compress.loss",
    "Pair": "compress.loss",
    "ProfileChoice": "compress.recipe",
    "Prune": "compress.stages.prune",
    "PruneVocabulary": "compress.stages.vocabulary",
    "Quantize": "compress.stages.quantize",
    "Raw": "compress.data.source",
    "Recipe": "compress.recipe",
    "Relations": "compress.loss.attention",
    "ResNet": "compress.models",
    "Rkd": "compress.loss.features",
    "Samples": "compress.data.samples",
    "Schedule": "compress.loss",
    "Scores": "compress.loss.attention",
    "Shorten": "compress.stages.shorten",
    "Source": "compress.data.source",
    "Split": "compress.data.roles",
    "Stage": "compress.stage",
    "Table": "compress.data.sources",
    "Tally": "compress.measures.tally",
    "Tap": "compress.loss",
    "Targets": "compress.loss",
    "Task": "compress.tasks",
    "Teacher": "compress.recipe",
    "Term": "compress.loss",
    "Timm": "compress.models",
    "Tokenize": "compress.tasks",
    "Trace": "compress.loss",
    "Tracking": "compress.recipe",
    "Train": "compress.stages.train",
    "UserFile": "compress.models",
    "Work": "compress.stage",
    "bind": "compress.functional",
    "distill": "compress.functional",
    "last_features": "compress.loss",
    "load_model": "compress.models",
    "load_structure": "compress.models",
    "prune": "compress.functional",
    "quantize": "compress.functional",
    "run": "compress.pipeline.run",
    "shares": "compress.measures.tally",
    "stage_pairs": "compress.loss",
    "unit_mean": "compress.loss",
}

__all__ = [
    "ArrayPair",
    "Artifact",
    "AttentionTransfer",
    "Augment",
    "Baseline",
    "Benchmark",
    "Bernoulli",
    "Cnn",
    "Colleague",
    "Compared",
    "CompressError",
    "Cosine",
    "DataConfig",
    "Digits",
    "Dist",
    "Distill",
    "Dkd",
    "DynamicLayers",
    "Ends",
    "Export",
    "FeatureTerm",
    "File",
    "Gates",
    "GuidedLoss",
    "Hard",
    "HardToken",
    "Hidden",
    "Hint",
    "Host",
    "HubData",
    "HuggingFace",
    "Idx",
    "ImageFolder",
    "Judge",
    "Kl",
    "LastFeature",
    "Layers",
    "Limits",
    "LogitTerm",
    "Mlp",
    "MobileNet",
    "Mse",
    "Normalize",
    "Numpy",
    "Optimization",
    "Options",
    "Outcome",
    "OwnMeasure",
    "OwnRuntime",
    "OwnSource",
    "OwnStage",
    "OwnTask",
    "OwnTerm",
    "Pair",
    "ProfileChoice",
    "Prune",
    "PruneVocabulary",
    "Quantize",
    "Raw",
    "Recipe",
    "Relations",
    "ResNet",
    "Rkd",
    "Samples",
    "Schedule",
    "Scores",
    "Shorten",
    "Source",
    "Split",
    "Stage",
    "Table",
    "Tally",
    "Tap",
    "Targets",
    "Task",
    "Teacher",
    "Term",
    "Timm",
    "Tokenize",
    "Trace",
    "Tracking",
    "Train",
    "UserFile",
    "Work",
    "bind",
    "distill",
    "last_features",
    "load_model",
    "load_structure",
    "prune",
    "quantize",
    "run",
    "shares",
    "stage_pairs",
    "unit_mean",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
