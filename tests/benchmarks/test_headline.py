"""The README's first result is the one that `compressor run` wrote for its pipeline."""

import importlib.util
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "benchmarks" / "headline.py"
spec = importlib.util.spec_from_file_location("benchmarks_headline", SOURCE)
headline = importlib.util.module_from_spec(spec)
spec.loader.exec_module(headline)


def test_the_readme_says_what_the_pipelines_table_says():
    _, shown, _ = headline.around(headline.README.read_text(encoding="utf-8"))
    assert shown == f"\n{headline.headline(headline.SOURCE.read_text(encoding='utf-8'))}\n"
    assert all(f"| {name} |" in shown for name in headline.SHOWN.values())
