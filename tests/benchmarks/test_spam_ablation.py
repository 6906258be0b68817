import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from compress.recipe import Recipe
from compress.stages.prune import Prune

SOURCE = Path(__file__).parents[2] / "benchmarks" / "spam_ablation" / "run.py"
spec = importlib.util.spec_from_file_location("benchmarks_spam_ablation", SOURCE)
ablation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ablation)

SAMPLES = 1000


def write_cells(folder: Path, accuracy: dict[str, list[int]], **changes) -> None:
    """Cells of arms whose first so many mails are right, by seed; ``changes`` are of the last arm."""
    for arm in ablation.ARMS:
        for seed, right in enumerate(accuracy[arm]):
            cell = {
                "arm": arm,
                "seed": seed,
                "accuracy_test": right / SAMPLES,
                "correct": ablation.pack(np.arange(SAMPLES) < right),
                "samples": SAMPLES,
                "steps": 8,
                "precision": "float32",
                "threads": 1,
                "seconds": 1.0,
                "made_of": {"shared": {"train": 64, "epochs": [1, 1], "loss": "abc"}},
                "environment": {"cpu_model": "cpu", "versions": {"torch": "2"}, "date": "2026-01-01"},
            }
            cell |= dict.fromkeys(("parameters", "macs", "teacher_parameters", "teacher_macs"), 1000)
            cell |= dict.fromkeys(("macro_f1_test", "teacher_agreement_test"), 0.5)
            cell |= dict.fromkeys(("teacher_accuracy_test", "teacher_macro_f1_test"), 0.5)
            cell |= changes if arm == ablation.ARMS[-1] else {}
            (folder / f"{arm}-seed{seed}.json").write_text(json.dumps(cell))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    return tmp_path


def scattered(middle: int) -> list[int]:
    return [middle - 1, middle, middle + 1]


def test_every_arm_is_asked_for_the_same_and_trains_as_long():
    recipe = Recipe.load(ablation.RECIPE)
    (asked,) = (stage.kept_macs_fraction for stage in recipe.stages if isinstance(stage, Prune))
    for arm in ablation.ARMS:
        stages = ablation.chain(arm, recipe, epochs=[2, 3])
        assert sum(getattr(stage, "epochs", 0) for stage in stages) == 5
        (prune,) = (stage for stage in stages if isinstance(stage, Prune))
        assert prune.kept_macs_fraction == asked
        Prune.model_validate(prune.model_dump())  # a changed copy is not checked by itself


def test_only_the_guided_arms_read_the_teacher():
    recipe = Recipe.load(ablation.RECIPE)
    for arm in ablation.ARMS:
        losses = [
            getattr(stage, "loss", None) or recipe.loss for stage in ablation.chain(arm, recipe, epochs=[1, 1])[1:]
        ]
        assert {loss.needs_teacher for loss in losses} == {arm not in ("labels", "prune-first")}


@pytest.mark.parametrize("samples", [1, 8, 13])
def test_correctness_survives_packing(samples):
    correct = np.random.default_rng(samples).random(samples) < 0.5
    assert np.array_equal(ablation.unpack(ablation.pack(correct), samples=samples), correct)


def test_the_table_tells_a_gap_from_noise(results):
    accuracy = {arm: scattered(900) for arm in ablation.ARMS} | {"labels": [700, 698, 702]}
    write_cells(results, accuracy)
    lines = ablation.table().splitlines()
    gap = next(line for line in lines if "(guided - labels)" in line)
    assert "+20.00" in gap
    assert gap.endswith("| yes |")
    # About 200 of 1,000 mails differ by one, the others by nothing: a deviation of 0.4, so 2.5 points either way.
    assert "[+17.5" in gap
    assert "cannot tell" in next(line for line in lines if "(guided - global)" in line)


@pytest.mark.parametrize(
    "changes", [{"steps": 9}, {"made_of": {"shared": {"train": 128}}}, {"seed": 5}], ids=["steps", "settings", "seeds"]
)
def test_cells_that_cannot_be_compared_are_refused(results, changes):
    write_cells(results, {arm: scattered(900) for arm in ablation.ARMS}, **changes)
    with pytest.raises(SystemExit, match="not whole"):
        ablation.table()
