"""What do images on disk cost? Index, roles, teacher pass and an epoch of distillation at 1, 4 and 16 times the files.

    python benchmarks/scale/images.py [--files 100000] [--trained N] [--threads N] [--directory FOLDER]

JPEG files are made of Fashion-MNIST (Debian's dataset-fashion-mnist), enlarged to 160 to 320 pixels a side with noise,
no two alike, and read through an index at 64 x 64 pixels (``memory_gb: 0``, so that no size of them is read into
memory). The smaller sizes are the first of the same files. Each size runs in a process of its own, whose peak resident
memory the kernel tells (VmHWM). The share of the loader is the time for which the step waits for its batch; where torch
has every core to itself, what the step loses to threads that decode meanwhile is told by the images that are read a
second when nobody trains. ``--trained`` lets the teacher pass and the epoch take that many of the files at most; index
and roles are of all. With ``--directory`` files and finished sizes are kept there: what was interrupted goes on with
the size that it was at, measured from its beginning. Writes ``benchmarks/results/scale_images.json``, ``.md`` and
``.png``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from compress.benchmark.environment import count_allowed_cores, describe
from compress.data.idx import read_idx
from compress.loss import bind
from compress.models import load_model
from compress.pipeline.run import Options, host_of, work_of
from compress.pipeline.run_directory import Asked, decide_execution
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import Member, Optimization
from compress.stages.create import Create
from compress.store.store import Store
from compress.tasks import Batch
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.teacher import teacher_outputs

RESULTS = Path(__file__).resolve().parents[1] / "results"
FASHION = Path("/usr/share/datasets/fashion-mnist")
TIMES = (1, 4, 16)
SIDES = (160, 320)
READ = 64  # updates whose images are read while nobody trains
RECIPE = """
name: scale
data:
  source: {{image-folder: {{root: {root}, memory_gb: 0}}}}
  split: {{test: 64, select: 64, calibration: 64}}
  preprocess: {{size: 64, resize_to: 72, interpolation: bilinear}}
teacher: {{model: {{resnet: {{width: 24, stem_stride: 4}}}}, train: {{epochs: 1}}}}
student: {{resnet: {{width: 16, stem_stride: 2}}}}
stages: [distill: {{epochs: 1, batch_size: 64}}]
"""


@dataclass
class Timed:
    """A loader whose reader's waiting is counted.

    Attributes:
        loader: ours.
        waited_s: how long its batches were waited for.
    """

    loader: RoleLoader
    waited_s: float = 0.0
    steps_per_epoch: int = field(init=False)
    example: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.steps_per_epoch, self.example = self.loader.steps_per_epoch, self.loader.example

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Sequence[Batch]]:
        """Yield the loader's batches."""
        batches = iter(self.loader.epoch(number, skip=skip))
        while True:
            started_s = time.perf_counter()
            update = next(batches, None)
            self.waited_s += time.perf_counter() - started_s
            if update is None:
                return
            yield update


def make_files(root: Path, count: int) -> None:
    """Write JPEG files into a folder for each class, going on where an interrupted run stopped."""
    images = read_idx(FASHION / "train-images-idx3-ubyte.gz")
    labels = read_idx(FASHION / "train-labels-idx1-ubyte.gz")
    noise = np.random.default_rng(0).integers(0, 24, (max(SIDES), max(SIDES), 3), np.uint8)
    draft = root.with_name(f"{root.name}.part")
    begun = max((int(path.stem) for path in draft.rglob("*.jpg")), default=0)  # the last one may be half a file
    for label in range(10):
        (draft / str(label)).mkdir(parents=True, exist_ok=True)
    for number in range(begun, count):
        generator = np.random.default_rng(number)
        width, height = (int(side) for side in generator.integers(SIDES[0], SIDES[1] + 1, 2))
        large = Image.fromarray(images[number % len(images)]).resize((width, height), Image.Resampling.BICUBIC)
        shift = generator.integers(0, max(SIDES), 2)
        pixels = np.asarray(large)[..., None] // 2 + np.roll(noise, shift, (0, 1))[:height, :width]
        Image.fromarray(pixels).save(draft / str(labels[number % len(labels)]) / f"{number}.jpg", quality=85)
    draft.rename(root)


