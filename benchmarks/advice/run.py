"""Does the advice of `compressor check` foretell what distillation is worth? One cell per setting, each with its JSON.

    python benchmarks/advice/run.py [--store DIR] [--threads N]   # the missing cells
    python benchmarks/advice/fit.py                               # thresholds, and the tables of docs/advice.md

Fashion-MNIST. A setting is a teacher, a student, a number of images, a temperature and a shift of the distillation
data. Teachers: ``good`` (POOL images of its own), ``smoothed`` (the same with label smoothing), ``sharp`` (``good``
with its logits times SHARPENED: as right, almost one-hot), ``under`` (UNDER images, one epoch), ``memorised`` (the
distillation images themselves, until it is sure of them), ``same`` (the student's own architecture, trained as the
student alone is). Shifts change the distillation images, not the labels, nor what is held out.

Each setting is probed first, by the functions that `compressor check --pilot` calls. Then the student is trained
distilled and alone from the same weights in the same order, STEPS steps, for each of SEEDS; the realised gain is the
mean difference of their accuracy after the last epoch on HELD_OUT images that nothing chose by. The test role is not
read.

Half of the settings fit the thresholds and the other half tests them; see fit.py.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.advice import measures, pilot
from compress.advice.lesson import Lesson
from compress.advice.measures import Measure
from compress.benchmark.environment import count_allowed_cores, describe
from compress.data import Data, Samples
from compress.data.samples import Role
from compress.loss import GuidedLoss, bind
from compress.models import Cnn, load_model, save_model
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.stage import CACHE_LIMIT_GB, Execution, Host, Member, Optimization, Work
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.store.store import Store
from compress.tasks import Batch, ImageClassification
from compress.training.inference import predict
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.teaching import Taught, Teaching

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "pipelines" / "fashion_mnist" / "recipe.yaml"
RESULTS = HERE / "results"
POOL = 16_000
UNDER = 1_500
HELD_OUT = 10_000
SELECT = 2_000
STEPS = 400
PILOT_STEPS = pilot.SHORTEST  # of STEPS; whole epochs for each of IMAGES
BATCH = 100
SEEDS = (0, 1, 2)
SHARPENED = 6.0
SMOOTHING = 0.1
STUDENTS = {
    "nano": Cnn(widths=(3, 6), strides=(4, 2)),
    "small": Cnn(widths=(8, 16, 32), strides=(2, 1, 2)),
    "wide": Cnn(widths=(16, 32, 64), strides=(2, 2, 2)),
}
LARGE = Cnn(widths=(24, 48, 96), strides=(2, 1, 2))
TEACHERS = ("good", "smoothed", "sharp", "under", "memorised", "same")
SHIFTS = ("none", "inverted", "rotated", "blurred", "noisy", "dimmed", "softened", "grainy")  # the last three faint
IMAGES = (1_000, 4_000)
TEMPERATURES = (1.0, 4.0)


@dataclass(frozen=True)
class Setting:
    """One distillation of the grid."""

    teacher: str
    student: str
    images: int
    temperature: float
    shift: str = "none"

    @property
    def name(self) -> str:
        return f"{self.teacher}-{self.student}-{self.images}-t{self.temperature:g}-{self.shift}"


SETTINGS = [
    *(Setting(*fields) for fields in product(TEACHERS, STUDENTS, IMAGES, TEMPERATURES)),
    *(
        Setting(teacher, student, 4_000, temperature, shift)
        for teacher, student, temperature, shift in product(
            ("good", "smoothed"), ("small", "wide"), TEMPERATURES, SHIFTS[1:5]
        )
    ),
    *(Setting("good", "wide", 4_000, temperature, shift) for temperature, shift in product(TEMPERATURES, SHIFTS[5:])),
]


@dataclass(frozen=True)
class Grid:
    """The samples of every setting, from the train role of the pipeline's data, and the store."""

    work: Work
    host: Host
    images: Samples
    pool: Samples
    select: Samples
    held_out: Samples

    @classmethod
    def of(cls, store: Store, *, threads: int) -> "Grid":
        recipe = Recipe.load(RECIPE)
        data = recipe.data.load()
        bounds = np.cumsum([0, max(IMAGES), POOL, SELECT, HELD_OUT])
        parts = [data.train.take(np.arange(low, high)) for low, high in zip(bounds, bounds[1:], strict=False)]
        task = ImageClassification.of(data, augment=None)
        execution = Execution(threads=threads, precision="float32")
        host = Host(store=store, execution=execution, reporter=Reporter(quiet=True))
        return cls(Work(task, data, recipe.loss, seed=0), host, *parts)

    def data(self, images: int, shift: str) -> Data:
        train = self.images.take(np.arange(images))
        shifted = Samples(SHIFTED[shift](train.inputs), train.labels)
        none = train.take(np.arange(0))
        roles: dict[Role, Samples] = {"train": shifted, "select": self.select, "calibration": none, "test": none}
        return Data(roles, self.work.data.classes)


