"""The result on the README's first screen, from the table that `compressor run` wrote for the spam pipeline.

    python benchmarks/headline.py

Run it after `compressor run pipelines/spam/recipe.yaml --readme pipelines/spam/README.md`; a test compares both.
"""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, README = ROOT / "pipelines" / "spam" / "README.md", ROOT / "README.md"
MARKERS = ("<!-- headline: written by `python benchmarks/headline.py`, do not edit -->", "<!-- end of headline -->")
SHOWN = {"teacher": "teacher", "teacher-dynamic": "teacher in int8 alone", "export": "what ships"}


def headline(result: str) -> str:
    """Return the lines for the README.

    Args:
        result: a Markdown file that holds the result of a run.
    """
    stages, _, verdict = result.partition("**Verdict (test, read once)**")
    rows = ["| | size | ms a call | accuracy on test, % |", "|---|---:|---:|---:|"]
    for name, shown in SHOWN.items():
        size, *_, latency, _ = _cells(stages, name)
        rows.append(f"| {shown} | {size} | {latency} | {_cells(verdict, name)[0]} |")
    (where,) = re.findall(r"^(ort-cpu-b1-t1; .*?\d{4}-\d\d-\d\d);", result, re.MULTILINE)
    (versions,) = re.findall(r"(onnxruntime [\d.]+)", result)
    (samples,) = re.findall(r"^data: .*?test ([\d,]+\d)", result, re.MULTILINE)
    told = f"Mail told apart from spam by a [fine-tuned MiniLM](pipelines/spam/README.md): {where}; {versions};"
    return "\n".join(["", *rows, "", f"{told} {samples} mails of test, 95% intervals.", ""])


def _cells(text: str, name: str) -> list[str]:
    """Return the cells of the first row of that name, without the name."""
    (row, *_) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", text, re.MULTILINE)
    return row.split(" | ")


def around(readme: str) -> tuple[str, str, str]:
    """Return what a README has before, between and after the markers."""
    before, begin, rest = readme.partition(MARKERS[0])
    between, end, after = rest.partition(MARKERS[1])
    return before + begin, between, end + after


def main() -> None:
    """Write the README's headline."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    before, _, after = around(README.read_text(encoding="utf-8"))
    lines = headline(SOURCE.read_text(encoding="utf-8"))
    README.write_text(f"{before}\n{lines}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
