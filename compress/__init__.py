"""Turn a trained teacher into the smallest, fastest ONNX student that still passes an accuracy gate."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read when the libraries are imported: nothing a user runs here reports home unless they say so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:
    from compress.errors import CompressError
    from compress.loss import GuidedLoss
    from compress.pipeline import Options, Outcome, run
    from compress.recipe import Baseline, Benchmark, DataConfig, Gates, Recipe, Teacher, Tracking
    from compress.stages.distill import Distill
    from compress.stages.train import Train

# Where each public name lives. It is imported on first use, so that the command line answers at once.
_HOMES = {
    "Baseline": "compress.recipe",
    "Benchmark": "compress.recipe",
    "CompressError": "compress.errors",
    "DataConfig": "compress.recipe",
    "Distill": "compress.stages.distill",
    "Gates": "compress.recipe",
    "GuidedLoss": "compress.loss",
    "Options": "compress.pipeline",
    "Outcome": "compress.pipeline",
    "Recipe": "compress.recipe",
    "Teacher": "compress.recipe",
    "Tracking": "compress.recipe",
    "Train": "compress.stages.train",
    "run": "compress.pipeline",
}

__all__ = [
    "Baseline",
    "Benchmark",
    "CompressError",
    "DataConfig",
    "Distill",
    "Gates",
    "GuidedLoss",
    "Options",
    "Outcome",
    "Recipe",
    "Teacher",
    "Tracking",
    "Train",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