def link_files(root: Path, of: Path, count: int) -> None:
    """Make a folder of the first files of another one."""
    for path in of.rglob("*.jpg"):
        if int(path.stem) < count:
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            (root / path.parent.name / path.name).hardlink_to(path)


def memory_mb() -> float:
    """Return the peak of this process's resident memory, in units of 1,000,000 bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def measure(root: Path, store: Path, *, threads: int, trained: int) -> dict[str, Any]:
    """Return what index, roles, statistics, teacher pass and an epoch take, in seconds, and the peak of memory."""
    recipe = Recipe.parse(RECIPE.format(root=root), origin="scale", directory=root)
    clock, found = time.perf_counter, dict[str, Any]()

    def lap(name: str, started_s: float) -> float:
        found[name] = clock() - started_s
        return clock()

    now = clock()
    recipe.data.load(store=store)
    now = lap("index_and_roles_s", now)
    data = recipe.data.load(store=store)
    now = lap("roles_again_s", now)
    work = work_of(recipe, data)
    now = lap("statistics_s", now)
    opened, host_reporter = Store.open(store), Reporter(quiet=True)
    execution = decide_execution(store, Asked(threads=threads), say=host_reporter.say)
    host = host_of(Options(store=store, reporter=host_reporter), store=opened, execution=execution)
    assert recipe.teacher.model is not None
    assert recipe.student != "teacher"
    teacher, student = (Create(model=model).run(None, work, host) for model in (recipe.teacher.model, recipe.student))
    work = work_of(recipe, data)
    work = type(work)(**{**work.__dict__, "teachers": (Member(teacher, work.task),)})
    module, idle_mb = load_model(student.path), memory_mb()
    now = clock()
    train = data.train.take(np.arange(min(len(data.train), trained)))
    outputs = teacher_outputs(work, host, train, views=(None,))
    now = lap("teacher_pass_s", now)
    optimization = Optimization(epochs=1, batch_size=64)
    loader = Timed(RoleLoader(work.task, train, optimization, seed=0, views=lambda *_: None))
    example = work.task.batch(data.select, torch.arange(2)).inputs
    bound = bind(recipe.loss, module, load_model(teacher.path), example, seed=0)
    now = clock()
    read = sum(len(batch.index) for update in islice(loader.epoch(1), READ) for batch in update)
    found["read_alone_images_per_s"] = read / (clock() - now)
    loader.waited_s = 0.0
    now = clock()
    fit(module, work.task, loader, host, loss=bound, teacher=outputs, optimization=optimization, seed=0, name="epoch")
    lap("epoch_s", now)
    files = sum(len(samples) for samples in data.roles.values())
    return found | {
        "files": files,
        "train": len(train),
        "loader_share": loader.waited_s / found["epoch_s"],
        "memory_before_passes_mb": idle_mb,
        "memory_peak_mb": memory_mb(),
        "decoded_mb": files * 3 * 64 * 64 / 1e6,
        "threads": execution.threads,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "# Images on disk",
        "",
        "| files | index and roles, s | again, s | mean and deviation, s | teacher pass, images/s | epoch, images/s | "
        "reading alone, images/s | loader's share of the step | peak memory, MB | the same decoded, MB |",
        "|" + "---:|" * 10,
    ]
    for row in result["sizes"]:
        rates = (row["train"] / row[name] for name in ("teacher_pass_s", "epoch_s"))
        cells = [f"{row['files']:,}", f"{row['index_and_roles_s']:.1f}", f"{row['roles_again_s']:.2f}"]
        cells += [f"{row['statistics_s']:.1f}", *(f"{rate:,.0f}" for rate in rates)]
        cells += [f"{row['read_alone_images_per_s']:,.0f}", f"{row['loader_share']:.1%}"]
        lines.append(f"| {' | '.join([*cells, *(f'{row[name]:,.0f}' for name in ('memory_peak_mb', 'decoded_mb'))])} |")
    environment = result["environment"]
    told = [
        f"JPEG files of {SIDES[0]} to {SIDES[1]} pixels a side, read at 64 x 64; a residual network of 16 channels",
        "learns from one of 24 and half the resolution, one epoch in batches of 64, on "
        + ", ".join(f"{row['train']:,} of {row['files']:,} files" for row in result["sizes"])
        + ".",
        f"{result['sizes'][0]['threads']} thread(s) for torch, and as many decode ahead as there are cores "
        f"({result['cores']}); others may have used the machine meanwhile. The loader's share is what the step waits",
        "for its batch.",
        f"{environment['cpu_model']}; torch {environment['versions']['torch']}; {environment['date'][:10]}.",
    ]
    picture = "![time and memory against the number of files](scale_images.png)"
    return "\n".join([*lines, "", picture, "", *told, ""])


def draw(sizes: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw how time and memory grow with the number of files."""
    import matplotlib.pyplot as plt

    files = [row["files"] for row in sizes]
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    named = {"epoch_s": "epoch of distillation", "teacher_pass_s": "teacher pass"}
    if len({row["train"] for row in sizes}) < len(sizes):  # they were cut off
        named = {}
    for name, label in (named | {"index_and_roles_s": "index and roles", "roles_again_s": "the same again"}).items():
        times.plot(files, [row[name] for row in sizes], marker="o", label=label)
    times.set(xscale="log", yscale="log", xlabel="files", ylabel="seconds")
    memory.plot(files, [row["memory_peak_mb"] for row in sizes], marker="o", label="peak memory")
    memory.plot(files, [row["decoded_mb"] for row in sizes], marker="o", label="the same images decoded")
    memory.set(xscale="log", ylim=(0, None), xlabel="files", ylabel="MB")
    for axes in (times, memory):
        axes.legend()
    figure.savefig(path, dpi=120)


