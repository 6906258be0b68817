"""Measure deployable files against each other: size, latency, memory and accuracy, each with its uncertainty."""

from compress.benchmark.compare import PRESETS, QUICK, STANDARD, STRICT, Comparison, Preset, compare
from compress.benchmark.document import BenchmarkResult, Row, RuntimeAccuracy
from compress.benchmark.measure import Measurement, Profile, default_profiles
from compress.benchmark.process import Place
from compress.benchmark.report import Entry, build, load, save
from compress.benchmark.tables import markdown, profile_table, table
from compress.export.onnx_file import size_bytes
from compress.measures.intervals import Estimate, agreement, estimate_change, mcnemar_p, wilson_interval

__all__ = [
    "PRESETS",
    "QUICK",
    "STANDARD",
    "STRICT",
    "BenchmarkResult",
    "Comparison",
    "Entry",
    "Estimate",
    "Measurement",
    "Place",
    "Preset",
    "Profile",
    "Row",
    "RuntimeAccuracy",
    "agreement",
    "build",
    "compare",
    "default_profiles",
    "load",
    "markdown",
    "mcnemar_p",
    "estimate_change",
    "profile_table",
    "save",
    "size_bytes",
    "table",
    "wilson_interval",
]
