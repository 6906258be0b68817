"""Does everything work on a GPU, how fast, and with the CPU's numbers? Images and texts, in under 8 minutes on one GPU.

    python benchmarks/gpu/one_gpu.py [--device cuda] [--output FOLDER]
    python benchmarks/gpu/one_gpu.py --device cpu --smoke        # shows that the script runs; proves nothing

For a residual network on images and a transformer on token ids, of samples that are drawn: an epoch of distillation in
float32 on the device and on the CPU from the same weights, whose logits have to be within 1e-4 afterwards; the teacher
is trained and the student distilled on the device in each precision that it has, timed; the student is pruned and
recovers; all are exported and raced in ONNX Runtime on whatever of its CPU, CUDA and TensorRT providers is installed,
and run in torch on the device. Writes ``gpu_<device>.json``.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress.benchmark import PRESETS, Place, Profile, compare
from compress.benchmark.environment import describe
from compress.benchmark.process import usable_runtimes
from compress.functional import distill, export, prune
from compress.models.resnet import ResidualNetwork
from compress.stage import Precision
from compress.stage.device import best_device, check_device

RESULTS = Path(__file__).resolve().parents[1] / "results"
CLASSES = 10
TOLERANCE = 1e-4  # of logits after an epoch in float32, over the largest of them
RACED = ("ort-cpu", "ort-cuda", "ort-tensorrt")


class TextNet(nn.Module):
    """Token ids, int64 [B, length], to logits [B, CLASSES]."""

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids)).mean(1))


@dataclass(frozen=True)
class Subject:
    """A kind of data: batches of samples that are drawn, and the networks that learn them."""

    name: str
    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    draw: Callable[[torch.Generator, int], Tensor]


class Batches:
    """The same batches in each pass; their labels are what a fixed random network says of them."""

    def __init__(self, subject: Subject, *, count: int, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(1)
        oracle = subject.student().eval()
        self.all: list[tuple[Tensor, Tensor]] = []
        for _ in range(count):
            inputs = subject.draw(generator, size)
            with torch.no_grad():
                self.all.append((inputs, oracle(inputs).argmax(1)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)


def subjects(*, smoke: bool) -> tuple[Subject, ...]:
    """Return images and texts."""
    wide, side, length = (32, 16, 8) if smoke else (64, 64, 128)

    def images(width: int) -> Callable[[], nn.Module]:
        return lambda: ResidualNetwork(channels=3, classes=CLASSES, width=width, blocks=(1, 1), stem_stride=2)

    def texts(width: int, layers: int) -> Callable[[], nn.Module]:
        return lambda: TextNet(width=width, layers=layers)

    return (
        Subject(
            "images",
            images(wide),
            images(wide // 2),
            lambda drawn, size: torch.rand(size, 3, side, side, generator=drawn),
        ),
        Subject(
            "texts",
            texts(4 * wide, 1 if smoke else 6),
            texts(2 * wide, 1 if smoke else 3),
            lambda drawn, size: torch.randint(0, 1000, (size, length), generator=drawn),
        ),
    )


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network with the weights of a seed."""
    torch.manual_seed(seed)
    return make()


def against_cpu(subject: Subject, batches: Batches, device: str) -> dict[str, Any]:
    """Return how far the logits are apart after an epoch in float32 on the device and on the CPU."""
    given = next(iter(batches))[0]
    logits: list[Tensor] = []
    for place in ("cpu", device):
        teacher, student = seeded(subject.teacher, 2).to(place).eval(), seeded(subject.student, 3).to(place)
        distill(student, teacher, batches, epochs=1, learning_rate=1e-3, optimizer="adamw", quiet=True)
        with torch.no_grad():
            logits.append(student(given.to(place)).cpu())
    gap, largest = float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max())
    return {"max_abs": gap, "max_relative": gap / largest, "within": gap <= TOLERANCE * max(1.0, largest)}


