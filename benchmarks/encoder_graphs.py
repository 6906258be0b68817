"""Which graph of a transformer does ONNX Runtime run fastest? Every candidate beside the int8 file that ships.

    python benchmarks/encoder_graphs.py [--preset quick] [--checkpoint DIRECTORY]

The sizes of MiniLM-L6 (6 layers of width 384) at three lengths, and of ViT-Tiny/16 at 224 pixels; batch 1, one thread,
through the harness's paired comparison. Speed does not depend on the weights, so they are random; with a directory that
holds a Hugging Face MiniLM, errors and the error of int8 tables are those of real weights. Fusions are applied to the
float graph before it is quantized, those of attention that swallow its products too, and the number of attentions they
fused is recorded; none means that nothing was fused. Writes ``benchmarks/results/encoder_graphs.json`` and ``.md``.
"""

import argparse
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx import numpy_helper
from onnx_ir.passes.common import ShapeInferencePass
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from compress.benchmark.compare import PRESETS, Comparison, Preset, compare
from compress.benchmark.environment import describe
from compress.benchmark.measure import Profile
from compress.benchmark.runtimes import worker
from compress.export import graph
from compress.export.graph import to_onnx
from compress.export.session import Session
from compress.quantization.calibration import minmax
from compress.quantization.dynamic import write_dynamic
from compress.quantization.formulas import quantize_weight, weight_scale
from compress.quantization.placement import layers, place_dynamic
from compress.quantization.plan import dynamic_plan
from compress.quantization.view import GraphView
from compress.quantization.writer import plan_without_training, write_quantized
from compress.tasks.signature import Signature, Tensor

HERE = Path(__file__).parent
LENGTHS = (12, 64, 128)
SHIPPED = "int8"
ATTENTIONS = ("Attention", "MultiHeadAttention")
Arrays = tuple[np.ndarray, ...]
TEXT = Signature(
    inputs=tuple(
        Tensor(name=name, dtype="int64", shape=("batch", "length")) for name in ("input_ids", "attention_mask")
    ),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 3)),),
)
IMAGE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 3, 224, 224)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)


