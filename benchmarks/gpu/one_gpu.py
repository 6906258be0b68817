"""Does everything work on a GPU, how fast, and with the CPU's numbers? Images and texts, in under 8 minutes on one GPU.

    python benchmarks/gpu/one_gpu.py [--device cuda] [--minutes 7.5] [--output FOLDER]
    python benchmarks/gpu/one_gpu.py --device cpu --smoke        # shows that the script runs; proves nothing

For a residual network on images and a transformer on token ids, of samples that are drawn: an epoch of distillation in
float32 on the device and on the CPU from the same weights, whose logits have to be within 1e-4 afterwards (beside what
another number of threads changes on the CPU alone); the teacher is trained and the student distilled on the device in
each precision that it has, timed; the student is pruned and recovers; all are exported, run in torch on the device, and
raced in ONNX Runtime on whatever of its CPU, CUDA and TensorRT providers is installed.

Needs torch (2.11 will do), onnx, onnxruntime, onnxscript, torch-pruning, pydantic, safetensors, scipy, rich and
filelock, and no network; the package need not be installed where PYTHONPATH names the folder that it lies in.

Writes ``gpu_<device>.json`` after each section. A section that fails is noted there and the next ones go on; one that
would begin after the minutes are over is not begun, and that is noted too. Exit code 1 then.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress.benchmark.compare import PRESETS, compare
from compress.benchmark.environment import describe
from compress.benchmark.measure import Profile
from compress.benchmark.process import Place, usable_runtimes
from compress.functional import distill, export, prune
from compress.models.resnet import ResidualNetwork
from compress.stage import Precision
from compress.stage.device import best_device, check_device

RESULTS = Path(__file__).resolve().parents[1] / "results"
CLASSES = 10
USUAL = {"learning_rate": 1e-3, "optimizer": "adamw", "quiet": True}
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


Batches = list[tuple[Tensor, Tensor]]


def draw_batches(subject: Subject, *, count: int, size: int) -> Batches:
    """Return the batches of an epoch, on the CPU; their labels are what a fixed random network says of them."""
    generator, oracle = torch.Generator().manual_seed(0), seeded(subject.student, 1).eval()
    found: Batches = []
    with torch.no_grad():
        for _ in range(count):
            inputs = subject.draw(generator, size)
            found.append((inputs, oracle(inputs).argmax(1)))
    return found


def move(batches: Batches, device: str) -> Batches:
    """Return the batches on a device."""
    return [(inputs.to(device), labels.to(device)) for inputs, labels in batches]


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


def learnt_logits(subject: Subject, batches: Batches, device: str) -> Tensor:
    """Return what a student says of the first batch after an epoch in float32 on a device, on the CPU."""
    teacher, student = seeded(subject.teacher, 2).to(device).eval(), seeded(subject.student, 3).to(device)
    moved = move(batches, device)
    distill(student, teacher, moved, epochs=1, learning_rate=0.01, optimizer="sgd", quiet=True)
    with torch.no_grad():
        return student(moved[0][0]).cpu()


def against_cpu(subject: Subject, batches: Batches, device: str) -> dict[str, Any]:
    """Return how far the logits are apart after an epoch on the device and on the CPU, and on the CPU alone."""
    wanted, got = learnt_logits(subject, batches, "cpu"), learnt_logits(subject, batches, device)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, threads // 2))
        other = learnt_logits(subject, batches[: len(batches) // 4], "cpu")
        torch.set_num_threads(threads)
        same = learnt_logits(subject, batches[: len(batches) // 4], "cpu")
    finally:
        torch.set_num_threads(threads)
    gap, largest = float((wanted - got).abs().max()), float(wanted.abs().max())
    return {
        "max_abs": gap,
        "max_relative": gap / largest,
        "within": gap <= TOLERANCE * max(1.0, largest),
        "max_abs_of_other_threads_after_a_quarter": float((other - same).abs().max()),
    }


def learn(subject: Subject, batches: Batches, device: str, precision: Precision) -> tuple[Any, nn.Module, nn.Module]:
    """Train a teacher and distil a student on the device; return how fast, and both."""
    teacher, student = seeded(subject.teacher, 2).to(device), seeded(subject.student, 3).to(device)
    moved = move(batches, device)
    fitted = distill(teacher, None, moved, loss={"hard": {}}, epochs=2, precision=precision, **USUAL)
    learnt = distill(student, teacher.eval(), moved, epochs=2, precision=precision, **USUAL)
    told = {
        "teacher_samples_per_s": fitted.images_per_s,
        "distill_samples_per_s": learnt.images_per_s,
        "final_loss": learnt.final_loss,
    }
    return told, teacher, student


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


def race(files: dict[str, Path], inputs: Path, runtime: str, *, batch_size: int, preset: str) -> dict[str, Any]:
    """Return what each file takes on one of ONNX Runtime's providers."""
    found = compare(
        files, reference="teacher", inputs=inputs, profile=Profile(runtime, batch_size, 1), preset=PRESETS[preset]
    )
    return {
        "failures": found.failures,
        "latency_ms": {name: asdict(found.latency_ms(name)) for name in found.measurements},
        "speedup": {name: asdict(found.speedup(name, over="teacher")) for name in found.measurements},
        "against_cpu": {name: asdict(gap) for name, gap in found.against_cpu.items()},
    }


