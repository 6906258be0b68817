"""Make train.csv, calibration.csv, select.csv and test.csv of Debian's German-English dictionary, trans-de-en.

    apt install trans-de-en
    python pipelines/translation/prepare.py --source /usr/share/trans/de-en

A line of the dictionary is ``German :: English``; either side has forms between ``|``, and each of them alternatives
between ``;``. Forms and alternatives are paired in their order, what is left over on one side is dropped. What is in
brackets ({m}, [coll.], <other spelling>, (explanation)) is left out, and so are pairs of single words, unless
``--words 1`` asks for them. A sentence begins with a capital letter, ends with ``.``, ``!`` or ``?`` and has three
words or more on both sides; models are judged on sentences alone, and those of the judging roles, with everything that
has the same German text, are not in train. Every line and every pair is counted.
"""

import argparse
import csv
import io
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from compress.store.disk import write_atomically

HERE = Path(__file__).resolve().parent
BRACKETS = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<[^<>]*>|\([^()]*\)")
SENTENCE = re.compile(r"[A-ZÄÖÜ\"„“].*[.!?][\"“”]?")
SIZES = {"test": 2000, "select": 1000, "calibration": 256}  # sentences
MIN_WORDS = 3


def clean(text: str) -> str:
    """Return a text without what is in brackets; empty where brackets are left over."""
    before = None
    while text != before:
        before, text = text, BRACKETS.sub(" ", text)
    text = re.sub(r"\s+([,.!?])", r"\1", " ".join(text.split()))
    return "" if re.search(r"[{}\[\]<>()]", text) else text


def read(text: str) -> tuple[list[tuple[str, str]], int, int]:
    """Return different pairs in the dictionary's order, how many lines it has, and how many of them gave none."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[tuple[str, str], None] = {}
    empty = 0
    for line in lines:
        pairs = [*_pairs(line)]
        empty += not pairs
        found.update(dict.fromkeys(pairs))
    return [*found], len(lines), empty


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    german, _, english = line.partition("::")
    sides = [[form.split(";") for form in side.split("|")] for side in (german, english)]
    for ours, theirs in zip(*sides, strict=False):
        cleaned = [[text for text in map(clean, form) if text] for form in (ours, theirs)]
        yield from zip(*cleaned, strict=False)


def is_sentence(text: str) -> bool:
    """Whether a text looks like a whole sentence."""
    return SENTENCE.fullmatch(text) is not None and len(text.split()) >= MIN_WORDS


def assign(pairs: list[tuple[str, str]], *, seed: int, sizes: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of each role; roles share no German text.

    Args:
        pairs: German and English.
        seed: draws the sentences.
        sizes: German sentences of each role but train.
    """
    sentences = [*dict.fromkeys(german for german, english in pairs if is_sentence(german) and is_sentence(english))]
    drawn = iter(random.Random(seed).sample(sentences, sum(sizes.values())))
    role_of = {next(drawn): role for role, size in sizes.items() for _ in range(size)}
    roles: dict[str, list[tuple[str, str]]] = {"train": [], **{role: [] for role in sizes}}
    for german, english in pairs:
        role = role_of.get(german, "train")
        if role == "train" or is_sentence(english):
            roles[role].append((german, english))
    return roles


def main(arguments: list[str] | None = None) -> None:
    """Read, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/trans/de-en"), help="the dictionary")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the tables")
    parser.add_argument("--seed", type=int, default=0, help="draws the sentences that models are judged on")
    parser.add_argument("--words", type=int, default=2, help="that the longer side of a pair has at least")
    parser.add_argument(
        "--judged", type=int, nargs=3, default=[*SIZES.values()], metavar=("TEST", "SELECT", "CALIBRATION")
    )
    given = parser.parse_args(arguments)
    pairs, lines, empty = read(given.source.read_text("utf-8"))
    long = [pair for pair in pairs if max(len(text.split()) for text in pair) >= given.words]
    whole = sum(is_sentence(german) and is_sentence(english) for german, english in pairs)
    sys.stdout.write(
        f"{lines:,} lines, {empty:,} without a pair, {len(pairs):,} different pairs, {len(pairs) - len(long):,} "
        f"with fewer than {given.words} words, {whole:,} of sentences\n"
    )
    roles = assign(long, seed=given.seed, sizes=dict(zip(SIZES, given.judged, strict=True)))
    for role, rows in roles.items():
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["german", "english"])
        writer.writerows(rows)
        write_atomically(given.output / f"{role}.csv", file.getvalue())
    sys.stdout.write(", ".join(f"{role} {len(rows):,}" for role, rows in roles.items()) + "\n")


if __name__ == "__main__":
    main()
