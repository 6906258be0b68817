import importlib.util
import json
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "benchmarks" / "measures_scale.py"
spec = importlib.util.spec_from_file_location("benchmarks_measures_scale", SOURCE)
scale = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = scale  # where its dataclass looks for its module
spec.loader.exec_module(scale)


def test_it_writes_what_every_step_takes(tmp_path, monkeypatch):
    sizes = ["--samples", "50", "--classes", "5", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["measures_scale", *sizes, "--output", str(tmp_path)])
    scale.main()
    found = json.loads((tmp_path / "measures_scale.json").read_text())
    assert len(found["costs"]) == 8
    assert all(0 < entry["peak_bytes"] < 1e8 and len(entry["seconds"]) == 1 for entry in found["costs"])
    assert "| one class: all measures | 0." in (tmp_path / "measures_scale.md").read_text()