def _blur(images: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    edge = side // 2
    padded = np.pad(images.astype(np.float32), ((0, 0), (0, 0), (edge, edge), (edge, edge)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return windows.mean(axis=(-2, -1)).round().astype(np.uint8)


def _add_noise(images: NDArray[np.uint8], *, deviation: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


SHIFTED = {
    "none": lambda images: images,
    "inverted": lambda images: 255 - images,
    "rotated": lambda images: np.ascontiguousarray(np.rot90(images, axes=(2, 3))),
    "blurred": lambda images: _blur(images, side=5),
    "noisy": lambda images: _add_noise(images, deviation=60),
    "dimmed": lambda images: (images * 0.8).astype(np.uint8),
    "softened": lambda images: _blur(images, side=3),
    "grainy": lambda images: _add_noise(images, deviation=15),
}


def lesson_of(setting: Setting) -> Lesson:
    loss = GuidedLoss.model_validate(
        {"hard": {"weight": 0.1}, "kl": {"weight": 0.9, "temperature": setting.temperature}}
    )
    epochs = STEPS * BATCH // setting.images
    optimization = Optimization(epochs=epochs, batch_size=BATCH, learning_rate=0.1, weight_decay=1e-4)
    return Lesson("distill", loss, optimization, CACHE_LIMIT_GB)


def build(model: Cnn, work: Work, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build(work.task.signature, code=())


def teacher_of(setting: Setting, grid: Grid) -> Artifact:
    """Return the setting's teacher, from the store or trained now."""
    own = setting.teacher in ("memorised", "same")
    fields = {"teacher": setting.teacher, "pool": POOL, "grid": 2}
    if own:
        fields |= {"images": setting.images, "shift": setting.shift}
    if setting.teacher == "same":
        fields["student"] = setting.student
    model = STUDENTS[setting.student] if setting.teacher == "same" else LARGE
    work, host = grid.work, grid.host
    found = host.store.find(hash_values(fields))
    if found is not None:
        return found
    if setting.teacher == "sharp":
        module = load_model(teacher_of(replace(setting, teacher="good"), grid).path)
        with torch.no_grad():
            for value in module.get_submodule("head").parameters():
                value.mul_(SHARPENED)
    else:
        module = build(model, work, 700_001)
        samples = {"under": grid.pool.take(np.arange(UNDER)), "good": grid.pool, "smoothed": grid.pool}.get(
            setting.teacher, grid.data(setting.images, setting.shift).train
        )
        here = replace(work, data=replace(work.data, roles={**work.data.roles, "train": samples}))
        epochs = {
            "good": 5,
            "smoothed": 5,
            "under": 1,
            "memorised": 32_000 // setting.images,
            "same": 40_000 // setting.images,
        }
        optimization = Optimization(
            epochs=epochs[setting.teacher],
            batch_size=BATCH,
            learning_rate=0.1,
            weight_decay=0.0 if setting.teacher == "memorised" else 1e-4,
        )
        smoothed = setting.teacher == "smoothed"
        loss = GuidedLoss.model_validate({"kl": {"temperature": 1}} if smoothed else {"hard": {}})
        teaching = smooth(samples, len(work.task.classes)) if smoothed else None
        with tempfile.TemporaryDirectory() as checkpoints:
            fit(
                module,
                here.task,
                RoleLoader(here.task, samples, optimization, seed=700_001, views=lambda _epoch, _generator: None),
                host,
                loss=bind(loss, module, None, (), seed=0),
                teacher=teaching,
                optimization=optimization,
                seed=700_001,
                checkpoints=Path(checkpoints),
                name="",
            )

    def write(directory: Path) -> dict[str, object]:
        save_model(module, directory, model=model, signature=work.task.signature)
        return {}

    return host.store.commit(fields, kind="model", write=write)


def smooth(samples: Samples, classes: int) -> Teaching:
    """Return a teacher that knows the labels and spreads SMOOTHING evenly over all classes."""
    assert samples.labels is not None
    probabilities = torch.full((len(samples), classes), SMOOTHING / classes)
    probabilities[torch.arange(len(samples)), torch.from_numpy(samples.labels)] += 1 - SMOOTHING
    logits = probabilities.log()

    def says(batch: Batch) -> Taught:
        return Taught((logits[batch.index],))

    return says


@dataclass(frozen=True)
class Alone:
    """The student without a teacher: right decisions of its short runs on select, accuracies of its full ones."""

    half: list[NDArray[np.bool_]]
    short: list[NDArray[np.bool_]]
    accuracies: list[float]


def alone(setting: Setting, grid: Grid, work: Work, known: dict[tuple[str, int, str], Alone]) -> Alone:
    key, labels = (setting.student, setting.images, setting.shift), pilot.LABELS_ALONE
    if key not in known:
        known[key] = Alone(
            half=list(load_or_make(grid, "half", key, lambda: short_runs(setting, grid, work, labels, half=True))),
            short=list(load_or_make(grid, "short", key, lambda: short_runs(setting, grid, work, labels))),
            accuracies=load_or_make(
                grid, "accuracies", key, lambda: accuracies_of(setting, grid, work, labels)
            ).tolist(),
        )
    return known[key]


def load_or_make(grid: Grid, what: str, key: tuple[object, ...], make: Callable[[], object]) -> NDArray[np.generic]:
    """Return an array of the student alone from the store, where all settings with the same one share it."""
    name = f"alone-{'-'.join(map(str, key))}-{what}{'' if what == 'accuracies' else PILOT_STEPS}.npy"
    path = grid.host.store.root / name
    if not path.exists():
        np.save(path, np.asarray(make()))
    return np.load(path)


def short_runs(
    setting: Setting, grid: Grid, work: Work, loss: GuidedLoss, *, half: bool = False
) -> list[NDArray[np.bool_]]:
    schedule = pilot.short(lesson_of(setting), setting.images)
    schedule = pilot.half_of(schedule) if half else schedule
    students = (student_after(setting, grid, work, loss, schedule, seed) for seed in pilot.seeds())
    return [pilot.right(student, work, grid.host) for student in students]


def accuracies_of(setting: Setting, grid: Grid, work: Work, loss: GuidedLoss) -> list[float]:
    schedule = lesson_of(setting).optimization
    return [accuracy(student_after(setting, grid, work, loss, schedule, seed), grid) for seed in SEEDS]


def student_after(
    setting: Setting, grid: Grid, work: Work, loss: GuidedLoss, schedule: Optimization, seed: int
) -> nn.Module:
    def fresh(number: int | None) -> nn.Module:
        return build(STUDENTS[setting.student], work, number or 0)

    return pilot.train(lesson_of(setting), work, grid.host, fresh, loss=loss, schedule=schedule, seed=seed)


def accuracy(module: nn.Module, grid: Grid) -> float:
    task = grid.work.task
    return task.tally(predict(module, task, grid.host, grid.held_out).numpy(), grid.held_out).value


def run_cell(setting: Setting, grid: Grid, known: dict[tuple[str, int, str], Alone]) -> None:
    """Probe a setting, then train it; write its JSON. A cell of another pilot is tried again, and not retrained."""
    path = RESULTS / f"{setting.name}.json"
    earlier = json.loads(path.read_text()) if path.exists() else None
    if earlier is not None and earlier.get("pilot_steps") == PILOT_STEPS:
        return
    started_s = time.monotonic()
    teacher, lesson = teacher_of(setting, grid), lesson_of(setting)
    data = grid.data(setting.images, setting.shift)
    loss, epochs = lesson.loss, lesson.optimization.epochs
    work = replace(grid.work, data=data, teachers=(Member(teacher, grid.work.task),), loss=loss)
    first, module = alone(setting, grid, work, known), load_model(teacher.path)
    labels, says = grid.select.labels, predict(module, work.task, grid.host, grid.select).numpy()
    assert labels is not None
    schedule, right = pilot.short(lesson, setting.images), says.argmax(axis=1) == labels
    share, growth = schedule.epochs / epochs, schedule.epochs / pilot.half_of(schedule).epochs
    tried = [
        pilot.margin(first.short, right, share=share),
        pilot.margin_at_end(first.half, first.short, right, share=share, growth=growth),
        pilot.slope(first.short, short_runs(setting, grid, work, loss)),
    ]
    if earlier is None:
        rows = rows_of([*cheap(setting, grid, work, module), *tried])
        distilled = accuracies_of(setting, grid, work, loss)
    else:
        probes = {measure.probe for measure in tried}
        rows = [row for row in earlier["measures"] if row["probe"] not in probes] + rows_of(tried)
        distilled = earlier["distilled"]
    gains = [ours - rival for ours, rival in zip(distilled, first.accuracies, strict=True)]
    result = {
        "setting": asdict(setting),
        "measures": rows,
        "gains": gains,
        "alone": first.accuracies,
        "distilled": distilled,
        "teacher_accuracy": accuracy(module, grid),
        "steps": epochs * setting.images // BATCH,
        "pilot_steps": PILOT_STEPS,
        "held_out": len(grid.held_out),
        "seconds": round(time.monotonic() - started_s + (earlier["seconds"] if earlier else 0), 1),
        "environment": asdict(describe(seed=0)),
    }
    assert schedule.epochs * setting.images // BATCH == PILOT_STEPS
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{setting.name}: {100 * np.mean(gains):+.2f} points in {result['seconds']:.0f} s", flush=True)


def cheap(setting: Setting, grid: Grid, work: Work, teacher: nn.Module) -> list[Measure]:
    """Return what `compressor check` measures, and the pilot's capacity probe."""

    def fresh(seed: int | None) -> nn.Module:
        return build(STUDENTS[setting.student], work, seed or 0)

    loss, host = work.loss, grid.host
    student, few = fresh(0), replace(work, data=measures.draw_probe(work.data))
    train = measures.train_logits(few, host, loss, student, teacher)
    example = work.task.batch(work.data.select, torch.arange(2)).inputs
    return [
        *measures.shift(few.data, None),
        *measures.of_teacher(few, host, train, reference=None),
        *measures.capacity(student, teacher, example),
        *measures.softness(train, loss),
        *measures.pairing(loss, student, teacher, few, host),
        *measures.audit(loss, few, host, student=student, teacher=teacher),
        pilot.memorise(lesson_of(setting), work, host, fresh),
    ]


def rows_of(found: list[Measure]) -> list[dict[str, object]]:
    return [{"probe": one.probe, "subject": one.subject, "value": asdict(one.value)} for one in found]


def main() -> None:
    """Run the missing cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("compress-store"))
    parser.add_argument("--threads", type=int, default=count_allowed_cores())
    arguments = parser.parse_args()
    grid, known = Grid.of(Store.open(arguments.store), threads=arguments.threads), {}
    # Settings in the order of their hash: a grid cut short is a random part of the whole.
    for setting in sorted(SETTINGS, key=lambda one: hashlib.sha256(one.name.encode()).digest()):
        run_cell(setting, grid, known)


if __name__ == "__main__":
    main()
