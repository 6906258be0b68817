import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from compress.training.label import Label

SOURCE = Path(__file__).parents[2] / "benchmarks" / "pronunciation_ablation" / "run.py"
spec = importlib.util.spec_from_file_location("benchmarks_pronunciation_ablation", SOURCE)
assert spec is not None
ablation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ablation)

SAMPLES = 1000


def write_cells(folder: Path, greedy: dict[str, list[int]], *, beam_gain: int) -> None:
    """Cells whose first so many words are right greedily, by arm and seed, and some more with a beam."""
    for arm, several in greedy.items():
        for seed, right in enumerate(several):
            judged = {
                name: {
                    "word_error_test": 1 - count / SAMPLES,
                    "correct": ablation.pack(np.arange(SAMPLES) < count),
                    "ms_a_word": 1.0,
                }
                for name, count in (("greedy", right), ("beam", right + beam_gain + seed))
            }
            cell = {"arm": arm, "seed": seed, "samples": SAMPLES, "steps": 8, "precision": "float32", "threads": 1}
            cell |= {"label": None if ablation.ARMS[arm][1] is None else {"learnt": 77}, "seconds": 1.0, **judged}
            cell |= {"teacher_test": {"greedy": 0.3, "beam": 0.28}, "made_of": {"shared": {"words": 60, "epochs": 2}}}
            cell |= {"environment": {"cpu_model": "cpu", "versions": {"torch": "2"}, "date": "2026-01-01"}}
            (folder / f"{arm}-seed{seed}.json").write_text(json.dumps(cell))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    return tmp_path


def test_the_table_answers_what_the_arms_that_are_there_can_answer(results):
    greedy = {"alone": [399, 400, 401], "sequence": [460, 459, 461], "word": [395, 401, 400]}
    write_cells(results, greedy, beam_gain=9)
    lines = ablation.table().splitlines()
    assert lines[2] == "| teacher | 30.00 | 28.00 | -2.00 | | |"
    assert lines[3].startswith("| alone | 60.00, 0.10 | 59.00 | -1.00 [")
    (sequence,) = (line for line in lines if line.startswith("| Does sequence level help?"))
    assert "-6.00 [" in sequence
    assert sequence.endswith("| yes |")
    (word,) = (line for line in lines if line.startswith("| Does word level help?"))
    assert word.endswith("| cannot tell |")
    assert not any("rejection" in line for line in lines)


def test_a_grid_with_other_seeds_in_an_arm_is_refused(results):
    write_cells(results, {"alone": [400, 401], "word": [400, 401, 402]}, beam_gain=3)
    with pytest.raises(SystemExit, match="the grid is not whole"):
        ablation.table()


def test_labels_of_every_arm_are_those_of_the_presets_or_more():
    presets = {"sequence": "sequence", "interpolation": "sequence-interpolation", "rejection": "rejection"}
    from compress.training.label import PRESETS

    for arm, name in presets.items():
        assert ablation.ARMS[arm][1] == PRESETS[name]
    assert all(fields is None or Label.model_validate(fields) for _, fields in ablation.ARMS.values())
