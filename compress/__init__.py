"""Turn a trained teacher into the smallest, fastest ONNX student that still passes an accuracy gate."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read when the libraries are imported: nothing a user runs here reports home unless they say so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:
    from compress.data.sources import Digits, Idx, ImageFolder, Numpy
    from compress.errors import CompressError
    from compress.loss import (
        AttentionTransfer,
        Bernoulli,
        Cosine,
        Dist,
        Dkd,
        DynamicLayers,
        GuidedLoss,
        Hard,
        HardToken,
        Hidden,
        Hint,
        Kl,
        LastFeature,
        Layers,
        Mse,
        Relations,
        Rkd,
        Schedule,
        Scores,
    )
    from compress.models import Cnn, HuggingFace, Mlp, MobileNet, ResNet, Timm, UserFile, load_model
    from compress.pipeline.run import Options, Outcome, run
    from compress.recipe import Baseline, Benchmark, Colleague, DataConfig, Gates, Limits, Recipe, Teacher, Tracking
    from compress.stages.distill import Distill
    from compress.stages.export import Export
    from compress.stages.prune import Prune
    from compress.stages.quantize import Quantize
    from compress.stages.train import Train
    from compress.tasks import Augment, Normalize

# Where each public name lives. It is imported on first use, so that the command line answers at once.
_HOMES = {
    "AttentionTransfer": "compress.loss",
    "Augment": "compress.tasks",
    "Baseline": "compress.recipe",
    "Benchmark": "compress.recipe",
    "Bernoulli": "compress.loss",
    "Cnn": "compress.models",
    "Colleague": "compress.recipe",
    "CompressError": "compress.errors",
    "Cosine": "compress.loss",
    "DataConfig": "compress.recipe",
    "Digits": "compress.data.sources",
    "Dist": "compress.loss",
    "Distill": "compress.stages.distill",
    "Dkd": "compress.loss",
    "DynamicLayers": "compress.loss",
    "Export": "compress.stages.export",
    "Gates": "compress.recipe",
    "GuidedLoss": "compress.loss",
    "Hard": "compress.loss",
    "HardToken": "compress.loss",
    "Hidden": "compress.loss",
    "Hint": "compress.loss",
    "HuggingFace": "compress.models",
    "Idx": "compress.data.sources",
    "ImageFolder": "compress.data.sources",
    "Kl": "compress.loss",
    "LastFeature": "compress.loss",
    "Layers": "compress.loss",
    "Limits": "compress.recipe",
    "Mlp": "compress.models",
    "MobileNet": "compress.models",
    "Mse": "compress.loss",
    "Normalize": "compress.tasks",
    "Numpy": "compress.data.sources",
    "Options": "compress.pipeline.run",
    "Outcome": "compress.pipeline.run",
    "Prune": "compress.stages.prune",
    "Quantize": "compress.stages.quantize",
    "Recipe": "compress.recipe",
    "Relations": "compress.loss",
    "ResNet": "compress.models",
    "Rkd": "compress.loss",
    "Schedule": "compress.loss",
    "Scores": "compress.loss",
    "Teacher": "compress.recipe",
    "Timm": "compress.models",
    "Tracking": "compress.recipe",
    "Train": "compress.stages.train",
    "UserFile": "compress.models",
    "load_model": "compress.models",
    "run": "compress.pipeline.run",
}

__all__ = [
    "AttentionTransfer",
    "Augment",
    "Baseline",
    "Benchmark",
    "Bernoulli",
    "Cnn",
    "Colleague",
    "CompressError",
    "Cosine",
    "DataConfig",
    "Digits",
    "Dist",
    "Distill",
    "Dkd",
    "DynamicLayers",
    "Export",
    "Gates",
    "GuidedLoss",
    "Hard",
    "HardToken",
    "Hidden",
    "Hint",
    "HuggingFace",
    "Idx",
    "ImageFolder",
    "Kl",
    "LastFeature",
    "Layers",
    "Limits",
    "Mlp",
    "MobileNet",
    "Mse",
    "Normalize",
    "Numpy",
    "Options",
    "Outcome",
    "Prune",
    "Quantize",
    "Recipe",
    "Relations",
    "ResNet",
    "Rkd",
    "Schedule",
    "Scores",
    "Teacher",
    "Timm",
    "Tracking",
    "Train",
    "UserFile",
    "load_model",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