@dataclass
class Record:
    """What is found, written after each section; a failure is part of it."""

    path: Path
    told: dict[str, Any]
    until_s: float
    failed: list[str] = field(default_factory=list)

    def note(self, subject: str, section: str, make: Callable[[], Any]) -> Any:
        """Return what a section makes, after noting it; None when it fails, or is not begun because time is over."""
        place, started_s = self.told["subjects"].setdefault(subject, {}), time.perf_counter()
        made = None
        if started_s > self.until_s:
            place[section] = {"failed": "not begun: the minutes are over"}
        else:
            try:
                made = make()
                place[section] = made if isinstance(made, dict) else {}
            except Exception as error:  # noqa: BLE001 # whatever a machine that nobody has seen raises
                traceback.print_exc()
                place[section] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            place[section]["section_s"] = time.perf_counter() - started_s
        if "failed" in place[section]:
            self.failed.append(f"{subject}, {section}")
        self.path.write_text(json.dumps(self.told, indent=1) + "\n")
        print(f"{subject}, {section}: {place[section].get('failed', 'done')}", file=sys.stderr, flush=True)
        return made


def study(subject: Subject, device: str, folder: Path, record: Record, *, smoke: bool) -> None:
    """Note everything of one kind of data."""
    size, note = 8 if smoke else 64, partial(record.note, subject.name)
    batches = draw_batches(subject, count=4 if smoke else 48, size=size)
    example = batches[0][0]
    note("against_cpu", lambda: against_cpu(subject, batches, device))
    models: dict[str, nn.Module] = {}

    def trained(precision: Precision) -> dict[str, Any]:
        told, teacher, student = learn(subject, batches, device, precision)
        if precision == "float32":
            models.update(teacher=teacher, student=student)
        return told

    def pruned() -> None:
        moved = move(batches, device)
        found = prune(models["student"], moved[0][0], kept_macs_fraction=0.6, loader=moved, batches=2, quiet=True)
        distill(found.module, models["teacher"], moved, epochs=1, **USUAL)
        models["pruned"] = found.module

    files: dict[str, Path] = {}

    def exported() -> None:
        for name, module in models.items():
            path = folder / f"{subject.name}-{name}.onnx"
            export(copy.deepcopy(module).cpu().eval(), example[:2], path, quiet=True)
            files[name] = path
        (given,) = onnx.load(files["teacher"], load_external_data=False).graph.input
        np.savez(folder / f"{subject.name}.npz", allow_pickle=False, **{given.name: example.numpy()})

    for precision in get_args(Precision):
        if precision != "tf32" or device.startswith("cuda"):
            note(f"training in {precision}", partial(trained, precision))
    note("pruned", pruned)
    note("exported", exported)
    calls = 8 if smoke else 200
    note(
        "torch_ms", lambda: {name: per_call_ms(module, example, device, calls=calls) for name, module in models.items()}
    )
    usable = usable_runtimes(Place())
    for runtime in RACED:
        if usable[runtime].usable:
            inputs, preset = folder / f"{subject.name}.npz", "smoke" if smoke else "quick"
            note(f"race on {runtime}", partial(race, files, inputs, runtime, batch_size=size, preset=preset))
        else:
            record.told["subjects"][subject.name][f"race on {runtime}"] = {"missing": usable[runtime].why}


def main() -> None:
    """Study both kinds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--smoke", action="store_true", help="tiny networks, few batches")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no section is begun")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device, started_s = check_device(arguments.device), time.perf_counter()
    if device == "cpu" and not arguments.smoke:
        raise SystemExit("there is no accelerator; --smoke shows on the CPU that the script runs")
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch_device = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    told: dict[str, Any] = {"device": torch_device, "smoke": arguments.smoke, "subjects": {}}
    told["environment"] = asdict(describe(seed=0))
    path = arguments.output / f"gpu_{torch.device(device).type}.json"
    record = Record(path, told, started_s + 60 * arguments.minutes)
    with tempfile.TemporaryDirectory() as models:
        for subject in subjects(smoke=arguments.smoke):
            study(subject, device, Path(models), record, smoke=arguments.smoke)
    told["seconds"] = time.perf_counter() - started_s
    path.write_text(json.dumps(told, indent=1) + "\n")
    print(path.read_text())
    apart = [name for name, found in told["subjects"].items() if not found["against_cpu"].get("within")]
    if apart:
        print(f"after an epoch in float32 not within {TOLERANCE:g} of the CPU: {', '.join(apart)}", file=sys.stderr)
    if record.failed or apart:
        raise SystemExit(f"failed: {'; '.join(record.failed) or 'agreement with the CPU'}")


if __name__ == "__main__":
    main()
