"""What a user of optimum ships: the fine-tuned teacher, exported and quantized dynamically by optimum alone.

    make .venv-optimum/.installed     # transformers 4.57, which optimum-onnx needs
    .venv-optimum/bin/python benchmarks/optimum_baseline.py --run compress-store/runs/spam-0123456789 [--output DIR]

``--run`` is the directory of a finished pipeline of text classification; its teacher is found in the store that it lies
in. The stored artifact is no Hugging Face folder: its module wraps the transformers model, whose own `save_pretrained`
writes one. From there on nothing of ours takes part: `ORTModelForSequenceClassification` exports, `ORTQuantizer`
quantizes with the configuration of this CPU (``avx512_vnni`` where it has those instructions, else ``avx2``), per
tensor as ``optimum-cli onnxruntime quantize`` does unless ``--per-channel``.

Writes under DIR (default: ``optimum`` in the store) ``teacher/``, the Hugging Face folder, ``model.onnx``,
``model_quantized.onnx``, and ``baseline.json``: sizes, accuracy on select, versions. ``encoder_latency.py --optimum
DIR/model_quantized.onnx`` times it beside the others.
"""

import argparse
import importlib.metadata
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer  # pyright: ignore
from optimum.onnxruntime.configuration import AutoQuantizationConfig  # pyright: ignore
from transformers import AutoTokenizer

from compress.benchmark.environment import describe
from compress.export.feed import Feed
from compress.export.session import Session
from compress.models import load_model
from compress.models.huggingface import Logits
from compress.recipe import Recipe
from compress.store.artifact import read_artifact
from compress.store.digest import hash_file
from compress.store.disk import write_atomically

EXPORTED, QUANTIZED, FACTS = "model.onnx", "model_quantized.onnx", "baseline.json"


def save_teacher(run_dir: Path, recipe: Recipe, folder: Path) -> None:
    """Write a pipeline's teacher as a Hugging Face folder, tokenizer included."""
    stages = json.loads((run_dir / "report.json").read_text())["stages"]
    (key,) = (stage["key"] for stage in stages if stage["role"] == "teacher")
    module = load_model(read_artifact(run_dir.parents[1] / "artifacts" / key, verify=True).path)
    assert isinstance(module, Logits)
    module.model.save_pretrained(folder)
    assert recipe.teacher.model is not None
    AutoTokenizer.from_pretrained(recipe.teacher.model.path).save_pretrained(folder)  # pyright: ignore


def quantize(folder: Path, output: Path, *, per_channel: bool) -> str:
    """Export a Hugging Face folder and quantize it; return the configuration's name."""
    ORTModelForSequenceClassification.from_pretrained(folder, export=True).save_pretrained(output)
    name = "avx512_vnni" if "avx512_vnni" in describe(seed=0).cpu_flags else "avx2"
    configuration = getattr(AutoQuantizationConfig, name)(is_static=False, per_channel=per_channel)
    ORTQuantizer.from_pretrained(output, file_name=EXPORTED).quantize(configuration, save_dir=output)
    return name


def accuracy(path: Path, recipe: Recipe) -> float:
    """Return a file's accuracy on the select role, 0 to 1; token types, which our files do not take, are zeros."""
    data = recipe.data.load()
    task, session = recipe.task(data), Session(path)

    def call(*given: np.ndarray) -> tuple[np.ndarray, ...]:
        named = dict(zip(("input_ids", "attention_mask"), given, strict=True))
        return session(*(named.get(name, np.zeros_like(given[0])) for name in session.inputs))

    return task.tally(Feed(task, data.select, threads=1).through(call), data.select).value


def main() -> None:
    """Save, export, quantize, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="directory of a finished pipeline")
    parser.add_argument("--output", type=Path, help="where to write")
    parser.add_argument("--per-channel", action="store_true", help="one scale per output channel")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    run_dir = arguments.run.resolve()
    output = arguments.output or run_dir.parents[1] / "optimum"
    recipe = Recipe.load(run_dir / "recipe.yaml")
    save_teacher(run_dir, recipe, output / "teacher")
    name = quantize(output / "teacher", output, per_channel=arguments.per_channel)
    result: dict[str, Any] = {
        "configuration": name,
        "per_channel": arguments.per_channel,
        "files": {
            path.name: {
                "size_bytes": path.stat().st_size,
                "sha256": hash_file(path),
                "accuracy_select": accuracy(path, recipe),
            }
            for path in (output / EXPORTED, output / QUANTIZED)
        },
        "versions": {found: importlib.metadata.version(found) for found in ("optimum", "optimum-onnx", "transformers")},
        "environment": asdict(describe(seed=0)),
    }
    write_atomically(output / FACTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["files"], indent=1))


if __name__ == "__main__":
    main()