class Text(nn.Module):
    """MiniLM with a classifier."""

    def __init__(self, checkpoint: Path | None) -> None:
        super().__init__()
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        if checkpoint is None:
            self.model = BertForSequenceClassification(BertConfig(**sizes, num_labels=3))  # pyright: ignore[reportCallIssue]
        else:
            self.model = BertForSequenceClassification.from_pretrained(checkpoint, num_labels=3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class Image(nn.Module):
    """ViT-Tiny/16."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
        self.model = ViTForImageClassification(ViTConfig(**sizes, num_labels=10))  # pyright: ignore[reportCallIssue]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=image).logits


def tokens(rows: int, length: int) -> Arrays:
    """Token numbers, and a mask with padding in every row but the first."""
    ids = np.random.default_rng(length).integers(999, 30000, (rows, length))
    mask = (np.arange(length) < np.maximum(1, length - 3 * np.arange(rows))[:, None]).astype(np.int64)
    return ids * mask, mask


def pixels(rows: int, _: int) -> Arrays:
    """Noise: speed does not depend on it."""
    return (np.random.default_rng(rows).standard_normal((rows, 3, 224, 224)).astype(np.float32),)


def attention_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """MultiHeadAttention by onnxscript, the products of query, key and value left outside, where int8 can have them."""
    fused = ShapeInferencePass()(ir.from_proto(model)).model
    fuse_sdpa(fused)
    fuse_mha1(fused)
    fuse_mha2(fused)
    onnxscript.optimizer.remove_unused_nodes(fused)
    return ir.to_proto(fused)


def by_onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    """All of onnxscript's fusions for ONNX Runtime."""
    return ir.to_proto(optimize_for_ort(ir.from_proto(model))[0])


def by_onnxruntime(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's own transformer optimiser; heads are read from the graph."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    fused = optimize_model(copied, model_type="bert", num_heads=0, hidden_size=0, opt_level=0).model
    fused.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return fused


def dynamic(model: onnx.ModelProto, *, keep_float: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The int8 file as it ships."""
    plan = dynamic_plan(place_dynamic(model.graph, keep_float=dict.fromkeys(keep_float, "asked")))
    return write_quantized(model, plan)


def static(model: onnx.ModelProto, batches: list[Arrays]) -> onnx.ModelProto:
    """Ranges from calibration."""
    return write_quantized(model, plan_without_training(model, lambda: batches, mode="static", find=minmax))


def by_ort(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's own dynamic quantizer."""
    with tempfile.TemporaryDirectory() as directory:
        source, target = (Path(directory) / name for name in ("float.onnx", "int8.onnx"))
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


def candidates(
    module: nn.Module, signature: Signature, make: Callable[[int, int], Arrays]
) -> dict[str, onnx.ModelProto]:
    """Every graph by name, the shipped one first."""
    example = tuple(torch.from_numpy(array) for array in make(2, 16))
    float_graph = to_onnx(module, signature, example)
    with mock.patch.object(graph, "TRANSLATIONS", {}):
        plain = to_onnx(module, signature, example)
    embeddings = tuple(node.name for node in layers(GraphView(float_graph.graph)) if node.op_type == "Gather")
    found = {
        SHIPPED: dynamic(float_graph),
        "int8 by onnxruntime.quantization": by_ort(float_graph),
        "int8, the exporter's own attention": dynamic(plain),
        "int8, residuals fused with LayerNormalization": write_dynamic(
            float_graph, dynamic_plan(place_dynamic(float_graph.graph))
        ),
        "int8, static": static(float_graph, [make(8, 32), make(8, 64)]),
        "int8 after onnxscript, attention only": dynamic(attention_only(float_graph)),
        "int8 after onnxscript, all fusions": dynamic(by_onnxscript(float_graph)),
        "int8 after onnxruntime.transformers": dynamic(by_onnxruntime(float_graph)),
        "fp32": float_graph,
        "fp32 after onnxscript, all fusions": by_onnxscript(float_graph),
    }
    if embeddings:
        found["int8, embeddings in float"] = dynamic(float_graph, keep_float=embeddings)
    return found


def facts(models: dict[str, onnx.ModelProto], inputs: list[Arrays]) -> dict[str, dict[str, Any]]:
    """Of each file: its size, the attentions that were fused, and the largest error against fp32 over the inputs."""
    reference = Session(models["fp32"].SerializeToString())
    expected = [reference(*batch)[0] for batch in inputs]
    found = {}
    for name, model in models.items():
        session = Session(model.SerializeToString())
        errors = [np.abs(session(*batch)[0] - output).max() for batch, output in zip(inputs, expected, strict=True)]
        types = Counter(node.op_type for node in model.graph.node)
        found[name] = {
            "size_bytes": len(model.SerializeToString()),
            "fused_attentions": sum(types[kind] for kind in ATTENTIONS),
            "max_abs_against_fp32": float(max(errors)),
        }
    return found


def table_errors(model: onnx.ModelProto) -> dict[str, dict[str, float]]:
    """Root mean square error of each table in int8 over the table's own root mean square, by kind of scale."""
    view = GraphView(model.graph)
    errors = {}
    for node in layers(view):
        if node.op_type == "Gather":
            table = numpy_helper.to_array(view.constants[node.input[0]])
            largest = np.full(len(table), np.abs(table).max() / 127, np.float32)
            kinds = {
                "one scale per row": (0, weight_scale(table, axis=0)),
                "one scale per column": (1, weight_scale(table, axis=1)),
                "one scale": (0, largest),
            }
            errors[node.name] = {
                kind: float(
                    np.linalg.norm(quantize_weight(table, scale, axis=axis) * np.expand_dims(scale, 1 - axis) - table)
                    / np.linalg.norm(table)
                )
                for kind, (axis, scale) in kinds.items()
            }
    return errors


def measure(models: dict[str, onnx.ModelProto], inputs: Arrays, signature: Signature, *, preset: Preset) -> Comparison:
    """All files in the same rounds, the shipped one as the reference."""
    with tempfile.TemporaryDirectory() as directory:
        paths = {name: Path(directory) / f"{index}.onnx" for index, name in enumerate(models)}
        for name, path in paths.items():
            onnx.save(models[name], path)
        arrays = dict(zip((tensor.name for tensor in signature.inputs), inputs, strict=True))
        arrays[worker.LENGTHS] = np.full(len(inputs[0]), inputs[0].shape[1])  # as padded: a length is what is compared
        np.savez(Path(directory) / "inputs.npz", allow_pickle=False, **arrays)
        return compare(
            paths, reference=SHIPPED, inputs=Path(directory) / "inputs.npz", profile=Profile(), preset=preset
        )


def times(comparison: Comparison) -> dict[str, list[float]]:
    """How many times as long as the shipped file each one takes: value, low, high."""
    found = {}
    for name in comparison.measurements:
        if name != SHIPPED:
            ratio = comparison.speedup(SHIPPED, over=name)
            found[name] = [ratio.value, ratio.low, ratio.high]
    return found


def run(
    module: nn.Module,
    signature: Signature,
    make: Callable[[int, int], Arrays],
    *,
    lengths: tuple[int, ...],
    preset: Preset,
) -> dict[str, Any]:
    """Everything about one model."""
    models = candidates(module.eval(), signature, make)
    columns = {}
    for length in lengths:
        # One row without padding, several times: the harness takes its samples from here.
        rows = tuple(np.repeat(array[:1], 8, axis=0) for array in make(2, length))
        comparison = measure(models, rows, signature, preset=preset)
        assert not comparison.failures, comparison.failures
        floor = comparison.noise_floor
        columns[str(length)] = {
            "time_over_int8": times(comparison),
            "noise_floor": None if floor is None else [floor.value, floor.low, floor.high],
            "degraded": comparison.degraded,
        }
        print(f"length {length} done", flush=True)
    return {
        "files": facts(models, [make(3, length) for length in lengths]),
        "lengths": columns,
        "table_errors": table_errors(models["fp32"]),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = []
    for title, found in result["models"].items():
        heads = [f"{length} tokens" for length in found["lengths"]] if len(found["lengths"]) > 1 else ["224 pixels"]
        lines += [
            f"**{title}**",
            "",
            f"| file | {' | '.join(heads)} | MB | attentions fused | error |",
            "|---|" + "---:|" * (len(heads) + 3),
        ]
        for name, file in found["files"].items():
            cells = []
            for column in found["lengths"].values():
                ratio = column["time_over_int8"].get(name)
                cells.append("1" if ratio is None else f"{ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]")
            fused = file["fused_attentions"] or ("nothing fused" if "after" in name else "")
            lines.append(
                f"| {name} | {' | '.join(cells)} | {file['size_bytes'] / 1e6:.1f} | {fused} "
                f"| {file['max_abs_against_fp32']:.1e} |"
            )
        floors = [
            f"[{column['noise_floor'][1]:.3f}, {column['noise_floor'][2]:.3f}]" for column in found["lengths"].values()
        ]
        lines += ["", f"The int8 file over its own twin: {', '.join(floors)}.", ""]
        for path, errors in found["table_errors"].items():
            shares = ", ".join(f"{error:.2%} with {kind}" for kind, error in errors.items())
            lines += [f"Error of {path.rpartition('.')[2]} in int8, over its root mean square: {shares}.", ""]
    environment = result["environment"]
    lines.append(
        f"Time over the int8 file's, of the median of paired, interleaved rounds, with its 99% interval (preset "
        f"{result['preset']}), batch 1, one thread; error: largest difference from fp32, padded rows at every length; "
        f"{result['weights']} weights; {environment['cpu_model']}; onnxruntime "
        f"{environment['versions']['onnxruntime']}; {environment['date'][:10]}."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--checkpoint", type=Path, help="a Hugging Face MiniLM, for errors of real weights")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the fusions and ONNX Runtime's quantizer recommend what is not done here
    torch.manual_seed(0)
    torch.set_num_threads(1)
    preset = PRESETS[arguments.preset]
    models = {
        "MiniLM-L6": run(Text(arguments.checkpoint), TEXT, tokens, lengths=LENGTHS, preset=preset),
        "ViT-Tiny/16": run(Image(), IMAGE, pixels, lengths=(224,), preset=preset),
    }
    weights = "random" if arguments.checkpoint is None else "MiniLM's own (ViT: random)"
    result = {"models": models, "preset": preset.name, "weights": weights, "environment": asdict(describe(seed=0))}
    stem = HERE / "results" / "encoder_graphs"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
