"""Is our int8 writer as good as ONNX Runtime's own quantizer? Same float graph, same calibration data, side by side.

    python benchmarks/quantizer_vs_ort.py [--rounds 200] [--batch 1]

Networks trained for seconds on scikit-learn's digits (8 x 8 pixels, scaled up to 32 x 32, because on 8 x 8 a timing
measures little but the calls). One thread; the sessions of a network alternate in every round, and the ratio is that of
the medians. Both use uint8 activations, int8 weights per channel and min-max ranges. Prints accuracy, bytes, the number
of nodes that are left after ONNX Runtime's optimisation, and latency.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from compress.export.graph import to_onnx
from compress.export.session import Session
from compress.models import Cnn, MobileNet, ResNet
from compress.quantization.calibration import minmax
from compress.quantization.writer import plan_without_training, write_quantized
from compress.tasks.signature import Signature, Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 32, 32)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)
NETWORKS = {"cnn": Cnn(), "resnet": ResNet(), "mobilenet": MobileNet()}
TRAIN, CALIBRATION = slice(0, 1200), slice(0, 128)


class Batches(CalibrationDataReader):
    """ONNX Runtime's reader over the same two batches."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([{"image": images[:64]}, {"image": images[64:128]}])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]  # None at the end, as its own do
        return next(self._batches, None)


def digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = np.kron(pixels[order].reshape(-1, 8, 8), np.ones((4, 4)))[:, None].astype(np.float32) / 8 - 1
    return images, np.asarray(labels)[order]


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> nn.Module:
    x, y = torch.from_numpy(images[TRAIN]), torch.from_numpy(labels[TRAIN])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def by_ort(model: onnx.ModelProto, images: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        source, ready, target = (Path(directory) / name for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, ready)
        quantize_static(
            ready,
            target,
            Batches(images[CALIBRATION]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return target.read_bytes()


def by_us(model: onnx.ModelProto, images: np.ndarray) -> bytes:
    batches = [(images[:64],), (images[64:128],)]
    plan = plan_without_training(model, lambda: batches, mode="static", find=minmax)
    return write_quantized(model, plan).SerializeToString()


def nodes(model: bytes) -> int:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "optimized.onnx"
        Session(model, save_optimized=path)
        return len(onnx.load(path).graph.node)


def medians_us(models: dict[str, bytes], batch: np.ndarray, *, rounds: int) -> dict[str, float]:
    sessions = {name: Session(model) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, session in sessions.items():
            session(batch)  # the neighbour's data leave the cache
            started = time.perf_counter()
            for _ in range(10):
                session(batch)
            times[name].append((time.perf_counter() - started) / 10 * 1e6)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # ORT's quantizer recommends what is done here already
    images, labels = digits()
    print(f"{'network':<12}{'file':<6}{'accuracy':>10}{'kB':>8}{'nodes':>7}{'us':>9}{'vs ORT':>8}")
    for network, family in NETWORKS.items():
        torch.manual_seed(0)
        module = train(family.build(SIGNATURE, code=()), images, labels)
        model = to_onnx(module, SIGNATURE, (torch.zeros(2, 1, 32, 32),))
        files = {"fp32": model.SerializeToString(), "ort": by_ort(model, images), "ours": by_us(model, images)}
        times = medians_us(files, images[: options.batch], rounds=options.rounds)
        for name, content in files.items():
            logits = Session(content)(images[1200:])[0]
            accuracy = float((logits.argmax(1) == labels[1200:]).mean())
            print(
                f"{network:<12}{name:<6}{accuracy:>10.2%}{len(content) / 1e3:>8.1f}{nodes(content):>7}"
                f"{times[name]:>9.1f}{times[name] / times['ort']:>8.3f}"
            )


if __name__ == "__main__":
    main()