def write(result: dict[str, Any], stem: Path) -> None:
    """Write what is known so far as JSON, Markdown and a picture."""
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    draw(result["sizes"], stem.with_suffix(".png"))
    print(stem.with_suffix(".md").read_text())


def main() -> None:
    """Make the files, measure each size in a process of its own, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--trained", type=int, default=10**9, help="images of the teacher pass and the epoch at most")
    parser.add_argument("--directory", type=Path, help="where the files are made, or were made before")
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(*arguments.one, threads=arguments.threads, trained=arguments.trained)))
        return
    sizes: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() if arguments.directory is None else nullcontext(arguments.directory) as directory
    ):
        every = Path(directory) / "files"
        if not every.exists():
            make_files(every, arguments.files)
        for times in TIMES:
            sizes.append(measure_size(Path(directory), every, times, arguments))
            result = {"sizes": sizes, "cores": count_allowed_cores(), "environment": asdict(describe(seed=0))}
            write(result, arguments.output / "scale_images")


def measure_size(directory: Path, every: Path, times: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure` returns of one size, or what a run with the same arguments has noted of it."""
    noted, root, store = (directory / f"{times}x{end}" for end in (".json", "", "-store"))
    asked = [arguments.files, arguments.trained, arguments.threads]
    if noted.exists() and (kept := json.loads(noted.read_text()))["asked"] == asked:
        return kept["found"]
    for folder in (root, store):
        shutil.rmtree(folder, ignore_errors=True)
    link_files(root, every, arguments.files * times // max(TIMES))
    command = [sys.executable, __file__, "--threads", str(arguments.threads)]
    command += ["--trained", str(arguments.trained), "--one", str(root), str(store)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    noted.write_text(json.dumps({"asked": asked, "found": found}))
    return found


if __name__ == "__main__":
    main()
