"""A pipeline on digits from teacher to verdict in seconds, and a process that runs it and may be killed."""

import functools
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from compress.benchmark.compare import PRESETS, QUICK
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe

BRIEF = replace(QUICK, block_ms=4.0, warm_up_limit_ms=40.0)
# What a run imports on its way; whoever is forked has it already.
IMPORTED = [
    "compress.pipeline.run",
    "compress.export.attention",
    "compress.tracking.mlflow_sink",
    "sklearn.linear_model",
]

RECIPE = """
schema: 1
name: tiny
data: {source: digits, augment: {crop_padding: 1, views: 2}}
teacher:
  model: {resnet: {width: 16, blocks: [1, 1]}}
  train: {epochs: 3, batch_size: 64}
student: {cnn: {widths: [16, 32, 32], strides: [1, 2, 1]}}
stages:
  - distill: {epochs: 6, batch_size: 64}
  - prune: {kept_macs_fraction: 0.6, importance_batches: 4}
  - distill: {name: recover, epochs: 3, batch_size: 64}
  - quantize: {max_accuracy_drop: 0.03, min_agreement: 0.9}
  - export: {variants: [int8-x86, fp32]}
benchmark: {preset: quick, profiles: [{}]}
gates: {max_accuracy_drop: 0.2, max_size_mb: 0.1, min_speedup: 0.5}
"""


def recipe(*overrides: str, name: str = "tiny") -> Recipe:
    text = RECIPE.replace("name: tiny", f"name: {name}")
    return Recipe.parse(text, origin="recipe.yaml", directory=Path(), overrides=overrides)


def options(store: Path, **fields) -> Options:
    return Options(store=store, threads=1, reporter=Reporter(quiet=True), **fields)


def start(store: Path, *, dies_at: str = "", call: int = 1, after: bool = False) -> ForkServerProcess:
    """Start a run in a process of its own, forked from one that has imported everything and done nothing.

    Args:
        store: where.
        dies_at: a function, as ``module:name``, at which it is killed; empty lets it live.
        call: which call of it.
        after: killed when that call has returned, instead of before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_run_briefly, args=(store, dies_at, call, after))
    process.start()
    return process


def _run_briefly(store: Path, dies_at: str, call: int, after: bool) -> None:
    PRESETS["quick"] = BRIEF
    if dies_at:
        module, _, name = dies_at.partition(":")
        *owners, last = name.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, last, _killing(getattr(owner, last), call=call, after=after))
    run(recipe(), options(store, checkpoint_every_s=0.05))


def _killing(function: Callable, *, call: int, after: bool) -> Callable:
    count = 0

    @functools.wraps(function)
    def killing(*arguments, **named):
        nonlocal count
        count += 1
        if count == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **named)
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return killing