def per_call_ms(module: nn.Module, given: Tensor, device: str, *, calls: int) -> float:
    """Return the median time of a forward pass in torch."""
    module, given, seconds = module.to(device).eval(), given.to(device), list[float]()
    wait = torch.get_device_module(torch.device(device)).synchronize
    with torch.no_grad():
        for _ in range(calls):
            started_s = time.perf_counter()
            module(given)
            wait()
            seconds.append(time.perf_counter() - started_s)
    return 1e3 * float(np.median(seconds[calls // 4 :]))


def race(files: dict[str, Path], inputs: Path, *, batch_size: int, preset: str) -> dict[str, Any]:
    """Return what each file takes on each of ONNX Runtime's providers, or why there is nothing."""
    usable, told = usable_runtimes(Place()), dict[str, Any]()
    for runtime in RACED:
        if not usable[runtime].usable:
            told[runtime] = {"missing": usable[runtime].why}
            continue
        found = compare(
            files,
            reference="teacher",
            inputs=inputs,
            profile=Profile(runtime, batch_size, 1),
            preset=PRESETS[preset],
        )
        told[runtime] = {
            "failures": found.failures,
            "latency_ms": {name: asdict(found.latency_ms(name)) for name in found.measurements},
            "speedup": {name: asdict(found.speedup(name, over="teacher")) for name in found.measurements},
            "against_cpu": {name: asdict(gap) for name, gap in found.against_cpu.items()},
        }
    return told


def study(subject: Subject, device: str, folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Return everything of one kind of data."""
    size = 8 if smoke else 64
    batches = Batches(subject, count=4 if smoke else 100, size=size)
    example = next(iter(batches))[0]
    found: dict[str, Any] = {"against_cpu": against_cpu(subject, batches, device), "training": {}}
    quick = {"learning_rate": 1e-3, "optimizer": "adamw", "quiet": True}
    for precision in get_args(Precision):
        if precision == "tf32" and not device.startswith("cuda"):
            continue
        teacher, student = seeded(subject.teacher, 2).to(device), seeded(subject.student, 3).to(device)
        fitted = distill(teacher, None, batches, loss={"hard": {}}, epochs=2, precision=precision, **quick)
        learnt = distill(student, teacher.eval(), batches, epochs=2, precision=precision, **quick)
        found["training"][precision] = {
            "teacher_samples_per_s": fitted.images_per_s,
            "distill_samples_per_s": learnt.images_per_s,
            "final_loss": learnt.final_loss,
        }
        if precision == "float32":
            kept = teacher, student
    teacher, student = kept
    pruned = prune(student, example.to(device), kept_macs_fraction=0.6, loader=batches, batches=2, quiet=True)
    distill(pruned.module, teacher, batches, epochs=1, **quick)
    models = {"teacher": teacher, "student": student, "pruned": pruned.module}
    files: dict[str, Path] = {}
    for name, module in models.items():
        files[name] = folder / f"{subject.name}-{name}.onnx"
        export(copy.deepcopy(module).cpu().eval(), example[:2], files[name], quiet=True)
    inputs = folder / f"{subject.name}.npz"
    (given,) = onnx.load(files["teacher"], load_external_data=False).graph.input
    np.savez(inputs, allow_pickle=False, **{given.name: example.numpy()})
    calls = 8 if smoke else 200
    found["torch_ms"] = {name: per_call_ms(module, example, device, calls=calls) for name, module in models.items()}
    found["races"] = race(files, inputs, batch_size=size, preset="smoke" if smoke else "quick")
    return found


def main() -> None:
    """Study both kinds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--smoke", action="store_true", help="tiny networks, few batches")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device, started_s = check_device(arguments.device), time.perf_counter()
    if device == "cpu" and not arguments.smoke:
        raise SystemExit("there is no accelerator; --smoke shows on the CPU that the script runs")
    arguments.output.mkdir(parents=True, exist_ok=True)
    models = arguments.output / "gpu_models"
    models.mkdir(exist_ok=True)
    kinds = {one.name: study(one, device, models, smoke=arguments.smoke) for one in subjects(smoke=arguments.smoke)}
    torch_device = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    told: dict[str, Any] = {"device": torch_device, "smoke": arguments.smoke, "subjects": kinds}
    told["environment"] = asdict(describe(seed=0))
    path = arguments.output / f"gpu_{torch.device(device).type}.json"
    path.write_text(json.dumps(told | {"seconds": time.perf_counter() - started_s}, indent=1) + "\n")
    print(path.read_text())
    if not all(found["against_cpu"]["within"] for found in kinds.values()):
        raise SystemExit(f"after an epoch in float32 the device is further than {TOLERANCE:g} from the CPU")


if __name__ == "__main__":
    main()
